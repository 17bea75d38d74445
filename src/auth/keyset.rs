//! The key set: every entry of a payload, checked; faulty ones left out with a reason. Pure; knows
//! neither where the payload came from nor how old it is. No reason and no name shown is a key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

use super::entry::{Draft, Fields, is_plain, read_entry};
use super::key::{KeyHash, content_version};
use super::payload::{Payload, PayloadFault};
use crate::budget::{Allowance, MinuteLimits};

const MAX_NAME_CHARS: usize = 128;

/// One entry of a key set; holds neither a key nor a whole hash.
#[derive(Debug)]
pub struct KeyEntry {
    pub name: Arc<str>,
    /// First 12 hex digits of the hash of the current key.
    pub key_id: Arc<str>,
    /// Keys that were rotated out and may still work for a while.
    pub previous: Vec<PreviousKey>,
    pub admin: bool,
    /// Model ids (or aliases) the key may call; `None` for all, empty for none.
    pub models: Option<Vec<String>>,
    /// Calls in flight at once in this instance, by configuration.
    pub max_concurrent: Option<usize>,
    /// The permits of `max_concurrent`; outlives reloads that keep name and maximum.
    pub concurrency: Option<Arc<Semaphore>>,
    /// Whose tokens the key's calls count as; rotating the key keeps it.
    pub allowance: Allowance,
    /// Limits per minute in this instance; outlive reloads that keep name and limits.
    pub minute: Option<Arc<MinuteLimits>>,
    /// The key may wake a cold upstream.
    pub wake: bool,
    /// Shared with the rows of the key's calls.
    pub labels: Arc<[(String, String)]>,
    pub expires_at: Option<SystemTime>,
    last_used_ms: Arc<AtomicU64>,
}

/// A key of an entry that is no longer the current one.
#[derive(Clone, Debug)]
pub struct PreviousKey {
    /// First 12 hex digits of its hash.
    pub key_id: Arc<str>,
    /// When it stops working; `None` for never.
    pub expires_at: Option<SystemTime>,
}

impl KeyEntry {
    /// When a request last showed a key of this entry to this instance; survives reloads.
    #[must_use]
    pub fn last_used(&self) -> Option<SystemTime> {
        let ms = self.last_used_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(ms))
    }

    pub(super) fn mark_used(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_used_ms.store(
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }
}

/// An entry that was left out, and why; never the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub name: String,
    pub reason: String,
}

/// A parsed key set.
pub struct KeySet {
    entries: Vec<Arc<KeyEntry>>,
    /// Look-up by hash needs no constant time of its own: who times it learns something of the
    /// SHA-256 of a guess, which tells nothing of the hash of a key that is not yet known. The
    /// final comparison, in `KeyHash`, is constant-time all the same.
    by_hash: HashMap<KeyHash, HeldKey>,
    version: String,
    pub rejected: Vec<Rejected>,
}

/// A key of the set, current or previous.
pub(super) struct HeldKey {
    pub entry: Arc<KeyEntry>,
    pub key_id: Arc<str>,
    /// The earlier of the entry's end and the key's own.
    expires_at: Option<SystemTime>,
}

