//! The key set in force: how old it is, what it says of a key, and how the next one takes its
//! place. Does not know when to fetch, nor who waits. Logs each change once.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Principal;
use super::key::KeyHash;
use super::keyset::KeySet;
use super::refused::Refused;
use super::source::{Fault, Fetched};
use crate::error::{Code, Error};

/// Payloads beyond this fit no secret of Google's Secret Manager.
const LARGE_PAYLOAD_BYTES: usize = 64 * 1024;
/// How many entries that were left out are named in the log, per set.
const MOST_NAMED: usize = 50;

/// How old the key set is, against the refresh interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Nothing was loaded yet.
    Absent,
    /// Below half of the interval.
    Fresh,
    /// Below the interval: to be refreshed beside a request.
    Due,
    /// Older: a request waits for the refresh.
    Old,
}

/// The key set in force and the hashes that it was found not to hold.
pub(super) struct Current {
    refresh: Duration,
    max_stale: Duration,
    snapshot: RwLock<Option<Snapshot>>,
    refused: Mutex<Refused>,
    /// Why the last fetch failed; `None` after a good one.
    failure: Mutex<Option<String>>,
}

#[derive(Clone)]
struct Snapshot {
    set: Arc<KeySet>,
    /// When the fetch of it began: what it says may be as old as that.
    asked_at: Instant,
}

impl Current {
    pub fn new(refresh: Duration, max_stale: Duration) -> Self {
        Self {
            refresh,
            max_stale,
            snapshot: RwLock::default(),
            refused: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// The set and its age as a duration.
    pub fn set(&self) -> Option<(Arc<KeySet>, Duration)> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot
            .as_ref()
            .map(|held| (Arc::clone(&held.set), held.asked_at.elapsed()))
    }

    pub fn age(&self) -> Age {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot
            .as_ref()
            .map_or(Age::Absent, |held| self.age_of(held))
    }

    /// Who shows the key of this hash, as of `now`, and how old the answer is; `None` for unknown.
    pub fn look(&self, hash: &KeyHash, now: SystemTime) -> (Age, Option<Result<Principal, Error>>) {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = snapshot.as_ref() else {
            return (Age::Absent, None);
        };
        let found = snapshot.set.find(hash).map(|held| {
            if held.is_expired(now) {
                return Err(Error::new(
                    Code::InvalidApiKey,
                    "this API key has expired; ask whoever issued it for a new one",
                ));
            }
            held.entry.mark_used(now);
            Ok(Principal {
                entry: Arc::clone(&held.entry),
                key_id: Arc::clone(&held.key_id),
            })
        });
        (self.age_of(snapshot), found)
    }

    fn age_of(&self, snapshot: &Snapshot) -> Age {
        match snapshot.asked_at.elapsed() {
            age if age < self.refresh / 2 => Age::Fresh,
            age if age < self.refresh => Age::Due,
            _ => Age::Old,
        }
    }

    /// Whether there is a set that may still be used.
    ///
    /// # Errors
    /// `not_ready`: no set was loaded, or it is too old.
    pub fn check_usable(&self) -> Result<(), Error> {
        const COME_AGAIN: Duration = Duration::from_secs(2);
        let words = match self.set() {
            None => "the API keys are not loaded yet; please try again in a few seconds",
            Some((_, age)) if age > self.max_stale => {
                "the API keys could not be refreshed for too long, so none is accepted for now; please try again later"
            }
            Some(_) => return Ok(()),
        };
        Err(Error::new(Code::NotReady, words).retry_after(COME_AGAIN))
    }

    /// Takes what was fetched as the set in force, if it is one.
    pub fn install(&self, fetched: &Fetched, asked_at: Instant, place: &str) -> Result<(), Fault> {
        let older = self.set().map(|(set, _)| set);
        let next = KeySet::parse(&fetched.content, older.as_deref()).map_err(|fault| Fault {
            permanent: true,
            text: format!("the key set in {place} {fault}"),
        })?;
        if older
            .as_ref()
            .is_some_and(|older| older.version() == next.version())
        {
            if let Some(held) = &mut *self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner)
            {
                held.asked_at = asked_at;
            }
            return Ok(());
        }
        tell_of_change(&next, older.as_deref(), fetched, place);
        let snapshot = Snapshot {
            set: Arc::new(next),
            asked_at,
        };
        *self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        self.refused().clear();
        Ok(())
    }

    /// Notes how a fetch ended; a fault is told of when it is a new one, and when it is over.
    pub fn note_end(&self, outcome: &Result<(), Fault>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) if failure.take().is_some() => info!("keys can be loaded again"),
            Ok(()) => {}
            Err(fault) if failure.as_ref() == Some(&fault.text) => {}
            Err(fault) => {
                error!(cause = %fault.text, "keys could not be loaded; the key set loaded before, if any, stays in force for now");
                *failure = Some(fault.text.clone());
            }
        }
    }

    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn is_refused(&self, hash: &KeyHash) -> bool {
        self.refused().holds(hash, Instant::now())
    }

    pub fn refuse(&self, hash: KeyHash) {
        self.refused().insert(hash, Instant::now());
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_of_change(next: &KeySet, older: Option<&KeySet>, fetched: &Fetched, place: &str) {
    info!(
        version = next.version(),
        keys = next.len(),
        added = next.count_beyond(older),
        removed = older.map_or(0, |older| older.count_beyond(Some(next))),
        rejected = next.rejected.len(),
        place,
        "key set loaded"
    );
    for left_out in next.rejected.iter().take(MOST_NAMED) {
        warn!(name = %left_out.name, reason = %left_out.reason, "an entry of the key set is left out");
    }
    if next.rejected.len() > MOST_NAMED {
        warn!(
            more = next.rejected.len() - MOST_NAMED,
            "more entries of the key set are left out"
        );
    }
    if fetched.content.len() > LARGE_PAYLOAD_BYTES {
        warn!(
            payload_bytes = fetched.content.len(),
            "the key set is large; Secret Manager would not hold it"
        );
    }
    if fetched.missing {
        warn!(
            "there is no keys file, so no key is accepted; make one with: tollgate keys add NAME --file {place}"
        );
    }
}
