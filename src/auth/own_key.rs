//! The keys that the gateway itself shows to model servers, held against each new key set: a client's
//! key is never shown there. Does not know which server is shown which, nor what it is sent with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::key::KeyHash;
use super::keyset::KeySet;

/// The hash of one such key, and what the key set in force says of it.
pub struct OwnKey {
    /// The variable that holds it.
    name: String,
    hash: KeyHash,
    is_apart: Arc<AtomicBool>,
}

impl OwnKey {
    /// The key that the variable `name` holds.
    #[must_use]
    pub fn of(name: &str, key: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: KeyHash::of(key),
            is_apart: Arc::default(),
        }
    }

    /// Whether the key may be shown, from now on: false until a key set is in force that does not
    /// hold it.
    #[must_use]
    pub fn is_apart(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_apart)
    }

    pub(super) fn judge(&self, set: &KeySet) {
        let is_apart = set.find(&self.hash).is_none();
        self.is_apart.store(is_apart, Ordering::Relaxed);
        if !is_apart {
            warn!(
                "{} is a client's key of this gateway; it is not sent upstream",
                self.name
            );
        }
    }
}
