//! Waiting, single flight, back-off and drain against the model of the store, in paused time.

mod alerts;
mod crowd;
mod outages;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};

use super::super::Used;
use super::super::entry::lock;
use super::super::model::Model;
use super::*;

const LIFE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(10);
const MIDNIGHT_MS: i64 = 20_000 * 86_400_000;

const NINE_HUNDRED: Need = Need {
    least: 900,
    most: 900,
};

struct Bench {
    model: Arc<Model>,
    budgets: Arc<Budgets>,
    running: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Arc::new(Model::new(MIDNIGHT_MS)))
    }

    fn with(model: Arc<Model>) -> Self {
        let source = Source::Model(model.clone());
        let budgets = Arc::new(Budgets::with_source(source, LIFE));
        let settling = budgets.clone();
        let running = tokio::spawn(async move { settling.run().await });
        Self {
            model,
            budgets,
            running,
        }
    }

    async fn reserve(
        &self,
        limit: u64,
        need: (u64, u64),
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        let (least, most) = need;
        let need = Need { least, most };
        self.budgets
            .reserve(&allowance(limit), need, patience)
            .await
    }

    async fn get(&self, limit: u64, tokens: u64) -> Reservation {
        let reserved = self.reserve(limit, (tokens, tokens), PATIENCE).await;
        reserved.expect("tokens")
    }

    /// A call in a task of its own.
    fn begin(&self, limit: u64, tokens: u64) -> JoinHandle<Result<Reservation, Refused>> {
        let budgets = self.budgets.clone();
        tokio::spawn(async move {
            let need = Need {
                least: tokens,
                most: tokens,
            };
            budgets.reserve(&allowance(limit), need, PATIENCE).await
        })
    }

    fn sums(&self) -> (u64, u64) {
        self.model.sums("service:x")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn allowance(limit: u64) -> Allowance {
    Allowance {
        owner: "service:x".into(),
        limit: Some(limit),
        period: Period::Total,
        dry_run: false,
    }
}

/// A bench some time before midnight, and a limit for the day.
fn evening(before: Duration, limit: u64) -> (Bench, Allowance) {
    let before_ms = i64::try_from(before.as_millis()).unwrap();
    let allowance = Allowance {
        period: Period::Day,
        ..allowance(limit)
    };
    (
        Bench::with(Arc::new(Model::new(MIDNIGHT_MS - before_ms))),
        allowance,
    )
}

fn used(charge: u64) -> Used {
    Used {
        charge,
        prompt_tokens: charge,
        completion_tokens: 0,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_lease_wait_for_nobody() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.settle(used(50));
    let began = Instant::now();
    for _ in 0..100 {
        bench.get(1_000_000, 100).await.settle(used(50));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(bench.model.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_reaches_the_store_within_a_second_and_its_excess_goes_back() {
    let bench = Bench::new();
    let call = bench.get(1_000_000, 500_000).await;
    assert_eq!(bench.sums(), (0, 500_000));
    sleep(seconds(30)).await;
    assert_eq!(bench.sums(), (0, 500_000));
    call.settle(used(100));
    sleep(seconds(1)).await;
    let (used, leased) = bench.sums();
    assert_eq!(used, 100);
    assert!(leased <= 20_000, "{leased} are leased beyond a slice");
}

#[tokio::test(start_paused = true)]
async fn who_comes_together_asks_the_store_once() {
    let bench = Bench::new();
    let calls: Vec<_> = (0..200).map(|_| bench.begin(1_000_000, 100)).collect();
    let mut held = Vec::new();
    for call in calls {
        held.push(call.await.unwrap().expect("tokens"));
    }
    assert_eq!(bench.model.exchanges(), 1);
    // 200 x 100 are a slice; the next one is another.
    held.push(bench.get(1_000_000, 100).await);
    assert_eq!(bench.model.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_what_is_left_if_that_is_enough() {
    let bench = Bench::new();
    let first = bench.get(1_000, 700).await;
    let second = bench.reserve(1_000, (100, 700), PATIENCE).await;
    let second = second.expect("what is left");
    assert_eq!(second.tokens(), 300);
    assert_eq!(second.standing().remaining, 0);
    assert_eq!(second.standing().limit, Some(1_000));
    assert_eq!(second.standing().reset, None);
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_wakes_the_first_who_waits() {
    let bench = Bench::new();
    let first = bench.get(1_000, 900).await;
    let began = Instant::now();
    let waiting = [bench.begin(1_000, 600), bench.begin(1_000, 200)];
    sleep(seconds(4)).await;
    assert!(waiting.iter().all(|call| !call.is_finished()));
    first.settle(used(10));
    let [one, other] = waiting;
    let one = one.await.unwrap().expect("room");
    assert!(began.elapsed() < Duration::from_millis(4_010));
    let other = other.await.unwrap().expect("room");
    assert!(began.elapsed() < Duration::from_millis(4_300));
    assert_eq!((one.tokens(), other.tokens()), (600, 200));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_in_vain_is_told_in_time_and_the_store_is_spared() {
    let bench = Bench::new();
    let first = bench.get(1_000, 900).await;
    let before = bench.model.exchanges();
    let began = Instant::now();
    let waiting: Vec<_> = (0..100).map(|_| bench.begin(1_000, 500)).collect();
    for call in waiting {
        let refused = call.await.unwrap().err();
        assert!(matches!(refused, Some(Refused::Busy)), "{refused:?}");
    }
    let waited = began.elapsed();
    assert!(waited >= PATIENCE && waited < PATIENCE + seconds(1));
    let asked = bench.model.exchanges() - before;
    assert!(asked <= 42, "{asked} exchanges in ten seconds");
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_is_refused_at_once_and_from_memory() {
    let bench = Bench::new();
    bench.get(1_000, 900).await.settle(used(900));
    let began = Instant::now();
    let before = bench.model.exchanges();
    for _ in 0..1_000 {
        let refused = bench.reserve(1_000, (200, 300), PATIENCE).await.err();
        assert!(matches!(refused, Some(Refused::UsedUp)), "{refused:?}");
        advance(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(1_100));
    let asked = bench.model.exchanges() - before;
    assert!(asked <= 7, "{asked} exchanges in a second");
    // A raised limit is looked at without delay, and a lowered one holds at once.
    bench.get(2_000, 300).await.settle(used(0));
    let refused = bench.reserve(1_000, (200, 300), PATIENCE).await.err();
    assert!(matches!(refused, Some(Refused::UsedUp)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_idle_gives_everything_back_and_is_forgotten() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.settle(used(40));
    sleep(seconds(4)).await;
    assert_eq!(bench.sums(), (40, 0));
    assert_eq!(bench.budgets.status().owners, 0);
    let told = bench.model.exchanges();
    sleep(seconds(3_600)).await;
    assert_eq!(bench.model.exchanges(), told);
}

#[tokio::test(start_paused = true)]
async fn a_long_call_keeps_its_lease() {
    let bench = Bench::new();
    let call = bench.get(1_000_000, 100).await;
    sleep(seconds(1_000)).await;
    let other = Bench::with(bench.model.clone());
    other.get(1_000_000, 100).await.settle(used(0));
    assert_eq!(bench.sums().0, 0, "nothing was charged");
    call.settle(used(7));
    sleep(seconds(5)).await;
    assert_eq!(bench.sums(), (7, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_settles_in_the_period_of_its_admission() {
    let (bench, allowance) = evening(seconds(5), 1_000);
    let reserve = || async {
        let reserved = bench.budgets.reserve(&allowance, NINE_HUNDRED, PATIENCE);
        reserved.await.expect("tokens")
    };
    // The machine's own clock is years off.
    let yesterday = reserve().await;
    assert_eq!(yesterday.standing().reset.unwrap().as_secs(), 4);
    sleep(seconds(6)).await;
    let today = reserve().await;
    yesterday.settle(used(300));
    today.settle(used(20));
    sleep(seconds(5)).await;
    let state = lock(&bench.model.state);
    let used_in = |start_ms: i64| state.budgets[&("service:x".to_owned(), start_ms)].used;
    assert_eq!(used_in(MIDNIGHT_MS - 86_400_000), 300);
    assert_eq!(used_in(MIDNIGHT_MS), 20);
    let days = state.days.values();
    let days = days.map(|day| (day.requests, day.prompt_tokens));
    assert_eq!(days.collect::<Vec<_>>(), [(1, 300), (1, 20)]);
}

#[tokio::test(start_paused = true)]
async fn in_the_last_second_of_a_period_the_store_says_which_it_is() {
    let (bench, allowance) = evening(seconds(5), 1_000_000);
    let reserve = || bench.budgets.reserve(&allowance, NINE_HUNDRED, PATIENCE);
    reserve().await.expect("tokens").settle(used(1));
    sleep(Duration::from_millis(4_300)).await;
    let before = bench.model.exchanges();
    let calls = join_all((0..20).map(|_| reserve())).await;
    for call in calls {
        call.expect("tokens").settle(used(1));
    }
    let asked = bench.model.exchanges() - before;
    assert!((1..=2).contains(&asked), "{asked} exchanges");
}

#[tokio::test(start_paused = true)]
async fn use_can_be_told_at_once() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.settle(used(40));
    bench.budgets.tell("service:x").await;
    assert_eq!(bench.sums().0, 40);
    assert_eq!(bench.budgets.status().untold, 0);
    bench.budgets.tell("service:unknown").await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_none_leaves_no_trace() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.release();
    sleep(seconds(5)).await;
    assert_eq!(bench.sums(), (0, 0));
    assert!(lock(&bench.model.state).days.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_dropped_is_charged_whole_and_excess_is_counted() {
    let bench = Bench::new();
    drop(bench.get(1_000_000, 100).await);
    bench.get(1_000_000, 100).await.settle(used(250));
    sleep(seconds(5)).await;
    assert_eq!(bench.sums(), (350, 0));
}

#[tokio::test(start_paused = true)]
async fn admissions_on_a_lease_are_numbered() {
    let bench = Bench::new();
    let first = bench.get(1_000_000, 100).await.slip().expect("a lease");
    let second = bench.get(1_000_000, 100).await.slip().expect("a lease");
    assert_eq!((first.number, second.number), (1, 2));
    assert_eq!((&*first.owner, &first.lease), ("service:x", &second.lease));
}
