//! The key set: JSON of the keys file or secret, checked entry by entry. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Semaphore;

/// One entry of a key set.
pub struct KeyEntry {
    pub name: Arc<str>,
    pub admin: bool,
    /// Model ids (or aliases) the key may call; `None` for all.
    pub models: Option<Vec<String>>,
    /// Calls in flight at once in this instance.
    pub concurrency: Option<Arc<Semaphore>>,
    pub labels: Vec<(String, String)>,
    pub expires_at: Option<SystemTime>,
}

/// An entry that was left out, and why; never the key.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub name: String,
    pub reason: String,
}

/// A parsed key set.
pub struct KeySet {
    pub rejected: Vec<Rejected>,
}
