//! What a call holds of a budget, from its admission to its end. It settles without waiting.

use std::sync::Arc;
use std::time::Duration;

use super::account::Hold;
use super::clock::Moment;
use super::entry::Entry;
use super::lease::Ended;
use crate::store::DayUse;

/// How a budget stands as far as this instance knows, for headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `None`: without a limit.
    pub limit: Option<u64>,
    /// What is left after all that is reserved here and known to be leased elsewhere.
    pub remaining: u64,
    /// Until the period ends, or until a minute's limit is whole again; `None` for a total.
    pub reset: Option<Duration>,
}

/// What was used, to be settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens to charge.
    pub charge: u64,
    /// The engine's counts, as in the row; for sums per day.
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// A call's place on a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slip {
    /// The budget's name in the store.
    pub owner: Arc<str>,
    pub lease: Arc<str>,
    /// Of the slips of the lease, from 1 and without a gap.
    pub number: u64,
}

/// Tokens held for one call. Dropped without word it is charged whole.
pub struct Reservation {
    entry: Arc<Entry>,
    hold: Hold,
    standing: Standing,
    is_settled: bool,
}

impl Reservation {
    pub(super) fn new(entry: Arc<Entry>, hold: Hold, standing: Standing) -> Self {
        Self {
            entry,
            hold,
            standing,
            is_settled: false,
        }
    }

    /// Tokens held.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.hold.tokens
    }

    /// How the budget stood when this was reserved.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Gives the call its place on the lease; `None` where nothing is leased. To be asked once, by
    /// who writes it down: a number that nobody knows of makes a gap.
    #[must_use]
    pub fn slip(&self) -> Option<Slip> {
        let number = self.entry.lock().number(&self.hold)?;
        Some(Slip {
            owner: self.entry.owner.clone(),
            lease: self.hold.lease.clone(),
            number,
        })
    }

    /// The call has ended: charges what was used and gives the rest back.
    pub fn settle(mut self, used: Used) {
        self.end(used);
    }

    /// The call was none: nothing is charged nor counted.
    pub fn release(mut self) {
        self.is_settled = true;
        let now = Moment::now();
        let is_awaited = {
            let mut account = self.entry.lock();
            account.release(&self.hold, now);
            account.is_claimed()
        };
        if is_awaited {
            self.entry.freed.notify_one();
        }
    }

    fn end(&mut self, used: Used) {
        self.is_settled = true;
        let reserved = if self.hold.is_leased {
            self.hold.tokens
        } else {
            0
        };
        let spent = used.charge.min(reserved);
        let unleased = used.charge - spent;
        if self.hold.is_leased && unleased > 0 {
            self.entry.tell_excess(reserved, used.charge);
        }
        let ended = Ended {
            reserved,
            spent,
            unleased,
            day: DayUse {
                day_ms: self.hold.day_ms,
                requests: 1,
                prompt_tokens: used.prompt_tokens,
                completion_tokens: used.completion_tokens,
            },
        };
        let is_awaited = {
            let mut account = self.entry.lock();
            account.end(&self.hold.lease, &ended, Moment::now());
            account.is_claimed()
        };
        if is_awaited {
            self.entry.freed.notify_one();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.is_settled {
            self.end(Used {
                charge: self.hold.tokens,
                ..Used::default()
            });
        }
    }
}
