//! The store's part of the protocol of leases in memory, for tests: what `store::budgets` promises,
//! and nothing of how it does it. Checks at each grant that the budget is not overdrawn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::lock;
use crate::store::{DayUse, Exchange, Exchanged, StoreError};

#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub used: u64,
    pub leased: u64,
    alerted: u8,
}

#[derive(Clone, Debug)]
struct Lease {
    owner: String,
    period_start_ms: i64,
    tokens: u64,
    number: i64,
    granted: u64,
    is_charged: bool,
    expires_at_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub budgets: BTreeMap<(String, i64), Sums>,
    leases: HashMap<String, Lease>,
    pub days: BTreeMap<(String, i64), DayUse>,
    /// Exchanges that came, those sent again too.
    pub exchanges: u64,
}

impl State {
    pub fn exchange(&mut self, e: &Exchange, now_ms: i64) -> Exchanged {
        self.exchanges += 1;
        let key = (e.owner.clone(), e.period_start_ms);
        let sums = self.budgets.entry(key).or_default();
        let lease = self.leases.get(&e.lease);
        if let Some(lease) = lease.filter(|lease| e.number <= lease.number) {
            assert_eq!(e.number, lease.number, "an old exchange came again");
            return Exchanged {
                now_ms,
                used: sums.used,
                leased: sums.leased,
                granted: lease.granted,
                is_charged: lease.is_charged,
                expires_at_ms: lease.expires_at_ms,
                passed: None,
            };
        }
        for lease in self.leases.values_mut() {
            let is_here = lease.owner == e.owner && lease.period_start_ms == e.period_start_ms;
            if is_here && !lease.is_charged && lease.expires_at_ms <= now_ms {
                lease.is_charged = true;
                sums.used += lease.tokens;
                sums.leased -= lease.tokens;
            }
        }
        let lease = self.leases.entry(e.lease.clone()).or_insert_with(|| {
            assert_eq!(e.number, 1, "the first exchange of a lease");
            Lease {
                owner: e.owner.clone(),
                period_start_ms: e.period_start_ms,
                tokens: 0,
                number: 0,
                granted: 0,
                is_charged: false,
                expires_at_ms: 0,
            }
        });
        assert_eq!(e.number, lease.number + 1, "no exchange is left out");
        assert!(
            e.spent + e.returned <= lease.tokens,
            "more is told than leased"
        );
        lease.number = e.number;
        lease.tokens -= e.spent + e.returned;
        if lease.is_charged {
            sums.used -= e.returned;
        } else {
            sums.leased -= e.spent + e.returned;
            sums.used += e.spent;
        }
        sums.used += e.unleased;
        for day in &e.days {
            let sum = self
                .days
                .entry((e.owner.clone(), day.day_ms))
                .or_insert(DayUse {
                    day_ms: day.day_ms,
                    ..DayUse::default()
                });
            sum.requests += day.requests;
            sum.prompt_tokens += day.prompt_tokens;
            sum.completion_tokens += day.completion_tokens;
        }
        let limit = e.limit.unwrap_or(0);
        let room = limit.saturating_sub(sums.used + sums.leased);
        let is_over = e.period_end_ms.is_some_and(|end_ms| now_ms >= end_ms);
        let granted = if is_over || lease.is_charged || room < e.least {
            0
        } else {
            room.min(e.most)
        };
        sums.leased += granted;
        lease.tokens += granted;
        lease.granted = granted;
        lease.expires_at_ms = now_ms + e.life_ms;
        assert!(
            granted == 0 || sums.used + sums.leased <= limit,
            "overdrawn"
        );
        let percent = [100, 80]
            .into_iter()
            .find(|percent| limit > 0 && sums.used * 100 >= limit * u64::from(*percent));
        let passed = percent.filter(|percent| *percent > sums.alerted);
        sums.alerted = passed.unwrap_or(sums.alerted);
        Exchanged {
            now_ms,
            used: sums.used,
            leased: sums.leased,
            granted,
            is_charged: lease.is_charged,
            expires_at_ms: lease.expires_at_ms,
            passed,
        }
    }
}

/// What happens to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Good,
    /// Refused at once.
    Down,
    /// Never answered, and never applied.
    Hung,
    /// Applied, and the answer lost.
    Mute,
}

/// A store behind a link of some latency.
pub(super) struct Model {
    pub state: Mutex<State>,
    pub link: Mutex<Link>,
    pub latency: Mutex<Duration>,
    began: Instant,
    began_ms: i64,
}

impl Model {
    pub fn new(began_ms: i64) -> Self {
        Self {
            state: Mutex::default(),
            link: Mutex::new(Link::Good),
            latency: Mutex::new(Duration::from_millis(2)),
            began: Instant::now(),
            began_ms,
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.began_ms + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    pub fn set(&self, link: Link) {
        *lock(&self.link) = link;
    }

    /// Used and leased of an owner, all periods together.
    pub fn sums(&self, owner: &str) -> (u64, u64) {
        let state = lock(&self.state);
        let sums = state.budgets.iter().filter(|((name, _), _)| name == owner);
        sums.fold((0, 0), |(used, leased), (_, sums)| {
            (used + sums.used, leased + sums.leased)
        })
    }

    pub fn exchanges(&self) -> u64 {
        lock(&self.state).exchanges
    }

    pub async fn exchange(&self, exchange: &Exchange) -> Result<Exchanged, StoreError> {
        let latency = *lock(&self.latency);
        tokio::time::sleep(latency / 2).await;
        let link = *lock(&self.link);
        let answer = match link {
            Link::Down => Err(StoreError::from(sqlx::Error::PoolTimedOut)),
            Link::Hung => std::future::pending().await,
            Link::Good | Link::Mute => Ok(lock(&self.state).exchange(exchange, self.now_ms())),
        };
        tokio::time::sleep(latency / 2).await;
        if link == Link::Mute {
            return Err(StoreError::from(sqlx::Error::PoolTimedOut));
        }
        answer
    }
}
