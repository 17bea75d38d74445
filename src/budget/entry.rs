//! One owner's account with the order in which calls get at it: one waits for room at a time, one
//! exchange is under way at a time.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::account::Account;

/// A fault that may come with each call is told of this often.
const TOLD_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Entry {
    pub owner: Arc<str>,
    account: Mutex<Account>,
    /// Whoever holds it is the first of those who wait. Fair.
    turn: tokio::sync::Mutex<()>,
    /// Whoever holds it has the exchange under way.
    pub sending: tokio::sync::Mutex<()>,
    /// Tokens may have become free for the first who waits.
    pub freed: Notify,
    failed: Mutex<Option<Instant>>,
    told: Mutex<Option<Instant>>,
}

impl Entry {
    pub fn new(owner: Arc<str>, life: Duration) -> Self {
        Self {
            account: Mutex::new(Account::new(owner.clone(), life)),
            owner,
            turn: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            freed: Notify::new(),
            failed: Mutex::default(),
            told: Mutex::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }

    /// Waits to be the first; `None` when it is too late. If the first merely asks the store, its
    /// answer, which takes at most `attempt`, is worth being a little late.
    pub async fn turn(&self, deadline: Instant, attempt: Duration) -> Option<Turn<'_>> {
        let mut turn = pin!(self.turn.lock());
        let guard = match timeout_at(deadline, &mut turn).await {
            Ok(guard) => guard,
            Err(_) if self.lock().is_claimed() => return None,
            Err(_) => timeout(attempt, turn).await.ok()?,
        };
        Some(Turn {
            entry: self,
            _guard: guard,
        })
    }

    /// The last exchange failed, or came through.
    pub fn note(&self, failed: Option<Instant>) {
        *lock(&self.failed) = failed;
    }

    pub fn failed_at(&self) -> Option<Instant> {
        *lock(&self.failed)
    }

    /// A call used more than it had reserved: the bound was none.
    pub fn tell_excess(&self, reserved: u64, charge: u64) {
        let now = Instant::now();
        let mut told = lock(&self.told);
        if told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            *told = Some(now);
            let owner = &*self.owner;
            tracing::error!(
                budget = owner,
                reserved,
                charge,
                "a call used more tokens than were reserved for it"
            );
        }
    }
}

/// Being the first of those who wait.
pub(super) struct Turn<'e> {
    entry: &'e Entry,
    _guard: tokio::sync::MutexGuard<'e, ()>,
}

impl Turn<'_> {
    /// From now on what is free is for this call.
    pub fn claim(&self, tokens: u64) {
        self.entry.lock().claim(tokens);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.entry.lock().claim(0);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
