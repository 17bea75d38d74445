//! Budgets against the store: reservations in memory on leased slices, settlements beside the
//! requests. While a lease lasts a request waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use super::{Allowance, Period};
use crate::store::{Store, StoreError};

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
    Store(StoreError),
}

/// How a budget stands as far as this instance knows, for headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `None`: without a limit.
    pub limit: Option<u64>,
    /// What is left after all that is reserved here and known to be leased elsewhere.
    pub remaining: u64,
    /// Until the period ends; `None` for a total.
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

/// Tokens held for one call. Dropped without word it is charged whole.
pub struct Reservation {
    tokens: u64,
    period: Period,
}

/// A call's place on a lease.
pub struct Slip {
    /// The budget's name in the store.
    pub owner: Arc<str>,
    pub lease: Arc<str>,
    /// Of the admissions on the lease, from 1.
    pub number: u64,
}

/// All budgets of this instance.
pub struct Budgets {
    store: Arc<Store>,
}

impl Budgets {
    #[must_use]
    pub fn new(store: Arc<Store>, lease: Duration) -> Self {
        let _ = lease;
        Self { store }
    }

    /// Reserves tokens for one call, waiting up to `patience` for other calls to settle.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn reserve(
        &self,
        allowance: &Allowance,
        need: Need,
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        let _ = (&self.store, need, patience);
        Ok(Reservation {
            tokens: need.most,
            period: allowance.period,
        })
    }

    /// How a budget stands as far as this instance knows; `None` if it was not asked for yet.
    #[must_use]
    pub fn standing(&self, allowance: &Allowance) -> Option<Standing> {
        let _ = allowance;
        None
    }
}

impl Reservation {
    /// Tokens held.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let _ = self.period;
        self.tokens
    }

    /// How the budget stood when this was reserved.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            limit: None,
            remaining: 0,
            reset: None,
        }
    }

    /// Its place on a lease; `None` where nothing is leased.
    #[must_use]
    pub fn slip(&self) -> Option<Slip> {
        None
    }

    /// The call was none: nothing is charged nor counted.
    pub fn release(self) {}

    /// The call has ended: charges what was used and gives the rest back.
    pub fn settle(self, used: Used) {
        let _ = used;
    }
}
