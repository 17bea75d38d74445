//! What a minute promises.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

fn second() -> Duration {
    Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_minute_are_counted_whatever_they_cost() {
    let limits = Arc::new(MinuteLimits::new(Some(2), None));
    advance(second() / 2).await;
    limits.take(1_000).expect("the first").settle(0);
    advance(second() * 10).await;
    let share = limits.take(0).expect("the second");
    // The first counts until sixty whole seconds have passed since its own.
    let wait = limits.take(0).expect_err("the third");
    assert_eq!(wait, Duration::from_millis(50_500));
    let (requests, tokens) = limits.standing();
    let requests = requests.expect("a limit");
    assert_eq!((requests.limit, requests.remaining), (Some(2), 0));
    assert_eq!(requests.reset, Some(MINUTE));
    assert_eq!(tokens, None);
    advance(Duration::from_millis(50_499)).await;
    limits.take(0).expect_err("too early");
    advance(Duration::from_millis(1)).await;
    limits.take(0).expect("in time");
    drop(share);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_none_gives_its_request_back() {
    let limits = Arc::new(MinuteLimits::new(Some(2), None));
    let none = limits.take(0).expect("the first");
    limits.take(0).expect("the second").settle(0);
    limits.take(0).expect_err("the third");
    advance(second() * 60).await;
    drop(none);
    assert_eq!(limits.standing().0.expect("a limit").remaining, 1);
    let late = limits.take(0).expect("room");
    advance(second() * 61).await;
    // Nothing counts any more: nothing is taken back of what others used since.
    limits.take(0).expect("room").settle(0);
    drop(late);
    assert_eq!(limits.standing().0.expect("a limit").remaining, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_holds_what_it_may_use_and_leaves_what_it_used() {
    let limits = Arc::new(MinuteLimits::new(None, Some(100)));
    let first = limits.take(70).expect("room");
    // Below the limit a call goes, however much it may use.
    let second_call = limits.take(70).expect("there is something left");
    assert_eq!(limits.take(1).expect_err("all is held"), UNKNOWN);
    first.settle(10);
    assert_eq!(limits.standing().1.expect("a limit").remaining, 60);
    second_call.settle(95);
    let wait = limits.take(1).expect_err("105 were used");
    assert_eq!(wait, MINUTE);
    advance(second() * 61).await;
    assert_eq!(limits.standing().1.expect("a limit").remaining, 100);
    assert_eq!(
        limits.standing().1.expect("a limit").reset,
        Some(Duration::ZERO)
    );
    // Without word nothing counts.
    let share = limits.take(40).expect("room");
    assert_eq!(limits.standing().1.expect("a limit").remaining, 60);
    drop(share);
    assert_eq!(limits.standing().1.expect("a limit").remaining, 100);
}

#[tokio::test(start_paused = true)]
async fn after_an_hour_nothing_is_left_of_a_minute() {
    let limits = Arc::new(MinuteLimits::new(Some(1), Some(1)));
    limits.take(5).expect("room").settle(5);
    advance(second() * 3_600).await;
    limits.take(5).expect("room").settle(0);
    let (requests, tokens) = limits.standing();
    assert_eq!(requests.expect("a limit").remaining, 0);
    assert_eq!(tokens.expect("a limit").remaining, 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_nothing_lets_nobody_in() {
    for limits in [(Some(0), None), (None, Some(0))] {
        let limits = Arc::new(MinuteLimits::new(limits.0, limits.1));
        let wait = limits.take(1).expect_err("no room");
        assert!(!wait.is_zero() && wait <= MINUTE);
    }
}

proptest! {
    /// Any sixty seconds see at most the limit; and who comes back when told gets in.
    #[test]
    fn no_sixty_seconds_see_more_requests_than_the_limit(
        limit in 1_u64..20,
        pauses_ms in prop::collection::vec(prop_oneof![0_u64..300, 0_u64..5_000, 0_u64..70_000], 1..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = Arc::new(MinuteLimits::new(Some(limit), None));
            let mut taken = VecDeque::new();
            for pause_ms in pauses_ms {
                advance(Duration::from_millis(pause_ms)).await;
                match limits.take(1) {
                    Err(wait) => {
                        assert!(wait <= MINUTE && !wait.is_zero());
                        if wait < MINUTE {
                            advance(wait).await;
                            limits.take(1).expect("room when told").settle(1);
                            taken.push_back(Instant::now());
                        }
                    }
                    Ok(share) => {
                        share.settle(1);
                        taken.push_back(Instant::now());
                    }
                }
                let now = Instant::now();
                taken.retain(|at| now.duration_since(*at) < MINUTE);
                assert!(taken.len() as u64 <= limit);
            }
        });
    }
}
