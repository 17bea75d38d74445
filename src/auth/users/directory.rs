//! What this instance knows of users: from memory while that is fresh, else from the store. A store
//! that does not answer leaves what is known in force for a while, loudly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout};

use super::cache::{Cache, Look, Owner};
use super::flights::Flights;
use super::{User, unavailable};
use crate::auth::KeyHash;
use crate::error::Error;
use crate::store::{Store, StoreError, UserRow};

/// How long a look-up may take.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(3);
/// How often it is said that old entries are in use.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// An answer, or why there is none.
type Answer<T> = Result<Option<T>, Arc<str>>;

/// Users by id and by key.
pub struct Directory {
    known: Arc<Known>,
    users: Flights<i64, Answer<Arc<User>>>,
    keys: Flights<KeyHash, Answer<Owner>>,
    warned_at: Mutex<Option<Instant>>,
}

struct Known {
    store: Arc<Store>,
    cache: Mutex<Cache>,
}

impl Directory {
    /// Entries are good for `refresh`.
    #[must_use]
    pub fn new(store: Arc<Store>, refresh: Duration) -> Self {
        Self {
            known: Arc::new(Known {
                store,
                cache: Mutex::new(Cache::new(refresh)),
            }),
            users: Flights::new(),
            keys: Flights::new(),
            warned_at: Mutex::default(),
        }
    }

    /// Whose key this is, expired or not; `None` if it is nobody's.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn owner(&self, hash: KeyHash) -> Result<Option<Owner>, Error> {
        let look = self.known.cache().key(&hash, Instant::now());
        if let Look::Fresh(owner) = look {
            return Ok(owner);
        }
        let asked = self.keys.share(&hash, self.known.clone().ask_key(hash));
        match asked.await {
            Ok(owner) => Ok(owner),
            Err(cause) => {
                let owner = self.make_do(look.stale(), &cause)?;
                self.known.cache().postpone_key(&hash, Instant::now());
                Ok(owner)
            }
        }
    }

    /// A user by id.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn user(&self, id: i64) -> Result<Option<Arc<User>>, Error> {
        let look = self.known.cache().user(id, Instant::now());
        if let Look::Fresh(user) = look {
            return Ok(Some(user));
        }
        match self.ask_user(id).await {
            Ok(user) => Ok(user),
            Err(cause) => {
                let user = self.make_do(look.stale(), &cause)?;
                self.known.cache().postpone_user(id, Instant::now());
                Ok(Some(user))
            }
        }
    }

    /// A user by id, as the store has it now.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn user_anew(&self, id: i64) -> Result<Option<Arc<User>>, Error> {
        let user = self.ask_user(id).await;
        user.map_err(|cause| unavailable(cause.as_ref()))
    }

    /// Takes a change in that was made by this instance, which holds here from now on. With
    /// `keys_too` the user's keys were changed.
    pub fn change(&self, row: UserRow, keys_too: bool) -> Arc<User> {
        let user = Arc::new(User::from(row));
        let mut cache = self.known.cache();
        cache.change(&user, keys_too, Instant::now());
        // Before the lock is let go: whoever asks from now on asks anew.
        self.users.renew();
        self.keys.renew();
        user
    }

    async fn ask_user(&self, id: i64) -> Answer<Arc<User>> {
        self.users.share(&id, self.known.clone().ask_user(id)).await
    }

    /// The old entry, if there is one.
    fn make_do<T>(&self, stale: Option<T>, cause: &Arc<str>) -> Result<T, Error> {
        let old = stale.ok_or_else(|| unavailable(cause.as_ref()))?;
        let now = Instant::now();
        let mut warned_at = self
            .warned_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            *warned_at = Some(now);
            tracing::warn!(
                cause = &**cause,
                "the database does not answer; users are taken for what they were"
            );
        }
        Ok(old)
    }
}

impl Known {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_user(self: Arc<Self>, id: i64) -> Answer<Arc<User>> {
        let seen = self.cache().changes();
        let row = answer(self.store.user(id)).await?;
        let user = row.map(|row| Arc::new(User::from(row)));
        if let Some(user) = &user {
            self.cache().learn_user(user, seen, Instant::now());
        }
        Ok(user)
    }

    async fn ask_key(self: Arc<Self>, hash: KeyHash) -> Answer<Owner> {
        let seen = self.cache().changes();
        let row = answer(self.store.user_by_key(hash.as_bytes())).await?;
        let now = Instant::now();
        let mut cache = self.cache();
        let owner = row.map(|row| {
            let user = Arc::new(User::from(row.user));
            cache.learn_user(&user, seen, now);
            Owner {
                user: user.id,
                key_id: hash.key_id().into(),
                expires_at: row.expires_at_ms.map(time_of),
            }
        });
        cache.learn_key(hash, owner.as_ref(), seen, now);
        Ok(owner)
    }
}

/// A moment given in milliseconds since 1970.
pub fn time_of(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The store's answer, within bounds.
async fn answer<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Arc<str>> {
    match timeout(LOOK_UP_LIMIT, asked).await {
        Ok(answer) => answer.map_err(|cause| super::in_words(&cause).into()),
        Err(_) => Err("the store did not answer in time".into()),
    }
}