impl HeldKey {
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

impl KeySet {
    /// Reads a payload. Permits, minutes and last uses go over from `older` for entries of the same
    /// name.
    ///
    /// Entries that share a name or a key are all left out: which of them was meant is unknown. So
    /// are those with a token budget unless there is what `holds_budgets`.
    ///
    /// # Errors
    /// The payload is no JSON object or beyond the bounds; single bad entries are no error.
    pub fn parse(
        content: &[u8],
        older: Option<&Self>,
        holds_budgets: bool,
    ) -> Result<Self, PayloadFault> {
        let payload = Payload::parse(content)?;
        let drafts: Vec<(&str, Draft)> = payload
            .entries
            .iter()
            .map(|(name, raw)| (name.as_str(), read_entry(raw)))
            .collect();
        let claims = Claims::of(&drafts);
        let inherited: HashMap<&str, &KeyEntry> = older
            .iter()
            .flat_map(|set| &set.entries)
            .map(|entry| (&*entry.name, &**entry))
            .collect();
        let mut set = Self {
            entries: Vec::new(),
            by_hash: HashMap::new(),
            version: content_version(content),
            rejected: Vec::new(),
        };
        let mut told = HashSet::new();
        for (place, (name, draft)) in drafts.into_iter().enumerate() {
            let checked = claims.check(name, draft);
            match checked.and_then(|fields| check_budget(fields, holds_budgets)) {
                Ok(fields) => set.add(name, fields, inherited.get(name).copied()),
                // Equal names are told of once.
                Err(reason) if told.insert(name) => {
                    set.rejected.push(Rejected {
                        name: claims.show(name, place),
                        reason,
                    });
                }
                Err(_) => {}
            }
        }
        Ok(set)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the set has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The set under the number that its source gives it.
    pub(super) fn numbered(self, number: u64) -> Self {
        Self {
            version: number.to_string(),
            ..self
        }
    }

    /// The number of the secret's version; of a file, the first 12 hex digits of its SHA-256.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The entries in the order of the payload.
    #[must_use]
    pub fn entries(&self) -> &[Arc<KeyEntry>] {
        &self.entries
    }

    pub(super) fn find(&self, hash: &KeyHash) -> Option<&HeldKey> {
        self.by_hash.get(hash)
    }

    /// How many keys of this set are not in the other.
    pub(super) fn count_beyond(&self, other: Option<&Self>) -> usize {
        let known = |hash: &KeyHash| other.is_some_and(|set| set.by_hash.contains_key(hash));
        self.by_hash.keys().filter(|hash| !known(hash)).count()
    }

    fn add(&mut self, name: &str, fields: Fields, older: Option<&KeyEntry>) {
        let Some(current) = fields.current else {
            return;
        };
        let id_of = |hash: &KeyHash| Arc::<str>::from(hash.key_id());
        let concurrency = concurrency(&fields, older);
        let minute = minute(&fields, older);
        let entry = Arc::new(KeyEntry {
            name: name.into(),
            key_id: id_of(&current),
            previous: fields
                .previous
                .iter()
                .map(|(hash, end)| PreviousKey {
                    key_id: id_of(hash),
                    expires_at: *end,
                })
                .collect(),
            admin: fields.admin,
            models: fields.models,
            max_concurrent: fields.max_concurrent,
            concurrency,
            allowance: Allowance {
                owner: format!("service:{name}").into(),
                limit: fields.token_limit,
                period: fields.period,
                dry_run: fields.dry_run,
            },
            minute,
            wake: fields.wake,
            labels: fields.labels.into(),
            expires_at: fields.expires_at,
            last_used_ms: older
                .map(|entry| Arc::clone(&entry.last_used_ms))
                .unwrap_or_default(),
        });
        let hold = |key_id: &Arc<str>, end: Option<SystemTime>| HeldKey {
            entry: Arc::clone(&entry),
            key_id: Arc::clone(key_id),
            expires_at: [fields.expires_at, end].into_iter().flatten().min(),
        };
        self.by_hash.insert(current, hold(&entry.key_id, None));
        for ((hash, end), shown) in fields.previous.iter().zip(&entry.previous) {
            self.by_hash.insert(*hash, hold(&shown.key_id, *end));
        }
        self.entries.push(entry);
    }
}

/// The permits of before if their number is the same, else new ones.
fn concurrency(fields: &Fields, older: Option<&KeyEntry>) -> Option<Arc<Semaphore>> {
    let maximum = fields.max_concurrent?;
    let kept = older.filter(|entry| entry.max_concurrent == Some(maximum));
    let kept = kept.and_then(|entry| entry.concurrency.clone());
    Some(kept.unwrap_or_else(|| Arc::new(Semaphore::new(maximum))))
}

/// The minute of before if both limits are the same, else a new one.
fn minute(fields: &Fields, older: Option<&KeyEntry>) -> Option<Arc<MinuteLimits>> {
    let (requests, tokens) = (fields.requests_per_minute, fields.tokens_per_minute);
    if requests.is_none() && tokens.is_none() {
        return None;
    }
    let kept = older.and_then(|entry| entry.minute.clone());
    let kept = kept.filter(|minute| (minute.requests, minute.tokens) == (requests, tokens));
    Some(kept.unwrap_or_else(|| Arc::new(MinuteLimits::new(requests, tokens))))
}

/// A limit that nothing holds would be a promise broken in silence.
fn check_budget(fields: Fields, holds_budgets: bool) -> Result<Fields, String> {
    if fields.token_limit.is_some() && !holds_budgets {
        return Err(
            "has a `token_limit`, which nothing here can hold: DATABASE_URL must name a database, on Cloud Run one that all instances share"
                .to_owned(),
        );
    }
    Ok(fields)
}

/// Which names and keys a payload uses, and how often.
struct Claims {
    names: HashMap<String, usize>,
    hashes: HashMap<KeyHash, usize>,
}

impl Claims {
    fn of(drafts: &[(&str, Draft)]) -> Self {
        let mut claims = Self {
            names: HashMap::new(),
            hashes: HashMap::new(),
        };
        for (name, draft) in drafts {
            *claims.names.entry((*name).to_owned()).or_default() += 1;
            for hash in &draft.claims {
                *claims.hashes.entry(*hash).or_default() += 1;
            }
        }
        claims
    }

    /// The fields of an entry that has no fault of its own or beside the others.
    fn check(&self, name: &str, draft: Draft) -> Result<Fields, String> {
        if self.is_key(name) {
            return Err(
                "its name is or looks like a key; name and key may have changed places".to_owned(),
            );
        }
        if !is_plain(name, MAX_NAME_CHARS) {
            return Err("its name is empty, longer than a hundred and twenty-eight characters, or has control characters".to_owned());
        }
        if self.names.get(name).is_some_and(|count| *count > 1) {
            return Err("its name stands more than once".to_owned());
        }
        let fields = draft.outcome?;
        let own: HashSet<&KeyHash> = draft.claims.iter().collect();
        if own.len() < draft.claims.len() {
            return Err("the same key stands twice in it".to_owned());
        }
        if draft
            .claims
            .iter()
            .any(|hash| self.hashes.get(hash).is_some_and(|count| *count > 1))
        {
            return Err("its key stands under another name too".to_owned());
        }
        Ok(fields)
    }

    /// Names go into logs and rows, so nothing that may be a key can be one.
    fn is_key(&self, name: &str) -> bool {
        const GENERATED_CHARS: usize = 32;
        let like_generated = name.len() >= GENERATED_CHARS
            && name.starts_with("sk-")
            && !name.contains(char::is_whitespace);
        like_generated || self.hashes.contains_key(&KeyHash::of(name))
    }

    /// A name as logs may show it.
    fn show(&self, name: &str, place: usize) -> String {
        if self.is_key(name) {
            return format!("entry {} (name withheld)", place + 1);
        }
        name.chars()
            .take(MAX_NAME_CHARS)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    }
}

#[cfg(test)]
mod tests;
