//! Budgets against the store: reservations in memory on leased slices, settlements beside the
//! requests. While a lease lasts a request waits for nobody.

mod alerts;
mod settling;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use self::alerts::Alerts;
use super::account::{Account, Hold, Look, Outgoing, Want};
use super::books::{ATTEMPT, Books, Silent, Source};
use super::clock::{Clock, Moment, Reading};
use super::entry::{Entry, Turn, lock};
use super::{Allowance, Period, Reservation, Standing};
use crate::store::Store;

/// The store is asked so often in a row for one call at most: answers may be that the lease has
/// ended, or that a new period has begun.
const ASKS: u32 = 6;
/// If the store's answers lead nowhere.
const PAUSE: Duration = Duration::from_millis(250);

/// Tokens that a call wants: granted is what is there, between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub least: u64,
    pub most: u64,
}

/// Why nothing was reserved.
#[derive(Debug)]
pub enum Refused {
    /// Settled use leaves no room.
    UsedUp,
    /// Only reservations and other instances' leases stand in the way.
    Busy,
    /// The store is needed and does not answer.
    Store(Silent),
}

/// What all budgets of this instance come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Owners with calls, leases or something to settle.
    pub owners: usize,
    /// Tokens leased to this instance.
    pub leased: u64,
    /// Of these, held by calls in flight.
    pub reserved: u64,
    /// Used, and not known to have reached the store.
    pub untold: u64,
    /// Exchanges with the store so far, and those that failed.
    pub exchanges: u64,
    pub failed: u64,
}

/// All budgets of this instance.
pub struct Budgets {
    books: Books,
    life: Duration,
    /// Owners with calls, leases or something to settle.
    entries: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    clock: Mutex<Clock>,
    alerts: Alerts,
    /// There is an entry again.
    arrived: Notify,
}

impl Budgets {
    /// `lease`: how long a leased slice is good without word of it.
    #[must_use]
    pub fn new(store: Arc<Store>, lease: Duration) -> Self {
        Self::with_source(Source::Store(store), lease)
    }

    pub(super) fn with_source(source: Source, lease: Duration) -> Self {
        Self {
            books: Books::new(source),
            life: lease,
            entries: Mutex::default(),
            clock: Mutex::default(),
            alerts: Alerts::new(),
            arrived: Notify::new(),
        }
    }

