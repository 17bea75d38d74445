//! A lease that nobody settled is charged whole; its log gives back what was not used, once.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::store::Exchange;

const OWNER: &str = "service:ci";

/// A database with a lease of a thousand tokens that expired, of which 30 were settled before.
async fn database(folder: &Path) -> Database {
    let database = Database::Sqlite(folder.join("tollgate.db"));
    let store = Store::open(&database).await.unwrap().unwrap();
    let mut exchange = Exchange {
        owner: OWNER.to_owned(),
        period_start_ms: 0,
        period_end_ms: None,
        limit: Some(100_000),
        lease: "l1".to_owned(),
        number: 1,
        spent: 0,
        returned: 0,
        unleased: 0,
        days: Vec::new(),
        least: 1000,
        most: 1000,
        life_ms: 60_000,
    };
    assert_eq!(store.exchange(&exchange).await.unwrap().granted, 1000);
    exchange = Exchange {
        number: 2,
        spent: 30,
        least: 0,
        most: 0,
        life_ms: 0,
        ..exchange
    };
    store.exchange(&exchange).await.unwrap();
    store.close().await;
    database
}

/// Tokens that count as used or leased.
async fn taken(database: &Database) -> u64 {
    let store = Store::open(database).await.unwrap().unwrap();
    let standing = store.budget_use(OWNER, 0, i64::MAX).await.unwrap();
    store.close().await;
    standing.used + standing.leased
}

fn reserved(number: u64, tokens: u64) -> Value {
    json!({"message": "reserved", "budget": {"owner": OWNER, "lease": "l1", "number": number, "tokens": tokens}})
}

fn ended(number: u64, charged: u64) -> Value {
    json!({"message": "usage", "budget": {"lease": "l1", "number": number, "charged": charged}})
}

/// What was said when a log of these lines was brought in.
async fn reconcile(database: &Database, lines: &[Value], dry_run: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n")).unwrap();
    let mut log = Log::open(&path).unwrap();
    let credits = Credits::open(database, dry_run).await.unwrap().unwrap();
    log.leases = credits.leases().await.unwrap();
    while !log.next_rows(10).unwrap().is_empty() {}
    let said = credits.give(&mut log).await.unwrap();
    credits.close().await;
    said
}

#[tokio::test]
async fn what_a_log_proves_to_be_unused_is_credited_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path()).await;
    assert_eq!(taken(&database).await, 1000);
    let lines = [
        reserved(1, 100),
        ended(1, 30),
        reserved(2, 200),
        reserved(3, 50),
        ended(3, 40),
    ];
    let dry = reconcile(&database, &lines, true).await;
    assert!(
        dry.contains("unused, nothing was credited: 730 tokens of 1"),
        "{dry}"
    );
    assert_eq!(taken(&database).await, 1000);
    // The call without an end may have used all that it had reserved.
    let said = reconcile(&database, &lines, false).await;
    assert!(said.contains("credited: 730 tokens of 1\n"), "{said}");
    assert!(
        said.contains("lease l1 of service:ci: 730 of 970 tokens; calls without an end: 1"),
        "{said}"
    );
    assert_eq!(taken(&database).await, 270);
    let again = reconcile(&database, &lines, false).await;
    assert!(
        again.contains("used up 1, in doubt 0") && again.contains("credited: 0 tokens of 0"),
        "{again}"
    );
    assert_eq!(taken(&database).await, 270);
    // A log that knows more gives back more.
    let more = [&lines[..], &[ended(2, 7)]].concat();
    let said = reconcile(&database, &more, false).await;
    assert!(said.contains("credited: 193 tokens of 1\n"), "{said}");
    assert_eq!(taken(&database).await, 77);
    assert_eq!(reconcile(&database, &more, false).await.lines().count(), 1);
}

#[tokio::test]
async fn what_is_in_doubt_stays_charged() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path()).await;
    let clouds = json!({"jsonPayload": reserved(1, 100), "insertId": "x"});
    for (lines, said) in [
        (vec![reserved(2, 100)], "in doubt 1"),
        (vec![reserved(1, 100), ended(1, 29)], "in doubt 1"),
        // Its last lines may be on their way to Cloud Logging.
        (vec![clouds], "in doubt 1"),
        (vec![], "not in this log 1"),
    ] {
        let text = reconcile(&database, &lines, false).await;
        assert!(
            text.contains(said) && text.contains("credited: 0 tokens"),
            "{lines:?}: {text}"
        );
        assert_eq!(taken(&database).await, 1000, "{lines:?}");
    }
}

#[tokio::test]
async fn without_budgets_nothing_is_said_and_nothing_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    for database in [Database::None, Database::Sqlite(path.clone())] {
        assert!(Credits::open(&database, false).await.unwrap().is_none());
    }
    assert!(!path.exists());
    let store = Store::open(&Database::Sqlite(path.clone()))
        .await
        .unwrap()
        .unwrap();
    store.close().await;
    assert_eq!(
        reconcile(&Database::Sqlite(path), &[reserved(1, 5)], false).await,
        ""
    );
}
