//! Keys and their hashes. Pure.

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub(super) [u8; 32]);

/// A key in clear; exists between generation and the one print of it.
pub struct ApiKey(pub(super) String);
