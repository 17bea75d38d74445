//! Leases that end without word: charged whole, settled late, credited, and forgotten in the end.

use tollgate::store::{ChargedLease, Exchange, Store};

use super::bench::{Place, on_both};
use super::budgets::{exchange, first, next, sums, wanting};

on_both! {
    a_lease_that_ends_without_word_is_charged_whole;
    what_is_told_late_is_credited_once;
    more_than_was_leased_is_counted_all_the_same;
    charged_tokens_are_credited_once_from_elsewhere;
    an_owner_who_tells_after_the_credit_is_counted_again;
    an_ended_lease_is_known_for_a_while_after_it_is_empty;
    old_rows_go_when_the_store_is_opened;
}

/// A lease that is over as soon as it is made.
fn dead(lease: &str, most: u64) -> Exchange {
    Exchange {
        life_ms: 0,
        ..wanting(first("user:1", lease), most)
    }
}

/// Somebody else's exchange.
async fn pass_by(store: &Store, lease: &str) -> (u64, u64) {
    let answer = exchange(store, &first("user:1", lease)).await;
    (answer.used, answer.leased)
}

async fn charged(store: &Store) -> Vec<ChargedLease> {
    store
        .charged_leases(Some("user:1"))
        .await
        .expect("an answer")
}

async fn a_lease_that_ends_without_word_is_charged_whole(place: Place) {
    let stores = [place.store().await, place.store().await];
    let one = dead("a", 300);
    assert_eq!(exchange(&stores[0], &one).await.granted, 300);
    // It counts as used before anybody charges it.
    assert_eq!(sums(&stores[1], "user:1").await, (300, 0));
    let alive = wanting(first("user:1", "b"), 100);
    let answer = exchange(&stores[1], &alive).await;
    assert_eq!(
        (answer.used, answer.leased, answer.granted),
        (300, 100, 100)
    );
    // Once.
    assert_eq!(pass_by(&stores[1], "c").await, (300, 100));
    // In its room nothing else is granted.
    let rest = wanting(first("user:1", "d"), 1_000);
    assert_eq!(exchange(&stores[1], &rest).await.granted, 600);
    // Its owner learns it, and gets nothing more.
    let more = wanting(next(&one), 10);
    let answer = exchange(&stores[0], &more).await;
    assert!(answer.is_charged && answer.granted == 0);
    assert!(answer.expires_at_ms <= answer.now_ms);
    // It is its own lease's end that it finds, too.
    let own = dead("e", 0);
    exchange(&stores[0], &own).await;
    assert!(exchange(&stores[0], &next(&own)).await.is_charged);
}

async fn what_is_told_late_is_credited_once(place: Place) {
    let store = place.store().await;
    let one = dead("a", 300);
    exchange(&store, &one).await;
    pass_by(&store, "b").await;
    let told = Exchange {
        spent: 120,
        returned: 30,
        ..next(&one)
    };
    let answer = exchange(&store, &told).await;
    assert_eq!(
        (answer.used, answer.leased, answer.is_charged),
        (270, 0, true)
    );
    assert_eq!(exchange(&store, &told).await.used, 270);
    let rest = Exchange {
        spent: 50,
        returned: 100,
        ..next(&told)
    };
    assert_eq!(exchange(&store, &rest).await.used, 170);
    assert_eq!(exchange(&store, &rest).await.used, 170);
    assert!(charged(&store).await.is_empty(), "all is accounted for");
    // A grant whose answer came late: it was charged too, and may be returned.
    let grant = dead("x", 40);
    exchange(&store, &grant).await;
    assert_eq!(pass_by(&store, "y").await.0, 210);
    let again = exchange(&store, &grant).await;
    assert!(again.is_charged && again.granted == 40);
    let back = Exchange {
        returned: 40,
        ..next(&grant)
    };
    assert_eq!(exchange(&store, &back).await.used, 170);
}

async fn more_than_was_leased_is_counted_all_the_same(place: Place) {
    let store = place.store().await;
    let one = wanting(first("user:1", "a"), 100);
    exchange(&store, &one).await;
    let over = Exchange {
        spent: 130,
        returned: 50,
        ..next(&one)
    };
    let answer = exchange(&store, &over).await;
    assert_eq!((answer.used, answer.leased), (130, 0));
    let back = Exchange {
        returned: 50,
        ..next(&over)
    };
    assert_eq!(exchange(&store, &back).await.used, 130);
    // Of a charged one only what is over is new.
    let two = dead("b", 100);
    exchange(&store, &two).await;
    let late = Exchange {
        spent: 110,
        ..next(&two)
    };
    assert_eq!(exchange(&store, &late).await.used, 240);
}

