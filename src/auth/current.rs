//! The key set in force: how old it is, what it says of a key, and how the next one takes its
//! place. Does not know when to fetch, nor who waits. Logs each change once.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::key::KeyHash;
use super::keyset::KeySet;
use super::own_key::OwnKey;
use super::refused::Refused;
use super::source::Fetched;
use super::{Principal, Who};
use crate::error::{Code, Error};
use crate::google::Fault;

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
    own_keys: Vec<OwnKey>,
    /// Whether entries may have token budgets.
    holds_budgets: bool,
    snapshot: RwLock<Option<Snapshot>>,
    refused: Mutex<Refused>,
    /// Why the last fetch failed; `None` after a good one.
    failure: Mutex<Option<String>>,
    failures: AtomicU64,
}

/// What a fetch brought.
pub(super) enum Brought {
    /// The newest set; it is in force.
    Newest,
    /// A version below the one in force, in words. It is ignored: `latest` may lag behind on some
    /// of Google's machines, and must not bring back keys that were taken out. Nor does it confirm
    /// the set in force.
    Older(String),
}

#[derive(Clone)]
struct Snapshot {
    set: Arc<KeySet>,
    /// Of the secret's version; a file has none.
    number: Option<u64>,
    /// When the fetch of it began: what it says may be as old as that.
    asked_at: Instant,
    /// When its answer came.
    confirmed_at: SystemTime,
}

impl Current {
    pub fn new(
        refresh: Duration,
        max_stale: Duration,
        own_keys: Vec<OwnKey>,
        holds_budgets: bool,
    ) -> Self {
        Self {
            refresh,
            max_stale,
            own_keys,
            holds_budgets,
            snapshot: RwLock::default(),
            refused: Mutex::default(),
            failure: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// The set and its age as a duration.
    pub fn set(&self) -> Option<(Arc<KeySet>, Duration)> {
        let snapshot = self.snapshot();
        snapshot
            .as_ref()
            .map(|held| (Arc::clone(&held.set), held.asked_at.elapsed()))
    }

    /// When a fetch last brought or confirmed the set in force.
    pub fn confirmed_at(&self) -> Option<SystemTime> {
        let snapshot = self.snapshot();
        snapshot.as_ref().map(|held| held.confirmed_at)
    }

    pub fn age(&self) -> Age {
        let snapshot = self.snapshot();
        snapshot
            .as_ref()
            .map_or(Age::Absent, |held| self.age_of(held))
    }

    /// Who shows the key of this hash, as of `now`, and how old the answer is; `None` for unknown.
    pub fn look(&self, hash: &KeyHash, now: SystemTime) -> (Age, Option<Result<Principal, Error>>) {
        let snapshot = self.snapshot();
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
                who: Who::Service(Arc::clone(&held.entry)),
                key_id: Some(Arc::clone(&held.key_id)),
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

    /// Takes what was fetched as the set in force, if it is one and no older than that.
    ///
    /// A version's payload never changes, so the same number only confirms the set.
    pub fn install(
        &self,
        fetched: &Fetched,
        asked_at: Instant,
        place: &str,
    ) -> Result<Brought, Fault> {
        let held = self.snapshot().clone();
        let older = held.as_ref().map(|held| &*held.set);
        let held_number = held.as_ref().and_then(|held| held.number);
        let place = &match fetched.number {
            Some(number) => format!("version {number} of {place}"),
            None => place.to_owned(),
        };
        if let (Some(number), Some(in_force)) = (fetched.number, held_number) {
            match number.cmp(&in_force) {
                Less => {
                    return Ok(Brought::Older(format!(
                        "{place} was served, which is older than version {in_force} in force and is ignored; if the secret was deleted and made anew, restart the gateway"
                    )));
                }
                Equal => return Ok(self.confirm(asked_at)),
                Greater => {}
            }
        }
        let mut next = KeySet::parse(&fetched.content, older, self.holds_budgets)
            .map_err(|fault| Fault::permanent(format!("the key set in {place} {fault}")))?;
        if let Some(number) = fetched.number {
            next = next.numbered(number);
        }
        if older.is_some_and(|older| older.version() == next.version()) {
            return Ok(self.confirm(asked_at));
        }
        tell_of_change(&next, older, fetched, place);
        for own_key in &self.own_keys {
            own_key.judge(&next);
        }
        *self.snapshot_mut() = Some(Snapshot {
            set: Arc::new(next),
            number: fetched.number,
            asked_at,
            confirmed_at: SystemTime::now(),
        });
        self.refused().clear();
        Ok(Brought::Newest)
    }

    fn confirm(&self, asked_at: Instant) -> Brought {
        if let Some(held) = &mut *self.snapshot_mut() {
            held.asked_at = asked_at;
            held.confirmed_at = SystemTime::now();
        }
        Brought::Newest
    }

    /// Notes how a fetch ended; trouble is told of when it is new, and when it is over. Not so a
    /// permanent fault of the first fetch: it ends the start, which tells why.
    pub fn note_end(&self, outcome: &Result<Brought, Fault>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = match outcome {
            Ok(Brought::Newest) => {
                if failure.take().is_some() {
                    info!("keys can be loaded again");
                }
                return;
            }
            Ok(Brought::Older(text)) => text,
            Err(fault) => &fault.text,
        };
        let failures_before = self.failures.fetch_add(1, Ordering::Relaxed);
        let ends_start = failures_before == 0
            && self.age() == Age::Absent
            && outcome.as_ref().is_err_and(|fault| fault.permanent);
        if failure.as_ref() != Some(cause) && !ends_start {
            error!(%cause, "keys could not be loaded; the key set loaded before, if any, stays in force for now");
        }
        *failure = Some(cause.clone());
    }

    /// How many fetches neither brought nor confirmed a set.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
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

    fn snapshot(&self) -> RwLockReadGuard<'_, Option<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot_mut(&self) -> RwLockWriteGuard<'_, Option<Snapshot>> {
        self.snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner)
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
