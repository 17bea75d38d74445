//! The verbs of the program. Only these modules print.

pub mod keys;