async fn charged_tokens_are_credited_once_from_elsewhere(place: Place) {
    let stores = [place.store().await, place.store().await];
    let one = Exchange {
        life_ms: 3_600_000,
        ..dead("a", 300)
    };
    exchange(&stores[0], &one).await;
    let two = Exchange {
        spent: 100,
        life_ms: 0,
        ..next(&one)
    };
    let ended_ms = exchange(&stores[0], &two).await.expires_at_ms;
    exchange(&stores[0], &first("user:2", "other")).await;
    // Nobody has come by since: it is listed all the same.
    let expected = ChargedLease {
        id: "a".into(),
        owner: "user:1".into(),
        period_start_ms: 0,
        left: 200,
        settled: 100,
        expired_at_ms: ended_ms,
    };
    let all = std::slice::from_ref(&expected);
    assert_eq!(charged(&stores[1]).await, all);
    assert_eq!(stores[1].charged_leases(None).await.unwrap(), all);
    assert_eq!(stores[1].charged_leases(Some("user:2")).await.unwrap(), []);

    assert!(stores[1].credit_lease(&expected, 150).await.unwrap());
    assert_eq!(sums(&stores[0], "user:1").await, (150, 0));
    // Sent again, its answer lost.
    assert!(stores[1].credit_lease(&expected, 150).await.unwrap());
    assert_eq!(sums(&stores[0], "user:1").await, (150, 0));
    let left = charged(&stores[1]).await;
    assert_eq!((left[0].left, left[0].settled), (50, 100));
    // Never more than is left; and not by what was read before.
    assert!(!stores[1].credit_lease(&expected, 10).await.unwrap());
    assert!(stores[1].credit_lease(&left[0], u64::MAX).await.unwrap());
    assert_eq!(sums(&stores[0], "user:1").await, (100, 0));
    assert!(charged(&stores[1]).await.is_empty());
    let unknown = ChargedLease {
        id: "none".into(),
        ..expected
    };
    assert!(!stores[1].credit_lease(&unknown, 1).await.unwrap());
    // One in force is its owner's.
    let alive = wanting(first("user:1", "alive"), 20);
    exchange(&stores[0], &alive).await;
    let alive = ChargedLease {
        id: "alive".into(),
        left: 20,
        ..unknown
    };
    assert!(!stores[1].credit_lease(&alive, 5).await.unwrap());
    assert_eq!(sums(&stores[0], "user:1").await, (100, 20));
}

async fn an_owner_who_tells_after_the_credit_is_counted_again(place: Place) {
    let store = place.store().await;
    let one = dead("a", 300);
    exchange(&store, &one).await;
    pass_by(&store, "b").await;
    let found = charged(&store).await.remove(0);
    assert!(store.credit_lease(&found, 300).await.unwrap());
    assert_eq!(sums(&store, "user:1").await.0, 0);
    // It was thought to be unused; now it is known better.
    let late = Exchange {
        spent: 80,
        returned: 220,
        ..next(&one)
    };
    assert_eq!(exchange(&store, &late).await.used, 80);
}

async fn an_ended_lease_is_known_for_a_while_after_it_is_empty(place: Place) {
    let store = place.store().await;
    let one = dead("a", 100);
    exchange(&store, &one).await;
    let all = Exchange {
        returned: 100,
        unleased: 3,
        ..next(&one)
    };
    exchange(&store, &all).await;
    // New leases come; the last exchange comes again.
    for lease in ["b", "c"] {
        pass_by(&store, lease).await;
    }
    assert_eq!(exchange(&store, &all).await.used, 3);
    // Days later it is forgotten. What it tells then is counted, on the safe side.
    place
        .run("UPDATE leases SET expires_at_ms = expires_at_ms - 90000000 WHERE id = 'a'")
        .await;
    pass_by(&store, "d").await;
    let late = Exchange {
        spent: 7,
        unleased: 1,
        ..wanting(next(&all), 50)
    };
    let answer = exchange(&store, &late).await;
    assert_eq!((answer.used, answer.leased), (11, 0));
    assert!(answer.is_charged && answer.granted == 0);
    assert_eq!(exchange(&store, &late).await.used, 11);
}

async fn old_rows_go_when_the_store_is_opened(place: Place) {
    const DAY_MS: i64 = 86_400_000;
    let store = place.store().await;
    let now_ms = store.budget_use("user:1", 0, 0).await.unwrap().now_ms;
    for lease in ["old", "new", "unsaid"] {
        exchange(&store, &dead(lease, 10)).await;
    }
    let month = Exchange {
        period_start_ms: now_ms - 500 * DAY_MS,
        ..wanting(first("user:1", "month"), 0)
    };
    exchange(&store, &month).await;
    let aged = |lease: &str, days: i64| {
        format!(
            "UPDATE leases SET expires_at_ms = {} WHERE id = '{lease}';",
            now_ms - days * DAY_MS
        )
    };
    place
        .run(
            &[
                aged("old", 36),
                aged("new", 34),
                aged("unsaid", 36),
                "UPDATE leases SET is_charged = FALSE WHERE id = 'unsaid';".into(),
                "UPDATE leases SET is_charged = TRUE WHERE id <> 'unsaid';".into(),
                format!(
                    "INSERT INTO budget_days VALUES ('user:1', {}, 1, 1, 1);",
                    now_ms - 401 * DAY_MS
                ),
                format!(
                    "INSERT INTO budget_days VALUES ('user:1', {}, 2, 2, 2);",
                    now_ms - 399 * DAY_MS
                ),
            ]
            .concat(),
        )
        .await;
    store.close().await;
    let store = place.store().await;
    let mut left: Vec<String> = charged(&store)
        .await
        .into_iter()
        .map(|lease| lease.id)
        .collect();
    left.sort_unstable();
    // One that was not charged is part of its budget's sums: it stays until it is.
    assert_eq!(left, ["new", "unsaid"]);
    let days = store.budget_use("user:1", 0, 0).await.unwrap().days;
    assert_eq!(days.len(), 1);
    assert_eq!(days[0].requests, 2);
}
