//! Requests and tokens per minute of one principal in this instance. Knows neither whose they are
//! nor whether somebody only watches them.
//!
//! Time goes in whole seconds: what happened within one counts until sixty whole ones have passed
//! since its end, so that no sixty seconds see more than the limit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::Standing;
use super::entry::lock;

/// The second that is on, and sixty before it.
const SLOTS: usize = 61;
const MINUTE: Duration = Duration::from_mins(1);
/// When only calls in flight stand in the way, nobody knows when they end.
const UNKNOWN: Duration = Duration::from_secs(5);

/// Limits of any sixty seconds, and what was used of them.
#[derive(Debug)]
pub struct MinuteLimits {
    pub requests: Option<u64>,
    pub tokens: Option<u64>,
    began: Instant,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    requests: Ring,
    /// Of calls that have ended, in the second of their end.
    tokens: Ring,
    /// Tokens that calls in flight hold.
    held: u64,
}

/// One call's part of the minute it began in. Dropped without word the call was none: all goes back.
#[derive(Debug)]
pub struct MinuteShare {
    limits: Arc<MinuteLimits>,
    held: u64,
    /// The second that its request is counted in; `None` once it is settled.
    second: Option<u64>,
}

impl MinuteLimits {
    #[must_use]
    pub fn new(requests: Option<u64>, tokens: Option<u64>) -> Self {
        Self {
            requests,
            tokens,
            began: Instant::now(),
            sums: Mutex::default(),
        }
    }

    /// Takes a call in, which may use up to `tokens`. It holds these, or what is left if that is
    /// less: a call that begins below the limit is never stopped by it.
    ///
    /// # Errors
    /// The time after which there is room again, at most a minute.
    pub fn take(self: &Arc<Self>, tokens: u64) -> Result<MinuteShare, Duration> {
        let now = self.began.elapsed();
        let mut sums = lock(&self.sums);
        let requests = sums.requests.at(now);
        if let Some(limit) = self.requests
            && requests.sum >= limit
        {
            return Err(requests.until_below(limit, now));
        }
        let held = sums.held;
        let settled = sums.tokens.at(now);
        let mut share = tokens;
        if let Some(limit) = self.tokens {
            let left = limit.saturating_sub(settled.sum.saturating_add(held));
            if left == 0 {
                let wait = match limit.checked_sub(held) {
                    None | Some(0) => UNKNOWN,
                    Some(limit) => settled.until_below(limit, now),
                };
                return Err(wait);
            }
            share = tokens.min(left);
        }
        sums.held = held.saturating_add(share);
        sums.requests.add(1);
        Ok(MinuteShare {
            limits: self.clone(),
            held: share,
            second: Some(sums.requests.second),
        })
    }

    /// How requests and tokens stand, where they have limits.
    #[must_use]
    pub fn standing(&self) -> (Option<Standing>, Option<Standing>) {
        let now = self.began.elapsed();
        let mut sums = lock(&self.sums);
        let held = sums.held;
        let stand = |limit: Option<u64>, ring: &mut Ring, held: u64| {
            let ring = ring.at(now);
            limit.map(|limit| Standing {
                limit: Some(limit),
                remaining: limit.saturating_sub(ring.sum.saturating_add(held)),
                reset: Some(ring.until_empty(now)),
            })
        };
        let requests = stand(self.requests, &mut sums.requests, 0);
        let tokens = stand(self.tokens, &mut sums.tokens, held);
        (requests, tokens)
    }
}

impl MinuteShare {
    /// The call has ended and used this many tokens.
    pub fn settle(mut self, tokens: u64) {
        self.second = None;
        let now = self.limits.began.elapsed();
        let mut sums = lock(&self.limits.sums);
        sums.held = sums.held.saturating_sub(self.held);
        sums.tokens.at(now).add(tokens);
    }
}

impl Drop for MinuteShare {
    fn drop(&mut self) {
        let Some(second) = self.second else {
            return;
        };
        let now = self.limits.began.elapsed();
        let mut sums = lock(&self.limits.sums);
        sums.held = sums.held.saturating_sub(self.held);
        sums.requests.at(now).take_back(second);
    }
}

/// Sums of the last seconds.
#[derive(Debug)]
struct Ring {
    slots: [u64; SLOTS],
    /// The second of the newest slot.
    second: u64,
    sum: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            slots: [0; SLOTS],
            second: 0,
            sum: 0,
        }
    }
}

impl Ring {
    /// Moves on to the present second.
    fn at(&mut self, now: Duration) -> &mut Self {
        let ahead = now.as_secs().saturating_sub(self.second);
        for second in self.second + 1..=self.second + ahead.min(SLOTS as u64) {
            let slot = &mut self.slots[slot_of(second)];
            self.sum -= std::mem::take(slot);
        }
        self.second += ahead;
        self
    }

    fn add(&mut self, count: u64) {
        let slot = &mut self.slots[slot_of(self.second)];
        let before = *slot;
        *slot = before.saturating_add(count);
        self.sum = self.sum.saturating_add(*slot - before);
    }

    /// Takes one back that was added in this second, if it still counts.
    fn take_back(&mut self, second: u64) {
        if second + SLOTS as u64 > self.second {
            let slot = &mut self.slots[slot_of(second)];
            let taken = u64::from(*slot > 0);
            *slot -= taken;
            self.sum -= taken;
        }
    }

    /// The time after which less than `limit`, which is not 0, is left of what there is now.
    fn until_below(&self, limit: u64, now: Duration) -> Duration {
        let mut left = self.sum;
        let oldest = (self.second + 1).saturating_sub(SLOTS as u64);
        for second in oldest..=self.second {
            left -= self.slots[slot_of(second)];
            if left < limit {
                return time_left(second, now);
            }
        }
        MINUTE
    }

    fn until_empty(&self, now: Duration) -> Duration {
        if self.sum == 0 {
            return Duration::ZERO;
        }
        self.until_below(1, now)
    }
}

/// Until what was counted in this second counts no more.
fn time_left(second: u64, now: Duration) -> Duration {
    let end = Duration::from_secs(second + SLOTS as u64);
    end.saturating_sub(now).min(MINUTE)
}

fn slot_of(second: u64) -> usize {
    usize::try_from(second % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
