//! How a database is opened: what is newer, what is shared, and what cannot be.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::json;
use tollgate::config::Database;
use tollgate::store::{NewKey, NewUser, Store, UsageTable};

use super::bench::{Place, at, in_words, on_both, open};
use super::budgets::{exchange, first, next, wanting};
use crate::fakes::postgres::{PASSWORD, Postgres, run};

on_both! {
    a_database_of_a_newer_release_is_used_as_it_is;
    a_database_of_something_else_is_refused_in_words;
}

#[tokio::test]
async fn none_is_none() {
    assert!(Store::open(&Database::None).await.unwrap().is_none());
}

async fn a_database_of_a_newer_release_is_used_as_it_is(place: Place) {
    let store = place.store().await;
    let one = wanting(first("user:1", "a"), 10);
    exchange(&store, &one).await;
    let empty = if place.is_postgres() { "''" } else { "x''" };
    place
        .run(&format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (999, 'later', TRUE, {empty}, 0); \
             ALTER TABLE users ADD COLUMN later TEXT; \
             ALTER TABLE leases ADD COLUMN later BIGINT NOT NULL DEFAULT 7; \
             ALTER TABLE budgets ADD COLUMN later BOOLEAN; \
             CREATE TABLE later (id BIGINT PRIMARY KEY)"
        ))
        .await;
    // Who has it open goes on, and who begins does as well.
    exchange(&store, &next(&one)).await;
    let begun = place.store().await;
    for (store, name) in [(&store, "ann"), (&begun, "bob")] {
        let key = NewKey {
            hash: &[name.as_bytes()[0]; 32],
            prefix: "sk-",
        };
        let user = NewUser {
            name,
            password_hash: "$",
            token_limit: 1,
            limit_is_admins: false,
            key,
        };
        let made = store.add_user(user).await.unwrap().unwrap();
        assert_eq!(store.user(made.id).await.unwrap().unwrap(), made);
        exchange(store, &wanting(first("user:2", name), 10)).await;
    }
}

async fn a_database_of_something_else_is_refused_in_words(place: Place) {
    if let Database::Sqlite(path) = &place.database {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    place.run("CREATE TABLE users (login TEXT)").await;
    let error = Store::open(&place.database).await.err().expect("refused");
    assert!(error.is_permanent());
    let words = in_words(error);
    assert!(
        words.contains("users") && words.contains("already exists"),
        "{words}"
    );
}

/// What is said of a URL that cannot be used.
async fn refusal(url: &str) -> String {
    let began = Instant::now();
    let error = Store::open(&at(url)).await.err().expect("refused");
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    assert!(error.is_permanent(), "{url}: {}", in_words(error));
    let words = in_words(error);
    assert!(!words.contains("pass-word"), "{words}");
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_must_change_is_told_in_words() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let direct = server.database().await;
    let name = direct
        .split(['/', '?'])
        .find(|part| part.starts_with('t'))
        .unwrap();
    run(
        &direct,
        &format!(
            "CREATE ROLE locked LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE guest LOGIN; \
             CREATE ROLE nobody NOLOGIN"
        ),
    )
    .await;
    for (url, expected) in [
        (
            server.url(name, "locked:my-pass-word"),
            "password authentication failed",
        ),
        (
            server.url("nowhere", "postgres:my-pass-word"),
            "database \"nowhere\" does not exist",
        ),
        (
            server.url(name, "guest"),
            "permission denied for schema public",
        ),
        (server.url(name, "nobody"), "not permitted to log in"),
        (
            server.url(name, "stranger"),
            "role \"stranger\" does not exist",
        ),
        (
            format!("{}&sslmode=require", server.url(name, "postgres")),
            "TLS",
        ),
        (
            "postgres://u:my-pass-word@host:port/x".to_owned(),
            "the URL of the database cannot be used",
        ),
    ] {
        let words = refusal(&url).await;
        assert!(words.contains(expected), "{url}: {words}");
    }
    // With the right password and rights it goes.
    run(&direct, "GRANT CREATE, USAGE ON SCHEMA public TO locked").await;
    let store = open(&at(&server.url(name, &format!("locked:{PASSWORD}")))).await;
    exchange(&store, &wanting(first("user:1", "a"), 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_pass_by_itself_is_no_error_at_the_start() {
    for url in [
        "postgres://u:my-pass-word@127.0.0.1:1/x",
        "postgres://u@localhost/x?host=/nowhere",
        "postgres://u@no-such-host.invalid/x",
    ] {
        let store = Store::open(&at(url)).await.expect("no fault");
        assert!(!store.expect("a store").has_answered());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_name_the_program_and_are_few() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database().await;
    let store = open(&at(&url)).await;
    let many = (0..40).map(|owner| {
        let store = store.clone();
        tokio::spawn(async move {
            exchange(
                &store,
                &wanting(first(&format!("user:{owner}"), &owner.to_string()), 1),
            )
            .await
        })
    });
    let most = std::sync::atomic::AtomicI64::new(0);
    let counting = async {
        let pool = sqlx::PgPool::connect(&server.url("postgres", "postgres"))
            .await
            .unwrap();
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollgate'";
        for _ in 0..20 {
            let now: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap();
            most.fetch_max(now, std::sync::atomic::Ordering::Relaxed);
        }
    };
    join(join_all(many), counting).await;
    let most = most.into_inner();
    assert!((1..=4).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_budgets_in_one_file_do_not_hinder_each_other() {
    let place = Place::sqlite();
    let store = place.store().await;
    let Database::Sqlite(path) = &place.database else {
        panic!("a file")
    };
    let table = UsageTable::open_beside(Some(&store), path).await.unwrap();
    let row = |at: u32| {
        json!({
            "request_id": at.to_string(), "client_request_id": null,
            "started_at": "2026-11-02T10:00:00.000000Z", "finished_at": "2026-11-02T10:00:01.000000Z",
            "principal": "service", "key_name": "ci", "key_id": null, "username": null,
            "model": "m", "served_model": "m", "upstream": "u", "endpoint": "/v1/completions",
            "stream": false, "status": 200, "outcome": "complete", "error_code": null,
            "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 2, "total_tokens": 3,
            "counted_by": "engine", "attempts": 1, "wait_ms": 0, "first_byte_ms": 5, "duration_ms": 9,
            "request_bytes": 1, "response_bytes": 2, "client": null, "service": "", "revision": "",
            "instance_id": "i", "region": "", "labels": [],
        })
        .to_string()
    };
    let writing = async {
        for at in 0..200 {
            table.insert_usage(&[row(at)]).await.unwrap();
        }
    };
    let mut last = wanting(first("user:1", "a"), 10);
    let exchanging = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let began = Instant::now();
            exchange(&store, &last).await;
            slowest = slowest.max(began.elapsed());
            last = next(&last);
        }
        slowest
    };
    let ((), slowest) = join(writing, exchanging).await;
    println!("200 exchanges beside 200 batches: the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // The table is closed first; the connection is the store's.
    table.close().await;
    exchange(&store, &last).await;
    store.close().await;
    // A table elsewhere has its own.
    let other = path.with_file_name("other.db");
    let table = UsageTable::open_beside(Some(&store), &other).await.unwrap();
    table.insert_usage(&[row(1)]).await.unwrap();
}
