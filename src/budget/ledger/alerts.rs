//! One log event when a budget passes a share of its limit, for alerts.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::super::Allowance;
use super::super::entry::lock;
use crate::store::{Exchange, Exchanged};

/// Of so many budgets it is remembered that they are known to be used up.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

/// A budget of which no more than this part is left counts as used up once a call was refused.
const ALMOST: u64 = 50;

pub(super) struct Alerts {
    /// Start of the period in which this instance told that a budget is used up.
    used_up: Mutex<LruCache<Arc<str>, i64>>,
}

impl Alerts {
    pub fn new() -> Self {
        Self {
            used_up: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// The store has answered an exchange.
    pub fn answered(&self, exchange: &Exchange, answer: &Exchanged, is_dry: bool) {
        let Some(limit) = exchange.limit else {
            return;
        };
        let owner = &*exchange.owner;
        match answer.passed {
            Some(percent) if percent < 100 => {
                tracing::warn!(
                    budget = owner,
                    percent,
                    limit,
                    used = answer.used,
                    dry_run = is_dry,
                    "token budget runs low"
                );
            }
            Some(_) => {
                self.is_news(owner, exchange.period_start_ms);
                tell_used_up(owner, limit, answer.used, is_dry);
            }
            // Nobody refuses its calls, which would tell.
            None if is_dry
                && answer.used >= limit
                && self.is_news(owner, exchange.period_start_ms) =>
            {
                tell_used_up(owner, limit, answer.used, is_dry);
            }
            None => {}
        }
    }

    /// A call was refused: what is left is too little for it. That is no news of the budget while
    /// much is left: the call may have asked for too much, and may ask for less.
    pub fn refused(&self, allowance: &Allowance, used: u64, period_start_ms: i64) {
        let limit = allowance.limit.unwrap_or(0);
        let is_spent = limit.saturating_sub(used) <= limit / ALMOST;
        if is_spent && self.is_news(&allowance.owner, period_start_ms) {
            tell_used_up(&allowance.owner, allowance.limit.unwrap_or(0), used, false);
        }
    }

    /// The store will not have the exchanges of a lease.
    pub fn forsaken(owner: &str) {
        tracing::error!(
            budget = owner,
            "the database knows an older state of a lease: its tokens will count twice"
        );
    }

    fn is_news(&self, owner: &str, period_start_ms: i64) -> bool {
        let mut used_up = lock(&self.used_up);
        used_up.put(owner.into(), period_start_ms) != Some(period_start_ms)
    }
}

fn tell_used_up(owner: &str, limit: u64, used: u64, is_dry: bool) {
    tracing::warn!(
        budget = owner,
        percent = 100,
        limit,
        used,
        dry_run = is_dry,
        "token budget is used up"
    );
}
