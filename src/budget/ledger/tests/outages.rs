//! A store that is down, slow, mute or back again.

use super::super::super::model::Link;
use super::*;

#[tokio::test(start_paused = true)]
async fn with_a_lease_calls_go_on_until_it_nears_its_end() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.settle(used(1));
    bench.model.set(Link::Down);
    let began = Instant::now();
    let mut served = 0;
    let refused = loop {
        match bench.reserve(1_000_000, (100, 100), PATIENCE).await {
            Ok(call) => {
                served += 1;
                call.settle(used(1));
            }
            Err(refused) => break refused,
        }
        sleep(seconds(1)).await;
    };
    assert!(matches!(refused, Refused::Store(_)));
    let lasted = began.elapsed();
    assert!(
        lasted > seconds(50) && lasted + seconds(4) <= LIFE,
        "{lasted:?}"
    );
    // Nothing that was used while the store was away is lost.
    bench.model.set(Link::Good);
    sleep(seconds(6)).await;
    bench.get(1_000_000, 100).await.settle(used(1));
    sleep(seconds(10)).await;
    assert_eq!(bench.sums(), (served + 2, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_a_call_learns_at_once_that_the_store_is_down() {
    let bench = Bench::new();
    bench.model.set(Link::Hung);
    let began = Instant::now();
    let calls: Vec<_> = (0..100).map(|_| bench.begin(1_000, 100)).collect();
    for call in calls {
        let refused = call.await.unwrap().err();
        assert!(matches!(refused, Some(Refused::Store(_))), "{refused:?}");
    }
    assert!(began.elapsed() <= ATTEMPT + Duration::from_millis(10));
    let again = Instant::now();
    let refused = bench.reserve(1_000, (1, 1), PATIENCE).await.err();
    assert!(matches!(refused, Some(Refused::Store(_))));
    assert_eq!(again.elapsed(), Duration::ZERO);
    // Once a second somebody tries.
    bench.model.set(Link::Good);
    sleep(seconds(1)).await;
    bench.get(1_000, 100).await.settle(used(1));
}

#[tokio::test(start_paused = true)]
async fn what_is_only_counted_does_not_notice_the_store() {
    let bench = Bench::new();
    bench.model.set(Link::Hung);
    let began = Instant::now();
    let free = Allowance {
        limit: None,
        ..allowance(0)
    };
    let watched = Allowance {
        owner: "service:dry".into(),
        dry_run: true,
        ..allowance(10)
    };
    let need = Need {
        least: 100,
        most: 100,
    };
    for _ in 0..50 {
        for allowance in [&free, &watched] {
            let call = bench.budgets.reserve(allowance, need, PATIENCE).await;
            let call = call.expect("nothing is limited");
            assert_eq!((call.tokens(), call.slip()), (100, None));
            call.settle(used(3));
        }
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(bench.budgets.status().untold, 300);
    sleep(seconds(30)).await;
    assert_eq!(bench.budgets.status().untold, 300);
    bench.model.set(Link::Good);
    sleep(seconds(15)).await;
    assert_eq!(bench.sums(), (150, 0));
    assert_eq!(bench.model.sums("service:dry"), (150, 0));
    assert_eq!(bench.budgets.status().owners, 0);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_lost_exchanges_change_no_sum() {
    let bench = Bench::new();
    let mut total = 0;
    for round in 0_u64..60 {
        let link = [Link::Good, Link::Mute, Link::Down, Link::Good, Link::Hung];
        bench.model.set(link[usize::try_from(round).unwrap() % 5]);
        if let Ok(call) = bench.reserve(1_000_000, (1_000, 9_000), seconds(1)).await {
            sleep(Duration::from_millis(round * 37)).await;
            call.settle(used(round * 10));
            total += round * 10;
        }
        sleep(Duration::from_millis(700)).await;
    }
    bench.model.set(Link::Good);
    sleep(seconds(10)).await;
    assert!(total > 5_000, "{total}: most were served");
    assert_eq!(bench.sums(), (total, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_the_store_is_asked_leaks_nothing() {
    let bench = Bench::new();
    *lock(&bench.model.latency) = Duration::from_millis(100);
    for after_ms in [0, 10, 49, 51, 99] {
        let call = bench.begin(1_000_000, 40_000);
        sleep(Duration::from_millis(after_ms)).await;
        call.abort();
        let _ = call.await;
    }
    sleep(seconds(10)).await;
    assert_eq!(bench.sums(), (0, 0));
    assert_eq!(bench.budgets.status().owners, 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_freeze_everything_is_judged_by_time() {
    let bench = Bench::new();
    let call = bench.get(1_000, 600).await;
    // Frozen: nothing of it runs, and another instance charges its lease.
    bench.running.abort();
    let other = Bench::with(bench.model.clone());
    sleep(2 * LIFE).await;
    let refused = other.reserve(1_000, (500, 500), PATIENCE).await.err();
    assert!(matches!(refused, Some(Refused::UsedUp)), "{refused:?}");
    // Awake again: nothing is admitted on the old lease, and what was not used is credited.
    let next = bench.get(1_000, 300).await;
    call.settle(used(50));
    next.settle(used(5));
    assert_eq!(bench.budgets.drain(seconds(1)).await, 0);
    assert_eq!(other.budgets.drain(seconds(1)).await, 0);
    assert_eq!(bench.sums(), (55, 0));
}

#[tokio::test(start_paused = true)]
async fn the_drain_tells_everything_and_has_an_end() {
    let bench = Bench::new();
    bench.get(1_000_000, 100).await.settle(used(40));
    let still = bench.get(1_000_000, 100).await;
    assert_eq!(bench.budgets.drain(seconds(5)).await, 0);
    assert_eq!(bench.sums(), (40, 100), "what a call holds stays leased");
    still.settle(used(3));
    bench.model.set(Link::Mute);
    let began = Instant::now();
    assert_eq!(bench.budgets.drain(seconds(2)).await, 3);
    assert!(began.elapsed() <= Duration::from_millis(2_100));
    bench.model.set(Link::Good);
    assert_eq!(bench.budgets.drain(seconds(2)).await, 0);
    assert_eq!(bench.sums(), (43, 0));
}
