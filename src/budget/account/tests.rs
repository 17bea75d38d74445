//! Random interleavings of several instances with one store. What the engine uses is on a separate
//! account, and it never exceeds the limit.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::clock::Clock;
use super::super::model::State;
use super::super::{Allowance, Period};
use super::*;
use crate::store::DayUse;

const OWNER: &str = "service:x";
const LIFE: Duration = Duration::from_secs(20);
/// Half a minute before midnight, so that days end within a case.
const BEGAN_MS: i64 = 20_000 * 86_400_000 - 30_000;

#[derive(Clone, Debug)]
enum Op {
    Reserve {
        at: usize,
        least: u64,
        more: u64,
    },
    Settle {
        at: usize,
        which: usize,
        parts: u64,
    },
    Drop {
        at: usize,
        which: usize,
    },
    Release {
        at: usize,
        which: usize,
    },
    Tell {
        at: usize,
        what: Tell,
    },
    Pass {
        ms: u64,
    },
    /// Time passes, and this instance's steady clock stands still.
    Suspend {
        at: usize,
        ms: u64,
    },
    Kill {
        at: usize,
    },
    Limit {
        limit: u64,
    },
    /// The next exchange of this instance is lost, or its answer.
    Lose {
        at: usize,
        applied: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0_usize..3;
    let what = prop_oneof![4 => Just(Tell::Due), 1 => Just(Tell::Use), 1 => Just(Tell::All)];
    prop_oneof![
        12 => (at.clone(), 1_u64..400, 0_u64..600)
            .prop_map(|(at, least, more)| Op::Reserve { at, least, more }),
        8 => (at.clone(), any::<usize>(), 0_u64..=8)
            .prop_map(|(at, which, parts)| Op::Settle { at, which, parts }),
        1 => (at.clone(), any::<usize>()).prop_map(|(at, which)| Op::Drop { at, which }),
        1 => (at.clone(), any::<usize>()).prop_map(|(at, which)| Op::Release { at, which }),
        6 => (at.clone(), what).prop_map(|(at, what)| Op::Tell { at, what }),
        4 => prop_oneof![1_u64..900, 900_u64..8_000, 8_000_u64..60_000]
            .prop_map(|ms| Op::Pass { ms }),
        1 => (at.clone(), 1_000_u64..60_000).prop_map(|(at, ms)| Op::Suspend { at, ms }),
        1 => at.clone().prop_map(|at| Op::Kill { at }),
        1 => (0_u64..6_000).prop_map(|limit| Op::Limit { limit }),
        3 => (at, any::<bool>()).prop_map(|(at, applied)| Op::Lose { at, applied }),
    ]
}

struct Call {
    hold: Hold,
    period_start_ms: i64,
}

/// One process.
struct Instance {
    account: Account,
    clock: Clock,
    /// What its steady clock missed.
    asleep: Duration,
    calls: Vec<Call>,
    lose: Option<bool>,
}

impl Instance {
    fn new() -> Self {
        Self {
            account: Account::new(OWNER.into(), LIFE),
            clock: Clock::default(),
            asleep: Duration::ZERO,
            calls: Vec::new(),
            lose: None,
        }
    }
}

struct World {
    base: Instant,
    passed: Duration,
    store: State,
    limit: u64,
    highest: u64,
    period: Period,
    instances: Vec<Instance>,
    was_killed: bool,
    /// Used by calls that have ended or were killed with all that they had reserved, by period.
    engine: BTreeMap<i64, u64>,
    /// What was charged, by period.
    charged: BTreeMap<i64, u64>,
    days: DayUse,
}

impl World {
    fn new(limit: u64, period: Period) -> Self {
        Self {
            base: Instant::now(),
            passed: Duration::ZERO,
            store: State::default(),
            limit,
            highest: limit,
            period,
            instances: (0..3).map(|_| Instance::new()).collect(),
            was_killed: false,
            engine: BTreeMap::new(),
            charged: BTreeMap::new(),
            days: DayUse::default(),
        }
    }

