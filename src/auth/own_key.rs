//! The key that the gateway itself shows to model servers, held against each new key set: a client's
//! key is never shown there. Does not know what it is sent with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::key::KeyHash;
use super::keyset::KeySet;

/// The hash of that key, and what the key set in force says of it.
pub struct OwnKey {
    hash: KeyHash,
    is_apart: Arc<AtomicBool>,
}

impl OwnKey {
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self {
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
            warn!("VLLM_API_KEY is a client's key of this gateway; it is not sent upstream");
        }
    }
}
