//! What exchanges add up: use without leases, days, huge numbers, and the shares of a limit.

use futures_util::future::join_all;
use tollgate::store::{DayUse, Exchange};

use super::bench::{Place, on_both};
use super::budgets::{day, exchange, first, next, wanting};

on_both! {
    without_a_limit_use_is_only_counted;
    days_are_summed;
    sums_stop_at_the_highest_number;
    each_share_of_the_limit_is_told_once;
    a_higher_limit_is_told_of_anew;
}

async fn without_a_limit_use_is_only_counted(place: Place) {
    let store = place.store().await;
    let one = Exchange {
        limit: None,
        unleased: 7,
        ..wanting(first("service:ci", "a"), 100)
    };
    let answer = exchange(&store, &one).await;
    assert_eq!((answer.granted, answer.used, answer.passed), (0, 7, None));
    let two = Exchange {
        limit: None,
        unleased: 8,
        ..next(&one)
    };
    assert_eq!(exchange(&store, &two).await.used, 15);
    // Watched only: a limit is told of and not enforced.
    let three = Exchange {
        limit: Some(16),
        unleased: 85,
        ..next(&two)
    };
    let answer = exchange(&store, &three).await;
    assert_eq!((answer.used, answer.passed), (100, Some(100)));
}

async fn days_are_summed(place: Place) {
    let store = place.store().await;
    let one = Exchange {
        days: vec![day(20_001, 2), day(20_000, 1)],
        ..first("user:1", "a")
    };
    exchange(&store, &one).await;
    let two = Exchange {
        days: vec![day(20_001, 5), day(20_003, 1)],
        ..next(&one)
    };
    exchange(&store, &two).await;
    let other = Exchange {
        days: vec![day(20_001, 100)],
        ..first("user:2", "b")
    };
    exchange(&store, &other).await;
    let since = |day: i64| store.budget_use("user:1", 0, day * 86_400_000);
    let all = [day(20_000, 1), day(20_001, 7), day(20_003, 1)];
    assert_eq!(since(0).await.unwrap().days, all);
    assert_eq!(since(20_001).await.unwrap().days, all[1..]);
    assert_eq!(since(20_004).await.unwrap().days, []);
}

async fn sums_stop_at_the_highest_number(place: Place) {
    const MOST: u64 = i64::MAX as u64;
    let store = place.store().await;
    let huge = Exchange {
        limit: Some(u64::MAX),
        ..wanting(first("user:1", "a"), u64::MAX)
    };
    let answer = exchange(&store, &huge).await;
    assert_eq!((answer.granted, answer.leased), (MOST, MOST));
    let spent = Exchange {
        limit: Some(u64::MAX),
        spent: u64::MAX,
        unleased: u64::MAX,
        returned: u64::MAX,
        ..next(&huge)
    };
    let answer = exchange(&store, &spent).await;
    assert_eq!(
        (answer.used, answer.leased, answer.passed),
        (MOST, 0, Some(100))
    );
    let largest = DayUse {
        day_ms: 0,
        requests: u64::MAX,
        prompt_tokens: MOST,
        completion_tokens: 1,
    };
    let mut last = spent;
    for _ in 0..3 {
        last = Exchange {
            limit: None,
            days: vec![largest, largest],
            unleased: 1,
            ..next(&last)
        };
        assert_eq!(exchange(&store, &last).await.used, MOST);
    }
    let days = store.budget_use("user:1", 0, 0).await.unwrap().days;
    assert_eq!(
        days,
        [DayUse {
            requests: MOST,
            completion_tokens: 6,
            ..largest
        }]
    );
    let forever = Exchange {
        life_ms: i64::MAX,
        ..next(&last)
    };
    assert_eq!(exchange(&store, &forever).await.expires_at_ms, i64::MAX);
}

async fn each_share_of_the_limit_is_told_once(place: Place) {
    let stores = [place.store().await, place.store().await];
    let users = (0..20).map(|at| {
        let store = stores[at % 2].clone();
        let use_it = Exchange {
            unleased: 50,
            ..first("user:1", &at.to_string())
        };
        async move { exchange(&store, &use_it).await.passed }
    });
    let mut told: Vec<u8> = join_all(users).await.into_iter().flatten().collect();
    told.sort_unstable();
    assert_eq!(told, [80, 100]);
    let at_once = Exchange {
        unleased: 2_000,
        ..first("user:2", "x")
    };
    assert_eq!(exchange(&stores[0], &at_once).await.passed, Some(100));
}

async fn a_higher_limit_is_told_of_anew(place: Place) {
    let store = place.store().await;
    let mut last = Exchange {
        unleased: 900,
        ..first("user:1", "a")
    };
    assert_eq!(exchange(&store, &last).await.passed, Some(80));
    for (limit, unleased, passed) in [
        (1_000, 0, None),
        (2_000, 0, None),
        (2_000, 700, Some(80)),
        (2_000, 300, None),
        (2_000, 100, Some(100)),
        (2_200, 0, None),
        (4_000, 1_500, Some(80)),
    ] {
        last = Exchange {
            limit: Some(limit),
            unleased,
            ..next(&last)
        };
        assert_eq!(exchange(&store, &last).await.passed, passed, "{last:?}");
    }
}
