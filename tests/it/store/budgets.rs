//! Exchanges: what they settle, grant and answer, and that they are applied once.

use std::sync::Arc;

use futures_util::future::join_all;
use tollgate::store::{DayUse, Exchange, Exchanged, Store};

use super::bench::{Place, in_words, on_both};

/// Longer than any test.
pub const LONG_MS: i64 = 3_600_000;

on_both! {
    a_lease_is_granted_spent_and_returned;
    an_exchange_sent_again_is_answered_again;
    an_exchange_out_of_order_is_refused;
    fifty_at_once_never_exceed_the_limit;
    a_grant_is_between_least_and_most;
    nothing_is_granted_outside_the_period;
    without_a_limit_use_is_only_counted;
    days_are_summed;
    sums_stop_at_the_highest_number;
    each_share_of_the_limit_is_told_once;
    a_higher_limit_is_told_of_anew;
    names_of_owners_and_leases_are_data;
    an_exchange_takes_few_statements;
}

/// The first exchange of a lease, which wants nothing.
pub fn first(owner: &str, lease: &str) -> Exchange {
    Exchange {
        owner: owner.to_owned(),
        period_start_ms: 0,
        period_end_ms: None,
        limit: Some(1_000),
        lease: lease.to_owned(),
        number: 1,
        spent: 0,
        returned: 0,
        unleased: 0,
        days: Vec::new(),
        least: 0,
        most: 0,
        life_ms: LONG_MS,
    }
}

/// The exchange after this one, which tells and wants nothing.
pub fn next(last: &Exchange) -> Exchange {
    Exchange {
        number: last.number + 1,
        ..first(&last.owner, &last.lease)
    }
}

/// Wants between one and so many tokens.
pub fn wanting(exchange: Exchange, most: u64) -> Exchange {
    Exchange {
        least: 1,
        most,
        ..exchange
    }
}

pub async fn exchange(store: &Store, exchange: &Exchange) -> Exchanged {
    let answer = store.exchange(exchange).await;
    answer.unwrap_or_else(|error| panic!("{exchange:?}: {}", in_words(error)))
}

/// Used and leased of a total budget.
pub async fn sums(store: &Store, owner: &str) -> (u64, u64) {
    let found = store.budget_use(owner, 0, 0).await.expect("an answer");
    (found.used, found.leased)
}

async fn a_lease_is_granted_spent_and_returned(place: Place) {
    let stores = [place.store().await, place.store().await];
    let one = wanting(first("user:1", "a"), 300);
    let answer = exchange(&stores[0], &one).await;
    assert_eq!((answer.used, answer.leased, answer.granted), (0, 300, 300));
    assert_eq!((answer.is_charged, answer.passed), (false, None));
    assert_eq!(answer.expires_at_ms, answer.now_ms + LONG_MS);

    let two = wanting(first("user:1", "b"), 900);
    let answer = exchange(&stores[1], &two).await;
    assert_eq!(
        (answer.used, answer.leased, answer.granted),
        (0, 1_000, 700)
    );

    let told = Exchange {
        spent: 100,
        returned: 150,
        ..next(&one)
    };
    let answer = exchange(&stores[0], &told).await;
    assert_eq!((answer.used, answer.leased, answer.granted), (100, 750, 0));
    // What went back is there for the other.
    let more = wanting(next(&two), 1_000);
    let answer = exchange(&stores[1], &more).await;
    assert_eq!(
        (answer.used, answer.leased, answer.granted),
        (100, 900, 150)
    );
    let all = Exchange {
        spent: 850,
        ..next(&more)
    };
    let answer = exchange(&stores[1], &all).await;
    assert_eq!(
        (answer.used, answer.leased, answer.passed),
        (950, 50, Some(80))
    );
    assert_eq!(sums(&stores[0], "user:1").await, (950, 50));
    assert_eq!(sums(&stores[0], "user:2").await, (0, 0));
}

async fn an_exchange_sent_again_is_answered_again(place: Place) {
    let store = place.store().await;
    let one = wanting(first("user:1", "a"), 300);
    let answer = exchange(&store, &one).await;
    let again = exchange(&store, &one).await;
    let now_ms = again.now_ms;
    assert_eq!(again, Exchanged { now_ms, ..answer });
    let two = Exchange {
        spent: 290,
        unleased: 600,
        days: vec![day(0, 1)],
        ..wanting(next(&one), 50)
    };
    let answer = exchange(&store, &two).await;
    assert_eq!((answer.granted, answer.passed), (50, Some(80)));
    // Another one's grant in between is seen, the answer is the same.
    exchange(&store, &wanting(first("user:1", "b"), 10)).await;
    for _ in 0..3 {
        let again = exchange(&store, &two).await;
        assert_eq!((again.used, again.leased), (890, 70));
        assert_eq!((again.granted, again.passed), (50, Some(80)));
        assert_eq!(again.expires_at_ms, answer.expires_at_ms);
    }
    let days = store.budget_use("user:1", 0, 0).await.unwrap().days;
    assert_eq!(days, [day(0, 1)]);
}

async fn an_exchange_out_of_order_is_refused(place: Place) {
    let store = place.store().await;
    let one = wanting(first("user:1", "a"), 300);
    exchange(&store, &one).await;
    let two = next(&one);
    let three = Exchange {
        spent: 100,
        ..next(&two)
    };
    let elsewhere = Exchange {
        owner: "user:2".into(),
        ..two.clone()
    };
    let nonsense = [0, -1, i64::MIN].map(|number| Exchange {
        number,
        ..one.clone()
    });
    for wrong in [three.clone(), elsewhere].iter().chain(&nonsense) {
        let error = store.exchange(wrong).await.expect_err("refused");
        assert!(in_words(error).contains("not the next one"), "{wrong:?}");
    }
    exchange(&store, &two).await;
    exchange(&store, &three).await;
    assert!(store.exchange(&two).await.is_err(), "it is too old");
    assert_eq!(sums(&store, "user:1").await, (100, 200));
    assert_eq!(sums(&store, "user:2").await, (0, 0));
}

