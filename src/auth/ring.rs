//! The key ring: the current key set and its refreshing. Knows headers and time, and neither
//! routes nor what a principal may do. Nothing here depends on a timer: what is overdue is done
//! beside the next request.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::current::{Age, Current};
use super::fetch::Fetches;
use super::key::{KeyHash, MIN_KEY_CHARS};
use super::keyset::KeyEntry;
use super::own_key::OwnKey;
use super::source::Source;
use super::{Principal, Rejected};
use crate::config::{KeysConfig, KeysSource};
use crate::error::{Code, Error};
use crate::google::{Google, Secrets};

/// The loaded key set and its refreshing.
pub struct KeyRing {
    fetches: Fetches,
}

/// What a reload did.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Number of entries in force.
    pub keys_loaded: usize,
    pub version: String,
    /// Keys (a previous one counts as one of its own) that were not in force before.
    pub added: usize,
    /// Keys that are no longer in force.
    pub removed: usize,
    pub rejected: Vec<Rejected>,
}

/// What the ring knows of itself; never a key.
#[derive(Clone, Debug)]
pub struct RingStatus {
    pub keys_loaded: usize,
    /// The file or secret that keys come from.
    pub source: String,
    /// `None` until a set was loaded.
    pub version: Option<String>,
    /// Since the source was asked for the set in force.
    pub age: Option<Duration>,
    /// When a fetch last brought or confirmed the set in force.
    pub confirmed_at: Option<SystemTime>,
    /// Fetches that did neither.
    pub fetches_failed: u64,
    pub rejected: Vec<Rejected>,
    /// Why the last fetch failed, for admins; `None` after a good one.
    pub failure: Option<String>,
}

impl KeyRing {
    /// A ring without keys; [`KeyRing::load`] brings the first set. Each set is held against
    /// `own_keys`; entries with a token budget are left out unless there is what `holds_budgets`.
    #[must_use]
    pub fn new(
        config: &KeysConfig,
        google: &Arc<Google>,
        own_keys: Vec<OwnKey>,
        holds_budgets: bool,
    ) -> Self {
        let source = match &config.source {
            KeysSource::File { path, explicit } => Source::file(path.clone(), *explicit),
            KeysSource::Secret(secret) => {
                Source::secret(secret.clone(), Secrets::new(Arc::clone(google)))
            }
        };
        Self::over(
            source,
            Current::new(config.refresh, config.max_stale, own_keys, holds_budgets),
        )
    }

    fn over(source: Source, current: Current) -> Self {
        Self {
            fetches: Fetches::new(source, current),
        }
    }

    /// Loads the first set; called once at start, before the listener is bound. A fault that may
    /// pass is no error: requests then wait for the first set.
    ///
    /// # Errors
    /// Permanent faults, in words.
    pub async fn load(&self) -> anyhow::Result<()> {
        match self.fetches.fetch_anew().await {
            Err(fault) if fault.permanent => Err(anyhow::anyhow!(fault.text)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whose key this is, if the loaded set holds it, however old the set is.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        let hash = KeyHash::of(key);
        self.current().look(&hash, SystemTime::now()).1.is_some()
    }

    /// Who shows this key. With a fresh set: one hash and one look-up.
    ///
    /// # Errors
    /// `invalid_api_key`, `not_ready`.
    pub async fn identify(&self, key: &str) -> Result<Principal, Error> {
        if key.len() < MIN_KEY_CHARS {
            return Err(unknown_key());
        }
        let hash = KeyHash::of(key);
        let (age, found) = self.current().look(&hash, SystemTime::now());
        match (age, found) {
            (Age::Fresh, Some(known)) => known,
            _ if key.chars().count() < MIN_KEY_CHARS => Err(unknown_key()),
            _ => self.identify_slowly(hash).await,
        }
    }

    /// The set is not fresh, or does not hold the key.
    async fn identify_slowly(&self, hash: KeyHash) -> Result<Principal, Error> {
        let seen = self.fetches.begun();
        match self.current().age() {
            Age::Fresh => {}
            Age::Due => self.fetches.refresh_beside(),
            Age::Old => self.fetches.await_refresh().await,
            Age::Absent => self.fetches.await_first().await,
        }
        self.current().check_usable()?;
        if let (_, Some(known)) = self.current().look(&hash, SystemTime::now()) {
            return known;
        }
        if !self.current().is_refused(&hash) {
            self.fetches.await_early_refresh(&hash, seen).await;
            self.current().check_usable()?;
            if let (_, Some(known)) = self.current().look(&hash, SystemTime::now()) {
                return known;
            }
            self.current().refuse(hash);
        }
        Err(unknown_key())
    }

    /// Fetches the set now. Callers share fetches, but never one that began before they came: its
    /// answer may be older than the change they know of.
    ///
    /// # Errors
    /// `reload_failed`; the old set stays.
    pub async fn reload(&self) -> Result<Reload, Error> {
        let failed = || {
            Error::new(
                Code::ReloadFailed,
                "the keys could not be loaded; those loaded before stay in force",
            )
        };
        let before = self.current().set().map(|(set, _)| set);
        self.fetches
            .fetch_anew()
            .await
            .map_err(|fault| failed().because(fault.text))?;
        let (after, _) = self.current().set().ok_or_else(failed)?;
        Ok(Reload {
            keys_loaded: after.len(),
            version: after.version().to_owned(),
            added: after.count_beyond(before.as_deref()),
            removed: before.map_or(0, |before| before.count_beyond(Some(&after))),
            rejected: after.rejected.clone(),
        })
    }

    /// Whether a set was loaded.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.current().age() != Age::Absent
    }

    /// Has the set fetched, unless that is under way or failed just now.
    pub fn fetch_beside(&self) {
        self.fetches.refresh_beside();
    }

    /// Counts, version and age of the set in force, for `/admin/status`.
    #[must_use]
    pub fn status(&self) -> RingStatus {
        let (set, age) = self.current().set().unzip();
        RingStatus {
            keys_loaded: set.as_ref().map_or(0, |set| set.len()),
            source: self.fetches.source(),
            version: set.as_ref().map(|set| set.version().to_owned()),
            age,
            confirmed_at: self.current().confirmed_at(),
            fetches_failed: self.current().failures(),
            rejected: set.map_or_else(Vec::new, |set| set.rejected.clone()),
            failure: self.current().failure(),
        }
    }

    /// The entries in force, in the order of the payload, for `/admin/keys`.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<KeyEntry>> {
        self.current()
            .set()
            .map_or_else(Vec::new, |(set, _)| set.entries().to_vec())
    }

    /// Ends the fetch that may be under way and waits for its task; none begins afterwards.
    pub async fn close(&self) {
        self.fetches.close().await;
    }

    fn current(&self) -> &Current {
        self.fetches.current()
    }
}

fn unknown_key() -> Error {
    Error::new(
        Code::InvalidApiKey,
        "this API key is not known here; check it, or ask whoever runs this gateway for one",
    )
}

#[cfg(test)]
mod tests;
