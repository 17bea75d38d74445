//! Users and keys as they were when the store was last asked. Pure: is told the time, asks nobody.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::time::Instant;

use super::User;
use crate::auth::KeyHash;

/// Entries of each kind; the least recently used goes.
const ENTRIES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
/// How long a key that is nobody's is remembered as such.
const UNKNOWN: Duration = Duration::from_secs(5);
/// How much longer than usual an entry serves while the store does not answer, and how often it is
/// asked meanwhile.
const STALE: Duration = Duration::from_mins(5);
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Whose key it is.
#[derive(Clone, Debug)]
pub struct Owner {
    pub user: i64,
    /// First 12 hex digits of the key's hash.
    pub key_id: Arc<str>,
    /// `None` for never.
    pub expires_at: Option<SystemTime>,
}

/// What is known of something.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<T> {
    Fresh(T),
    /// Good enough if the store does not answer.
    Stale(T),
    Unknown,
}

impl<T> Look<T> {
    pub fn stale(self) -> Option<T> {
        match self {
            Self::Fresh(value) | Self::Stale(value) => Some(value),
            Self::Unknown => None,
        }
    }
}

/// Bounded; what was used least recently goes first.
pub struct Cache {
    refresh: Duration,
    users: LruCache<i64, Entry<Arc<User>>>,
    keys: LruCache<KeyHash, Entry<Option<Owner>>>,
    changes: u64,
}

struct Entry<T> {
    value: T,
    fresh_until: Instant,
    usable_until: Instant,
}

impl Cache {
    /// Entries are good for `refresh`.
    #[must_use]
    pub fn new(refresh: Duration) -> Self {
        Self {
            refresh,
            users: LruCache::new(ENTRIES),
            keys: LruCache::new(ENTRIES),
            changes: 0,
        }
    }

    pub fn user(&mut self, id: i64, now: Instant) -> Look<Arc<User>> {
        look(self.users.get(&id), now)
    }

    /// Whose key this is; `None` if it is nobody's.
    pub fn key(&mut self, hash: &KeyHash, now: Instant) -> Look<Option<Owner>> {
        look(self.keys.get(hash), now)
    }

    /// Counts the changes made here. What the store said before one of them is not learnt.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The store said so, asked when there had been `seen` changes.
    pub fn learn_user(&mut self, user: &Arc<User>, seen: u64, now: Instant) {
        if seen == self.changes {
            self.keep_user(user, now);
        }
    }

    /// As [`Cache::learn_user`].
    pub fn learn_key(&mut self, hash: KeyHash, owner: Option<&Owner>, seen: u64, now: Instant) {
        if seen != self.changes {
            return;
        }
        let entry = match owner {
            Some(_) => self.entry(owner.cloned(), now),
            None => Entry {
                value: None,
                fresh_until: now + UNKNOWN.min(self.refresh),
                usable_until: now,
            },
        };
        self.keys.put(hash, entry);
    }

    /// A user was changed here and now; with it, perhaps, all keys.
    pub fn change(&mut self, user: &Arc<User>, keys_too: bool, now: Instant) {
        self.changes += 1;
        self.keep_user(user, now);
        if keys_too {
            let is_users = |entry: &Entry<Option<Owner>>| {
                entry.value.as_ref().is_some_and(|o| o.user == user.id)
            };
            let old = self.keys.iter().filter(|(_, entry)| is_users(entry));
            let old: Vec<KeyHash> = old.map(|(hash, _)| *hash).collect();
            for hash in &old {
                self.keys.pop(hash);
            }
        }
    }

    /// The store did not answer: what is there serves for a moment longer.
    pub fn postpone_user(&mut self, id: i64, now: Instant) {
        postpone(self.users.get_mut(&id), now);
    }

    /// As [`Cache::postpone_user`].
    pub fn postpone_key(&mut self, hash: &KeyHash, now: Instant) {
        postpone(self.keys.get_mut(hash), now);
    }

    fn keep_user(&mut self, user: &Arc<User>, now: Instant) {
        let entry = self.entry(user.clone(), now);
        self.users.put(user.id, entry);
    }

    fn entry<T>(&self, value: T, now: Instant) -> Entry<T> {
        Entry {
            value,
            fresh_until: now + self.refresh,
            usable_until: now + self.refresh + STALE,
        }
    }
}

