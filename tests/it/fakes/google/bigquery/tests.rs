//! The fake holds what it promises.
