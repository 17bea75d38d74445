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

pub fn day(day: i64, of: u64) -> DayUse {
    DayUse {
        day_ms: day * 86_400_000,
        requests: of,
        prompt_tokens: 10 * of,
        completion_tokens: 3 * of,
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

    let began = std::time::Instant::now();
    let mut last = two;
    for _ in 0..200 {
        last = Exchange {
            spent: 1,
            days: vec![day(0, 1)],
            ..wanting(next(&last), 1)
        };
        exchange(&store, &last).await;
    }
    let took_us = began.elapsed().as_micros() / 200;
    println!("an exchange takes {took_us} us: {:?}", place.database);
}
