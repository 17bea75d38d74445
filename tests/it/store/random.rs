//! Random exchanges against a simple model: what the store answers is what the model says.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tollgate::store::{Exchange, Store};

use super::bench::Place;
use super::budgets::{LONG_MS, exchange, first, sums};

const LIMIT: u64 = 1_000;

/// One step of one of three instances.
#[derive(Clone, Debug)]
struct Step {
    instance: usize,
    /// Of what it holds, in percent; above a hundred: more than that.
    spent: u64,
    returned: u64,
    unleased: u64,
    least: u64,
    most: u64,
    dies: bool,
    is_sent_twice: bool,
    begins_anew: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tokens = prop_oneof![Just(0), 1..400_u64];
    let flags = (any::<bool>(), any::<bool>(), 0..6_u8, 0..5_u8);
    let step = (
        0..3_usize,
        0..120_u64,
        0..100_u64,
        0..20_u64,
        tokens.clone(),
        tokens,
        flags,
    );
    let step = step.prop_map(
        |(instance, spent, returned, unleased, least, most, flags)| Step {
            instance,
            spent,
            returned,
            unleased: if flags.0 { unleased } else { 0 },
            least: least.min(most),
            most,
            is_sent_twice: flags.1,
            dies: flags.2 == 0,
            begins_anew: flags.3 == 0,
        },
    );
    vec(step, 1..25)
}

/// A budget as simple as can be: what each lease holds, what was told, what nobody accounts for.
#[derive(Default)]
struct Model {
    leases: BTreeMap<String, Held>,
    /// Told to be used.
    told: u64,
}

#[derive(Default)]
struct Held {
    tokens: u64,
    is_charged: bool,
    is_dead: bool,
}

impl Model {
    fn held(&self, is_charged: bool) -> u64 {
        let held = self
            .leases
            .values()
            .filter(|held| held.is_charged == is_charged);
        held.map(|held| held.tokens).sum()
    }

    fn used(&self) -> u64 {
        self.told + self.held(true)
    }

    fn charge_dead(&mut self) {
        for held in self.leases.values_mut().filter(|held| held.is_dead) {
            held.is_charged = true;
        }
    }

    /// What is granted.
    fn apply(&mut self, exchange: &Exchange) -> u64 {
        self.charge_dead();
        let held = self.leases.entry(exchange.lease.clone()).or_default();
        let rest = held.tokens.saturating_sub(exchange.spent);
        held.tokens = rest.saturating_sub(exchange.returned);
        held.is_dead = exchange.life_ms == 0;
        let is_charged = held.is_charged;
        self.told += exchange.spent + exchange.unleased;
        let room = LIMIT.saturating_sub(self.used() + self.held(false));
        let granted = exchange.most.min(room);
        if is_charged || granted < exchange.least {
            return 0;
        }
        self.leases
            .entry(exchange.lease.clone())
            .or_default()
            .tokens += granted;
        granted
    }
}

/// Runs the steps on a budget of its own.
async fn follow(store: &Store, owner: &str, steps: &[Step]) {
    let mut model = Model::default();
    let mut last: [Option<Exchange>; 3] = Default::default();
    let mut made = 0;
    for step in steps {
        let told = &mut last[step.instance];
        let goes_on = told.take().filter(|_| !step.begins_anew);
        made += u32::from(goes_on.is_none());
        let begun = || (format!("{owner}-{made}"), 1);
        let (lease, number) = goes_on.map_or_else(begun, |last| (last.lease, last.number + 1));
        let held = model.leases.get(&lease).map_or(0, |held| held.tokens);
        let now = Exchange {
            limit: Some(LIMIT),
            number,
            spent: held * step.spent / 100,
            returned: held * step.returned / 100,
            unleased: step.unleased,
            least: step.least,
            most: step.most,
            life_ms: if step.dies { 0 } else { LONG_MS },
            ..first(owner, &lease)
        };
        let answer = exchange(store, &now).await;
        let granted = model.apply(&now);
        let said = (
            answer.used,
            answer.leased,
            answer.granted,
            answer.is_charged,
        );
        let is_charged = model.leases[&lease].is_charged;
        let expected = (model.used(), model.held(false), granted, is_charged);
        assert_eq!(said, expected, "{now:?} of {steps:#?}");
        assert!(granted == 0 || answer.used + answer.leased <= LIMIT);
        // A dead one is charged by the next exchange, which the second would be.
        if step.is_sent_twice && !step.dies {
            assert_eq!(exchange(store, &now).await.granted, granted);
        }
        last[step.instance] = Some(now);
    }
    // Who merely looks sees a dead one as charged.
    model.charge_dead();
    assert_eq!(sums(store, owner).await, (model.used(), model.held(false)));
}

fn check(place: &Place, cases: u32, runtime: &tokio::runtime::Runtime) {
    let store = runtime.block_on(place.store());
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let case = std::cell::Cell::new(0);
    let outcome = runner.run(&steps(), |steps| {
        case.set(case.get() + 1);
        let owner = format!("user:{}", case.get());
        runtime.block_on(follow(&store, &owner, &steps));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

#[test]
fn random_exchanges_do_what_the_model_does_on_sqlite() {
    check(&Place::sqlite(), 200, &runtime());
}

#[test]
fn random_exchanges_do_what_the_model_does_on_postgres() {
    let runtime = runtime();
    if let Some(place) = runtime.block_on(Place::postgres()) {
        check(&place, 60, &runtime);
    }
}