    /// Reserves tokens for one call, waiting up to `patience` for other calls to settle. Without a
    /// limit, or where it is only watched, nothing is waited for.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn reserve(
        &self,
        allowance: &Allowance,
        need: Need,
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        let least = need.least.max(1);
        let most = need.most.max(least);
        let entry = self.entry(&allowance.owner);
        let now = self.now();
        let limit = allowance.limit.filter(|_| !allowance.dry_run);
        let mut want = Want {
            need: Need { least, most },
            limit: limit.unwrap_or(0),
            period: allowance.period,
            after: 0,
        };
        let at_once = {
            let mut account = entry.lock();
            account.adopt(allowance);
            want.after = account.exchanges();
            let hold = match limit {
                None => Some(account.count(need.most, allowance.period, &now)),
                Some(_) => account.take(&want, &now),
            };
            hold.map(|hold| (hold, account.standing(allowance, &now)))
        };
        let (hold, standing) = match at_once {
            Some(found) => found,
            None => self.wait(&entry, allowance, &want, patience).await?,
        };
        Ok(Reservation::new(entry, hold, standing))
    }

    /// How a budget stands as far as this instance knows; `None` if it knows nothing.
    #[must_use]
    pub fn standing(&self, allowance: &Allowance) -> Option<Standing> {
        let entry = lock(&self.entries).get(&allowance.owner).cloned()?;
        let now = self.now();
        let standing = entry.lock().standing(allowance, &now);
        Some(standing)
    }

    /// Start of the period that is on by the database's clock, in milliseconds since 1970; 0 for a
    /// total.
    #[must_use]
    pub fn period_start_ms(&self, period: Period) -> i64 {
        self.now().span(period).start_ms
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let entries = self.all();
        let [exchanges, failed] = self.books.counts();
        let mut status = Status {
            owners: entries.len(),
            exchanges,
            failed,
            ..Status::default()
        };
        for entry in entries {
            let [leased, reserved, untold] = entry.lock().sums();
            status.leased = status.leased.saturating_add(leased);
            status.reserved = status.reserved.saturating_add(reserved);
            status.untold = status.untold.saturating_add(untold);
        }
        status
    }

    /// Waits for the calls before this one, then for the store, then for room.
    async fn wait(
        &self,
        entry: &Entry,
        allowance: &Allowance,
        want: &Want,
        patience: Duration,
    ) -> Result<(Hold, Standing), Refused> {
        let deadline = Instant::now() + patience;
        let turn = entry.turn(deadline, ATTEMPT).await.ok_or(Refused::Busy)?;
        let mut asks = 0;
        loop {
            let now = self.now();
            let look = {
                let mut account = entry.lock();
                match account.look(want, &now) {
                    Look::Free(tokens) => {
                        if let Some(hold) = account.hold(tokens, &now) {
                            return Ok((hold, account.standing(allowance, &now)));
                        }
                        Look::Ask
                    }
                    look => look,
                }
            };
            let pause = match look {
                Look::UsedUp { used, start_ms } => {
                    self.alerts.refused(allowance, used, start_ms);
                    return Err(Refused::UsedUp);
                }
                Look::Wait(pause) => pause,
                _ if asks == ASKS => PAUSE,
                _ => {
                    asks += 1;
                    self.ask(entry, want, asks, &turn).await?;
                    continue;
                }
            };
            if Instant::now() >= deadline {
                return Err(Refused::Busy);
            }
            asks = 0;
            turn.claim(want.need.most);
            let until = deadline.min(Instant::now() + pause);
            // Settled or not, it is time to look again.
            let _ = timeout_at(until, entry.freed.notified()).await;
        }
    }

    /// Asks the store for what a call wants, unless it does not answer these days.
    async fn ask(
        &self,
        entry: &Entry,
        want: &Want,
        asks: u32,
        turn: &Turn<'_>,
    ) -> Result<(), Refused> {
        if asks > 1 {
            // What came with the last answer was taken by another call.
            turn.claim(want.need.most);
        }
        if let Some(cause) = self.books.is_silent(entry) {
            return Err(Refused::Store(cause));
        }
        let ask = |account: &mut Account, now: &Reading| match account.look(want, now) {
            Look::Ask => account.ask(want, now),
            // Meanwhile another exchange was answered.
            _ => None,
        };
        let sent = self.send(entry, ask).await;
        sent.map(drop).map_err(Refused::Store)
    }

    /// Makes and sends an exchange, one at a time for each owner; false if there was none to send.
    /// When it is cut short or fails it is under way still, and goes again.
    async fn send(
        &self,
        entry: &Entry,
        make: impl FnOnce(&mut Account, &Reading) -> Option<Outgoing>,
    ) -> Result<bool, Silent> {
        let _alone = entry.sending.lock().await;
        let sent = self.now();
        let outgoing = { make(&mut entry.lock(), &sent) };
        let Some(outgoing) = outgoing else {
            return Ok(false);
        };
        let answer = self.books.exchange(entry, &outgoing.exchange).await?;
        let Some(answer) = answer else {
            entry.lock().forsake(&outgoing);
            Alerts::forsaken(&entry.owner);
            return Ok(true);
        };
        let came = Moment::now();
        let now = {
            let mut clock = lock(&self.clock);
            clock.learn(answer.now_ms, sent.at, came);
            clock.read(came)
        };
        let is_dry = {
            let mut account = entry.lock();
            account.answered(&outgoing, &answer, &now);
            account.is_dry()
        };
        self.alerts.answered(&outgoing.exchange, &answer, is_dry);
        Ok(true)
    }

    fn now(&self) -> Reading {
        lock(&self.clock).read(Moment::now())
    }

    fn entry(&self, owner: &Arc<str>) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(owner) {
            return entry.clone();
        }
        let entry = Arc::new(Entry::new(owner.clone(), self.life));
        entries.insert(owner.clone(), entry.clone());
        self.arrived.notify_one();
        entry
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
