//! Budgets on real databases: several instances, many calls, and what they cost in statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tollgate::budget::{Allowance, Budgets, Need, Period, Refused, Reservation, Used};
use tollgate::store::Store;

use crate::store::bench::Place;

const LIFE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(10);
const OWNER: &str = "service:x";

struct Instance {
    store: Arc<Store>,
    budgets: Arc<Budgets>,
    settling: JoinHandle<()>,
}

impl Instance {
    async fn at(place: &Place) -> Self {
        let store = place.store().await;
        let budgets = Arc::new(Budgets::new(store.clone(), LIFE));
        let run = budgets.clone();
        let settling = tokio::spawn(async move { run.run().await });
        Self {
            store,
            budgets,
            settling,
        }
    }

    async fn reserve(&self, limit: u64, tokens: u64) -> Result<Reservation, Refused> {
        let need = Need {
            least: tokens,
            most: tokens,
        };
        self.budgets.reserve(&total(limit), need, PATIENCE).await
    }

    async fn get(&self, limit: u64, tokens: u64) -> Reservation {
        self.reserve(limit, tokens).await.expect("tokens")
    }

    /// Used and leased.
    async fn sums(&self) -> (u64, u64) {
        let found = self.store.budget_use(OWNER, 0, 0).await.expect("an answer");
        (found.used, found.leased)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

fn total(limit: u64) -> Allowance {
    Allowance {
        owner: OWNER.into(),
        limit: Some(limit),
        period: Period::Total,
        dry_run: false,
    }
}

fn used(charge: u64) -> Used {
    Used {
        charge,
        prompt_tokens: charge,
        completion_tokens: 0,
    }
}

/// The kinds of databases that there are here.
async fn places() -> Vec<Place> {
    let mut places = vec![Place::sqlite()];
    places.extend(Place::postgres().await);
    places
}

/// Waits until the store's sums are these.
async fn settles_at(instance: &Instance, sums: (u64, u64)) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let found = instance.sums().await;
        if found == sums {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {sums:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Calls of random needs at once over several instances; returns what was used of the limit.
async fn crowd(instances: &[Instance], limit: u64, calls: u64) -> u64 {
    let engine = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for call in 0..calls {
        let at = usize::try_from(call).unwrap() % instances.len();
        let (budgets, engine) = (instances[at].budgets.clone(), engine.clone());
        let mut rng = StdRng::seed_from_u64(call);
        tasks.spawn(async move {
            sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            let least = rng.random_range(20..200);
            let most = least + rng.random_range(0..2_000);
            let allowance = total(limit);
            let reserved = budgets.reserve(&allowance, Need { least, most }, PATIENCE);
            match reserved.await {
                Ok(call) => {
                    sleep(Duration::from_millis(rng.random_range(0..400))).await;
                    let charge = rng.random_range(0..=call.tokens());
                    let before = engine.fetch_add(charge, Ordering::Relaxed);
                    assert!(before + charge <= limit, "overrun");
                    call.settle(used(charge));
                }
                Err(Refused::UsedUp | Refused::Busy) => {}
                Err(refused @ Refused::Store(_)) => panic!("{refused:?}"),
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a call");
    }
    engine.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_for_a_third_of_the_calls_is_used_up_and_not_overrun() {
    for place in places().await {
        let instances = [
            Instance::at(&place).await,
            Instance::at(&place).await,
            Instance::at(&place).await,
        ];
        let limit = 150_000;
        let engine = crowd(&instances, limit, 500).await;
        assert!(engine * 100 >= limit * 95, "{engine} of {limit} were used");
        settles_at(&instances[0], (engine, 0)).await;
        for instance in &instances {
            let status = instance.budgets.status();
            assert_eq!((status.leased, status.reserved, status.untold), (0, 0, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ample_budget_costs_few_statements() {
    for place in places().await {
        let instances = [Instance::at(&place).await, Instance::at(&place).await];
        // The first exchange prepares the store.
        instances[0].get(1 << 40, 1).await.settle(used(0));
        let count = |instance: &Instance| {
            let exchanges = instance.budgets.status().exchanges;
            [instance.store.statements(), exchanges]
        };
        let before = instances.each_ref().map(count);
        let began = Instant::now();
        let engine = crowd(&instances, 1 << 40, 1_000).await;
        let took = began.elapsed();
        let after = instances.each_ref().map(count);
        let spent =
            |what: usize| -> u64 { (0..2).map(|at| after[at][what] - before[at][what]).sum() };
        let (statements, exchanges) = (spent(0), spent(1));
        println!(
            "postgres: {}; for 1,000 reservations of two instances in {took:?}: {statements} statements in {exchanges} exchanges",
            place.is_postgres()
        );
        // An instance settles many calls together; and it leases now and then.
        assert!(exchanges <= 100, "{exchanges} exchanges");
        assert!(statements <= 9 * exchanges, "{statements} statements");
        settles_at(&instances[0], (engine, 0)).await;
    }
}

#[tokio::test]
async fn a_killed_instance_costs_its_lease_and_a_frozen_one_gets_its_own_back() {
    for place in places().await {
        let [killed, frozen, other] = [
            Instance::at(&place).await,
            Instance::at(&place).await,
            Instance::at(&place).await,
        ];
        let lost = killed.get(10_000, 1_000).await;
        let held = frozen.get(10_000, 3_000).await;
        killed.settling.abort();
        frozen.settling.abort();
        let (_, leased) = other.sums().await;
        place.run("UPDATE leases SET expires_at_ms = 1").await;
        let refused = other.reserve(10_000, 10_000 - leased + 1).await.err();
        assert!(matches!(refused, Some(Refused::UsedUp)), "{refused:?}");
        assert_eq!(other.sums().await, (leased, 0));
        // Awake again.
        held.settle(used(500));
        assert_eq!(frozen.budgets.drain(Duration::from_secs(5)).await, 0);
        assert_eq!(other.sums().await, (1_500, 0));
        // That it was used up is remembered for a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        let call = loop {
            match other.reserve(10_000, 8_500).await {
                Ok(call) => break call,
                Err(refused) => assert!(Instant::now() < deadline, "{refused:?}"),
            }
            tokio::task::yield_now().await;
        };
        call.settle(used(8_500));
        settles_at(&other, (10_000, 0)).await;
        drop(lost);
    }
}

#[tokio::test]
async fn a_store_that_went_back_in_time_is_served_and_nothing_is_forgotten() {
    for place in places().await {
        let instance = Instance::at(&place).await;
        let call = instance.get(100_000, 1_000).await;
        instance.get(100_000, 5_000).await.settle(used(10));
        instance.budgets.tell(OWNER).await;
        place.run("UPDATE leases SET number = number - 2").await;
        instance.get(100_000, 100).await.settle(used(20));
        instance.budgets.tell(OWNER).await;
        let (before, _) = instance.sums().await;
        assert!(before >= 30, "{before}");
        // Calls of before and after are served and counted.
        instance.get(100_000, 50_000).await.settle(used(7));
        call.settle(used(400));
        assert_eq!(instance.budgets.drain(Duration::from_secs(5)).await, 0);
        let (after, _) = instance.sums().await;
        assert!(after >= 437, "{after}");
    }
}

#[tokio::test]
async fn days_and_sums_are_those_of_the_calls() {
    for place in places().await {
        let instance = Instance::at(&place).await;
        let monthly = Allowance {
            period: Period::Month,
            limit: None,
            ..total(0)
        };
        let need = Need { least: 1, most: 1 };
        for _ in 0..10 {
            let call = instance.budgets.reserve(&monthly, need, PATIENCE).await;
            call.expect("no limit").settle(Used {
                charge: 30,
                prompt_tokens: 10,
                completion_tokens: 20,
            });
        }
        instance.budgets.tell(OWNER).await;
        let start_ms = instance.budgets.period_start_ms(Period::Month);
        let found = instance.store.budget_use(OWNER, start_ms, 0).await;
        let found = found.expect("an answer");
        assert_eq!((found.used, found.leased), (300, 0));
        let days = found
            .days
            .iter()
            .map(|day| [day.requests, day.prompt_tokens, day.completion_tokens]);
        let sums = days.fold([0; 3], |sum, day| [0, 1, 2].map(|at| sum[at] + day[at]));
        assert_eq!(sums, [10, 100, 200]);
    }
}