fn look<T: Clone>(entry: Option<&Entry<T>>, now: Instant) -> Look<T> {
    match entry {
        Some(entry) if now < entry.fresh_until => Look::Fresh(entry.value.clone()),
        Some(entry) if now < entry.usable_until => Look::Stale(entry.value.clone()),
        _ => Look::Unknown,
    }
}

fn postpone<T>(entry: Option<&mut Entry<T>>, now: Instant) {
    if let Some(entry) = entry
        && entry.fresh_until <= now
    {
        entry.fresh_until = (now + ASK_AGAIN).min(entry.usable_until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::users::tests::user;

    const REFRESH: Duration = Duration::from_secs(30);

    fn hash(text: &str) -> KeyHash {
        KeyHash::of(text)
    }

    fn owner(user: i64) -> Owner {
        Owner {
            user,
            key_id: "0123".into(),
            expires_at: None,
        }
    }

    fn name(look: Look<Arc<User>>) -> Look<String> {
        match look {
            Look::Fresh(user) => Look::Fresh(user.name.to_string()),
            Look::Stale(user) => Look::Stale(user.name.to_string()),
            Look::Unknown => Look::Unknown,
        }
    }

    #[test]
    fn a_user_is_fresh_then_stale_then_unknown() {
        let start = Instant::now();
        let mut cache = Cache::new(REFRESH);
        assert_eq!(name(cache.user(1, start)), Look::Unknown);
        cache.learn_user(&user(1, "ann"), 0, start);
        let almost = start + REFRESH - Duration::from_millis(1);
        assert_eq!(name(cache.user(1, almost)), Look::Fresh("ann".into()));
        let due = start + REFRESH;
        assert_eq!(name(cache.user(1, due)), Look::Stale("ann".into()));
        cache.postpone_user(1, due);
        let soon = due + ASK_AGAIN - Duration::from_millis(1);
        assert_eq!(name(cache.user(1, soon)), Look::Fresh("ann".into()));
        assert_eq!(
            name(cache.user(1, due + ASK_AGAIN)),
            Look::Stale("ann".into())
        );
        cache.postpone_user(1, due + STALE - Duration::from_secs(1));
        assert_eq!(name(cache.user(1, due + STALE)), Look::Unknown);
    }

    #[test]
    fn a_key_of_nobody_is_remembered_for_five_seconds() {
        let start = Instant::now();
        let mut cache = Cache::new(REFRESH);
        cache.learn_key(hash("a"), None, 0, start);
        let fresh = cache.key(&hash("a"), start + UNKNOWN - Duration::from_millis(1));
        assert!(matches!(fresh, Look::Fresh(None)));
        assert!(matches!(
            cache.key(&hash("a"), start + UNKNOWN),
            Look::Unknown
        ));
    }

    #[test]
    fn a_change_made_here_holds_at_once_and_what_was_asked_before_it_is_not_learnt() {
        let start = Instant::now();
        let mut cache = Cache::new(REFRESH);
        cache.learn_user(&user(1, "ann"), 0, start);
        cache.learn_key(hash("old"), Some(&owner(1)), 0, start);
        cache.learn_key(hash("other"), Some(&owner(2)), 0, start);
        let seen = cache.changes();
        cache.change(&user(1, "changed"), true, start);
        assert_eq!(name(cache.user(1, start)), Look::Fresh("changed".into()));
        assert!(matches!(cache.key(&hash("old"), start), Look::Unknown));
        assert!(matches!(
            cache.key(&hash("other"), start),
            Look::Fresh(Some(_))
        ));
        cache.learn_user(&user(1, "ann"), seen, start);
        cache.learn_key(hash("old"), Some(&owner(1)), seen, start);
        assert_eq!(name(cache.user(1, start)), Look::Fresh("changed".into()));
        assert!(matches!(cache.key(&hash("old"), start), Look::Unknown));
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let start = Instant::now();
        let mut cache = Cache::new(REFRESH);
        cache.learn_key(hash("used"), Some(&owner(1)), 0, start);
        for n in 0..ENTRIES.get() + 10 {
            cache.learn_key(hash(&n.to_string()), None, 0, start);
            let used = cache.key(&hash("used"), start);
            assert!(matches!(used, Look::Fresh(Some(_))));
        }
        assert_eq!(cache.keys.len(), ENTRIES.get());
    }
}
