//! The key ring: the current key set, its age, and how it is refreshed.

use std::time::Duration;

use http::HeaderMap;

use super::{Principal, Rejected};
use crate::config::KeysConfig;
use crate::error::Error;

/// The loaded key set and its refreshing.
pub struct KeyRing {}

/// What a reload did.
pub struct Reload {
    pub keys_loaded: usize,
    pub version: String,
    pub added: usize,
    pub removed: usize,
    pub rejected: Vec<Rejected>,
}

/// What the ring knows of itself; never a key.
pub struct RingStatus {
    pub keys_loaded: usize,
    pub version: Option<String>,
    pub age: Option<Duration>,
    pub rejected: Vec<Rejected>,
}

impl KeyRing {
    #[must_use]
    pub fn new(_config: &KeysConfig) -> Self {
        Self {}
    }

    /// Loads the first set; called once at start, before the listener is bound.
    ///
    /// # Errors
    /// Permanent faults, in words.
    pub async fn load(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// `missing_api_key`, `invalid_api_key`, `not_ready`.
    pub async fn identify(&self, _headers: &HeaderMap) -> Result<Principal, Error> {
        unimplemented!()
    }

    /// Fetches the set now.
    ///
    /// # Errors
    /// `reload_failed`; the old set stays.
    pub async fn reload(&self) -> Result<Reload, Error> {
        unimplemented!()
    }

    /// Whether a set was loaded.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        false
    }

    #[must_use]
    pub fn status(&self) -> RingStatus {
        unimplemented!()
    }
}