/// Leases, spends and returns until nothing is granted; what it spent.
async fn spend_all(store: Arc<Store>, limit: u64, at: u64) -> u64 {
    let limited = |exchange| Exchange {
        limit: Some(limit),
        ..exchange
    };
    let mut last = limited(wanting(first("user:1", &format!("lease-{at}")), 20 + at));
    let mut spent = 0;
    loop {
        let answer = exchange(&store, &last).await;
        assert!(answer.used + answer.leased <= limit, "{answer:?}");
        if answer.granted == 0 {
            return spent;
        }
        // Some of it goes back.
        let returned = answer.granted / 3;
        let told = answer.granted - returned;
        spent += told;
        last = limited(Exchange {
            spent: told,
            returned,
            ..wanting(next(&last), 20 + at)
        });
    }
}

async fn fifty_at_once_never_exceed_the_limit(place: Place) {
    let stores = join_all((0..4).map(|_| place.store())).await;
    let limit = 3_000;
    let spenders = (0..50).map(|at| {
        let store = stores[usize::try_from(at).unwrap() % 4].clone();
        tokio::spawn(spend_all(store, limit, at))
    });
    let spent: u64 = join_all(spenders)
        .await
        .into_iter()
        .map(|spent| spent.unwrap())
        .sum();
    assert_eq!(spent, limit);
    assert_eq!(sums(&stores[0], "user:1").await, (limit, 0));
}

async fn a_grant_is_between_least_and_most(place: Place) {
    let store = place.store().await;
    for (at, (least, most, granted)) in [
        (1, 400, 400),
        (601, 700, 0),
        (600, 700, 600),
        (1, 1, 0),
        (0, 1, 0),
        (0, 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = Exchange {
            least,
            most,
            ..first("user:1", &at.to_string())
        };
        assert_eq!(exchange(&store, &wanted).await.granted, granted, "{at}");
    }
    // The limit was lowered below what is taken.
    let lowered = Exchange {
        limit: Some(10),
        ..wanting(first("user:1", "low"), 5)
    };
    assert_eq!(exchange(&store, &lowered).await.granted, 0);
    let nothing = Exchange {
        limit: Some(0),
        ..wanting(first("user:3", "none"), 5)
    };
    let answer = exchange(&store, &nothing).await;
    assert_eq!((answer.granted, answer.passed), (0, None));
}

async fn nothing_is_granted_outside_the_period(place: Place) {
    let store = place.store().await;
    let now_ms = store.budget_use("user:1", 0, 0).await.unwrap().now_ms;
    let within = |start_ms, end_ms, lease| Exchange {
        period_start_ms: start_ms,
        period_end_ms: Some(end_ms),
        ..wanting(first("user:1", lease), 100)
    };
    let now = within(now_ms - LONG_MS, now_ms + LONG_MS, "now");
    assert_eq!(exchange(&store, &now).await.granted, 100);
    let early = within(now_ms + LONG_MS, now_ms + 2 * LONG_MS, "early");
    let late = within(now_ms - 2 * LONG_MS, now_ms, "late");
    for outside in [early, late] {
        let answer = exchange(&store, &outside).await;
        assert_eq!((answer.granted, answer.leased), (0, 0));
        assert!(answer.now_ms >= now_ms);
    }
    // The period of a lease ends: what was used on it is settled there, and nothing more granted.
    let over = Exchange {
        spent: 60,
        unleased: 5,
        period_end_ms: Some(now_ms),
        period_start_ms: now.period_start_ms,
        ..wanting(next(&now), 100)
    };
    let answer = exchange(&store, &over).await;
    assert_eq!((answer.used, answer.leased, answer.granted), (65, 40, 0));
    let of_period = store.budget_use("user:1", now.period_start_ms, 0).await;
    assert_eq!(of_period.unwrap().used, 65);
    assert_eq!(sums(&store, "user:1").await, (0, 0));
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

fn day(day: i64, of: u64) -> DayUse {
    DayUse {
        day_ms: day * 86_400_000,
        requests: of,
        prompt_tokens: 10 * of,
        completion_tokens: 3 * of,
    }
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

async fn names_of_owners_and_leases_are_data(place: Place) {
    let store = place.store().await;
    let hostile = "x'\"); DROP TABLE budgets; --$1?1\\ é ,]}}%_";
    let one = Exchange {
        days: vec![day(1, 1)],
        unleased: 5,
        ..wanting(first(hostile, hostile), 10)
    };
    assert_eq!(exchange(&store, &one).await.granted, 10);
    let found = store.budget_use(hostile, 0, 0).await.unwrap();
    assert_eq!((found.used, found.leased, found.days.len()), (5, 10, 1));
    assert_eq!(sums(&store, "x").await, (0, 0));
    assert!(
        store
            .charged_leases(Some(hostile))
            .await
            .unwrap()
            .is_empty()
    );
}

async fn an_exchange_takes_few_statements(place: Place) {
    let store = place.store().await;
    let one = wanting(first("user:1", "a"), 100);
    exchange(&store, &one).await;
    let before = store.statements();
    let two = Exchange {
        spent: 50,
        days: vec![day(0, 1)],
        ..wanting(next(&one), 100)
    };
    exchange(&store, &two).await;
    // The transaction's begin and end, the budget twice, the lease twice, the day.
    assert_eq!(store.statements() - before, 7);
}
