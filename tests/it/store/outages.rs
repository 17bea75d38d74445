//! Servers that stop, hang and come back; locks that others hold; callers that leave. Every operation
//! ends within its deadline, and the first one that can succeed does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Executor as _};
use tollgate::config::Database;
use tollgate::store::{State, Store, StoreError};

use super::bench::{Place, at, eventually, in_words, on_both, open};
use super::budgets::{exchange, first, next, sums, wanting};
use super::proxy::{Fate, Plan, Proxy};
use crate::fakes::postgres::Postgres;

/// Five seconds, and what a loaded machine takes to notice.
const DEADLINE: Duration = Duration::from_millis(6_500);

on_both! {
    what_a_caller_leaves_has_no_effect_or_all_of_it;
}

/// The error of an operation that must fail in time.
async fn fails(store: &Store, owner: &str) -> StoreError {
    let began = Instant::now();
    let outcome = store.exchange(&wanting(first(owner, owner), 10)).await;
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    let error = outcome.expect_err("no answer");
    assert!(!error.is_permanent(), "{}", in_words(error));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_operation_after_a_restart_succeeds() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let store = open(&at(&server.database().await)).await;
    // Several connections are kept, and all of them break.
    let some = (0..8).map(|at| {
        let store = store.clone();
        tokio::spawn(async move { sums(&store, &format!("user:{at}")).await })
    });
    futures_util::future::join_all(some).await;
    server.stop();
    server.go_on().await;
    assert_eq!(sums(&store, "user:1").await, (0, 0));
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
    assert_eq!(store.state(), State::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_told_of_at_once_and_found_again() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let store = open(&at(&server.database().await)).await;
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
    server.stop();
    let began = Instant::now();
    let error = fails(&store, "user:1").await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(in_words(error).starts_with("cannot connect to the database: "));
    assert_eq!((store.state(), store.has_answered()), (State::Down, true));
    server.go_on().await;
    assert_eq!(sums(&store, "user:1").await, (0, 10));
    assert_eq!(store.state(), State::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_at_the_start_is_found_later() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let database = at(&server.database().await);
    server.stop();
    let store = open(&database).await;
    let unknown = |store: &Store| (store.state(), store.has_answered(), store.known_mac_key());
    assert_eq!(unknown(&store), (State::Unknown, false, None));
    fails(&store, "user:1").await;
    assert!(store.mac_key().await.is_err());
    assert_eq!(unknown(&store), (State::Unknown, false, None));
    // By whoever asks whether it is ready, with no operation at all.
    let other = open(&database).await;
    server.go_on().await;
    eventually("it is asked beside", || async {
        other.ask_beside();
        other.state() == State::Ready
    })
    .await;
    // And by the next operation.
    assert_eq!(sums(&store, "user:1").await, (0, 0));
    assert_eq!(
        store.mac_key().await.unwrap(),
        other.known_mac_key().unwrap()
    );
    store.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_mute_holds_nobody_longer_than_the_deadline() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let proxy = Proxy::start(server.socket()).await;
    let store = open(&at(&proxy.url(&server.database().await))).await;
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
    proxy.mute();
    let many = (0..12).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { fails(&store, &format!("user:{number}")).await })
    });
    for failed in futures_util::future::join_all(many).await {
        failed.expect("in time");
    }
    assert_eq!(store.state(), State::Down);
    // Nothing of it is in the way afterwards.
    proxy.speak();
    let began = Instant::now();
    assert_eq!(sums(&store, "user:1").await, (0, 10));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_died_without_a_sign_are_replaced() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let proxy = Proxy::start(server.socket()).await;
    let store = open(&at(&proxy.url(&server.database().await))).await;
    let one = wanting(first("user:1", "a"), 10);
    exchange(&store, &one).await;
    proxy.mute_old();
    let began = Instant::now();
    exchange(&store, &next(&one)).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(store.state(), State::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_another_session_holds_ends_with_the_deadline() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database().await;
    let store = open(&at(&url)).await;
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; UPDATE budgets SET used = used WHERE owner = 'user:1'";
    other.execute(lock).await.unwrap();
    fails(&store, "user:1").await;
    // Other budgets are not concerned.
    exchange(&store, &wanting(first("user:2", "b"), 10)).await;
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(sums(&store, "user:1").await, (0, 10));
    exchange(&store, &wanting(first("user:1", "c"), 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stands_still_in_a_transaction_is_ended_by_the_server() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database().await;
    let proxy = Proxy::start(server.socket()).await;
    let frozen = open(&at(&proxy.url(&url))).await;
    let one = wanting(first("user:1", "a"), 10);
    exchange(&frozen, &one).await;
    let other = open(&at(&url)).await;
    // After the budget's row was locked it hears and says nothing more.
    proxy.cut(Plan {
        at: 3,
        fate: Fate::Stuck,
        times: 1,
    });
    let began = Instant::now();
    let error = frozen.exchange(&next(&one)).await;
    assert!(error.is_err() && began.elapsed() < DEADLINE);
    assert_eq!(proxy.heal(), 1);
    // Whoever wants the row next waits a little, at most until the server ends that session.
    let began = Instant::now();
    let after = wanting(first("user:1", "b"), 1);
    eventually("the row is free", || async {
        other.exchange(&after).await.is_ok()
    })
    .await;
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    exchange(&frozen, &next(&one)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_that_writes_the_file_for_long_ends_with_the_deadline() {
    let place = Place::sqlite();
    let store = place.store().await;
    let Database::Sqlite(path) = &place.database else {
        panic!("a file")
    };
    let url = format!("sqlite://{}", path.display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    fails(&store, "user:1").await;
    other.execute("ROLLBACK").await.unwrap();
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
}

async fn what_a_caller_leaves_has_no_effect_or_all_of_it(place: Place) {
    let stores = [place.store().await, place.store().await];
    let mut lasts = vec![wanting(first("user:1", "0"), 10)];
    exchange(&stores[0], &lasts[0]).await;
    for round in 1..40_u64 {
        let lease = wanting(first("user:1", &round.to_string()), 10);
        let patience = Duration::from_micros(100 * round);
        // It may be done or not.
        let _ = tokio::time::timeout(patience, stores[0].exchange(&lease)).await;
        lasts.push(lease);
    }
    // Neither instance is hindered, and each lease is there once or not at all.
    let began = Instant::now();
    let (used, leased) = sums(&stores[1], "user:1").await;
    assert!(used == 0 && leased % 10 == 0 && leased <= 400, "{leased}");
    for lease in &lasts {
        exchange(&stores[1], lease).await;
    }
    assert_eq!(sums(&stores[0], "user:1").await, (0, 400));
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    let shared: Vec<Arc<Store>> = stores.into();
    for store in shared {
        store.close().await;
    }
}