    fn now_ms(&self) -> i64 {
        BEGAN_MS + i64::try_from(self.passed.as_millis()).unwrap()
    }

    fn reading(&self, at: usize) -> Reading {
        let instance = &self.instances[at];
        let wall = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.now_ms()).unwrap());
        let steady = self.base + self.passed.saturating_sub(instance.asleep);
        instance.clock.read(Moment::of(steady, wall))
    }

    /// Sends an exchange over a link that may lose it.
    fn send(&mut self, at: usize, outgoing: &Outgoing) -> bool {
        let sent = self.reading(at).at;
        let lost = self.instances[at].lose.take();
        if lost == Some(false) {
            return false;
        }
        // The way there and back takes time.
        self.passed += Duration::from_millis(3);
        let answer = self.store.exchange(&outgoing.exchange, self.now_ms());
        self.passed += Duration::from_millis(3);
        if lost == Some(true) {
            return false;
        }
        let came = self.reading(at).at;
        self.instances[at].clock.learn(answer.now_ms, sent, came);
        let now = self.reading(at);
        self.instances[at].account.answered(outgoing, &answer, &now);
        true
    }

    fn reserve(&mut self, at: usize, need: Need) -> Option<()> {
        let allowance = self.allowance();
        self.instances[at].account.adopt(&allowance);
        let want = Want {
            need,
            limit: self.limit,
            period: self.period,
            after: self.instances[at].account.exchanges(),
        };
        let now = self.reading(at);
        if let Some(hold) = self.instances[at].account.take(&want, &now) {
            assert_eq!(hold.tokens, need.most);
            self.admit(at, hold);
            return Some(());
        }
        for _ in 0..8 {
            let now = self.reading(at);
            let account = &mut self.instances[at].account;
            match account.look(&want, &now) {
                Look::Free(tokens) => {
                    assert!(tokens >= need.least && tokens <= need.most);
                    let hold = account.hold(tokens, &now).expect("a lease");
                    self.admit(at, hold);
                    return Some(());
                }
                Look::Ask => {
                    let outgoing = account.ask(&want, &now)?;
                    if !self.send(at, &outgoing) {
                        return None;
                    }
                }
                Look::UsedUp { used, .. } => {
                    assert!(self.limit.saturating_sub(used) < need.least);
                    return None;
                }
                Look::Wait(pause) => {
                    assert!(pause <= REMEMBERED);
                    return None;
                }
            }
        }
        panic!("the store was asked again and again");
    }

    fn admit(&mut self, at: usize, hold: Hold) {
        let instance = &mut self.instances[at];
        let lease = instance.account.current.as_ref().expect("a lease");
        assert_eq!(lease.id, hold.lease);
        // Only calls of the period by the database's clock, give or take the way of an answer.
        let (start_ms, end_ms) = (lease.span.start_ms, lease.span.end_ms);
        let now_ms = BEGAN_MS + i64::try_from(self.passed.as_millis()).unwrap();
        assert!(now_ms >= start_ms && end_ms.is_none_or(|end_ms| now_ms < end_ms + 10));
        instance.calls.push(Call {
            period_start_ms: start_ms,
            hold,
        });
    }

    fn end(&mut self, at: usize, which: usize, used: impl Fn(u64) -> Option<u64>) {
        let now = self.reading(at).at;
        let instance = &mut self.instances[at];
        if instance.calls.is_empty() {
            return;
        }
        let call = instance.calls.swap_remove(which % instance.calls.len());
        let Some(spent) = used(call.hold.tokens) else {
            instance.account.release(&call.hold, now);
            return;
        };
        let day = DayUse {
            day_ms: call.hold.day_ms,
            requests: 1,
            prompt_tokens: spent,
            completion_tokens: 1,
        };
        let ended = Ended {
            reserved: call.hold.tokens,
            spent,
            unleased: 0,
            day,
        };
        instance.account.end(&call.hold.lease, &ended, now);
        *self.engine.entry(call.period_start_ms).or_default() += spent;
        *self.charged.entry(call.period_start_ms).or_default() += spent;
        self.days.requests += 1;
        self.days.prompt_tokens += spent;
    }

    fn allowance(&self) -> Allowance {
        Allowance {
            owner: OWNER.into(),
            limit: Some(self.limit),
            period: self.period,
            dry_run: false,
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Reserve { at, least, more } => {
                let most = least + more;
                self.reserve(at, Need { least, most });
            }
            Op::Settle { at, which, parts } => {
                self.end(at, which, |reserved| Some(reserved * parts / 8));
            }
            Op::Drop { at, which } => self.end(at, which, Some),
            Op::Release { at, which } => self.end(at, which, |_| None),
            Op::Tell { at, what } => {
                let now = self.reading(at);
                if let Some(outgoing) = self.instances[at].account.tell(what, &now) {
                    self.send(at, &outgoing);
                }
            }
            Op::Pass { ms } => self.passed += Duration::from_millis(ms),
            Op::Suspend { at, ms } => {
                self.passed += Duration::from_millis(ms);
                self.instances[at].asleep += Duration::from_millis(ms);
            }
            Op::Kill { at } => {
                let killed = std::mem::replace(&mut self.instances[at], Instance::new());
                // The engine may have worked on its calls to their end; settlements are lost.
                for call in killed.calls {
                    *self.engine.entry(call.period_start_ms).or_default() += call.hold.tokens;
                }
                self.was_killed = true;
            }
            Op::Limit { limit } => {
                self.limit = limit;
                self.highest = self.highest.max(limit);
            }
            Op::Lose { at, applied } => self.instances[at].lose = Some(applied),
        }
    }

    /// What holds at every step.
    fn check(&self) {
        let mut worst = self.engine.clone();
        for instance in &self.instances {
            for call in &instance.calls {
                *worst.entry(call.period_start_ms).or_default() += call.hold.tokens;
            }
            for lease in instance.account.leases() {
                assert!(lease.is_sound(), "{lease:?}");
            }
            let calls = instance.calls.iter().map(|call| call.hold.tokens);
            let [leased, reserved, _] = instance.account.sums();
            assert_eq!(reserved, calls.sum::<u64>());
            assert!(reserved <= leased);
        }
        for (start_ms, engine) in worst {
            assert!(engine <= self.highest, "{engine} used in {start_ms}");
        }
    }

    /// Everything ends and is told, and the store knows the truth.
    fn quiet(&mut self) {
        for at in 0..3 {
            self.instances[at].lose = None;
            while !self.instances[at].calls.is_empty() {
                self.end(at, 0, |reserved| Some(reserved / 2));
            }
            for _ in 0..100 {
                let now = self.reading(at);
                let Some(outgoing) = self.instances[at].account.tell(Tell::All, &now) else {
                    break;
                };
                assert!(self.send(at, &outgoing));
            }
            self.passed += Duration::from_secs(3);
            let now = self.reading(at).at;
            assert!(self.instances[at].account.tidy(now), "nothing is left");
            assert_eq!(self.instances[at].account.sums(), [0, 0, 0]);
        }
        for ((_, start_ms), sums) in &self.store.budgets {
            let charged = self.charged.get(start_ms).copied().unwrap_or(0);
            if self.was_killed {
                assert!(sums.used + sums.leased >= *self.engine.get(start_ms).unwrap_or(&0));
            } else {
                assert_eq!((sums.used, sums.leased), (charged, 0), "in {start_ms}");
            }
        }
        let days = self.store.days.values();
        let told = days.fold([0, 0], |[requests, tokens], day| {
            [requests + day.requests, tokens + day.prompt_tokens]
        });
        let truth = [self.days.requests, self.days.prompt_tokens];
        assert!(if self.was_killed {
            told[0] <= truth[0] && told[1] <= truth[1]
        } else {
            told == truth
        });
    }
}

mod lowered;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_interleaving_lets_the_engine_use_more_than_the_limit(
        limit in 100_u64..6_000,
        period in prop_oneof![Just(Period::Total), Just(Period::Day), Just(Period::Month)],
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(limit, period);
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.quiet();
    }
}
