//! Brings settlements to the store beside the requests, renews what is in use and gives back what is
//! not. Nothing depends on its being in time: what is overdue counts as used at the store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, sleep, timeout};

use super::super::account::Tell;
use super::super::books::Silent;
use super::super::clock::Moment;
use super::super::entry::{Entry, lock};
use super::Budgets;

/// How often is looked for what is due.
const TICK: Duration = Duration::from_millis(200);
/// Exchanges under way for settlements.
const AT_ONCE: usize = 8;
/// How long somebody who wants to see use waits for it to be told.
const TELLING: Duration = Duration::from_secs(1);
/// Between two looks in the drain.
const DRAIN_TICK: Duration = Duration::from_millis(20);

impl Budgets {
    /// Settles until the future is dropped. The composition root owns it, and there is one.
    pub async fn run(&self) {
        let mut turn = 0_usize;
        loop {
            if lock(&self.entries).is_empty() {
                self.arrived.notified().await;
            }
            sleep(self.books.pause().unwrap_or(TICK)).await;
            let due = self.due();
            if due.is_empty() {
                continue;
            }
            if self.books.pause().is_some() {
                // One finds out for all, not always the same.
                turn = turn.wrapping_add(1);
                let probe = &due[turn % due.len()];
                if self.tell_all(probe, Tell::Due).await.is_err() {
                    continue;
                }
            }
            self.tell_each(due, Tell::Due).await;
        }
    }

    /// Tells the store what this instance has not told yet of an owner's use, so that its sums are
    /// whole. Waits a second at most; what cannot be told then is told later.
    pub async fn tell(&self, owner: &str) {
        let entry = lock(&self.entries).get(owner).cloned();
        if let Some(entry) = entry
            && self.books.is_silent(&entry).is_none()
        {
            let _ = timeout(TELLING, self.tell_all(&entry, Tell::Use)).await;
        }
    }

    /// Tells everything and gives all free tokens back, within `limit`; for the end, when calls have
    /// ended. Returns the used tokens that could not be told: the store counts the leases that they
    /// are part of as used.
    pub async fn drain(&self, limit: Duration) -> u64 {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let telling = self.tell_each(self.all(), Tell::All);
            let is_late = timeout(left, Box::pin(telling)).await.is_err();
            let entries = self.all();
            let is_told = entries
                .iter()
                .all(|entry| !entry.lock().has_more(Tell::All, &Moment::now()));
            if is_late || is_told || left.is_zero() {
                break;
            }
            sleep(self.books.pause().unwrap_or(DRAIN_TICK).min(left)).await;
        }
        let untold = self.status().untold;
        if untold > 0 {
            tracing::error!(
                tokens = untold,
                "use of token budgets was not told in time: their leases will count as used"
            );
        }
        untold
    }

    /// Entries with something due; those with nothing left are forgotten.
    fn due(&self) -> Vec<Arc<Entry>> {
        let now = Moment::now();
        let mut due = Vec::new();
        lock(&self.entries).retain(|_, entry| {
            let mut account = entry.lock();
            let is_over = account.tidy(now);
            if account.is_due(&now) {
                due.push(entry.clone());
            }
            // Whoever else has it, a reservation or a call that waits, will want it to be found.
            !is_over || Arc::strong_count(entry) > 1
        });
        due
    }

    async fn tell_each(&self, entries: Vec<Arc<Entry>>, what: Tell) {
        stream::iter(entries)
            .for_each_concurrent(AT_ONCE, |entry| async move {
                // Remembered where it failed.
                let _ = self.tell_all(&entry, what).await;
            })
            .await;
    }

    /// Sends one exchange after another until there is nothing more to tell of an owner.
    async fn tell_all(&self, entry: &Entry, what: Tell) -> Result<(), Silent> {
        let rounds = entry.lock().count_leases() + 1;
        for _ in 0..rounds {
            if !self
                .send(entry, |account, now| account.tell(what, now))
                .await?
            {
                break;
            }
        }
        Ok(())
    }
}
