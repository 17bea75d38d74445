//! The ledger on a real table: bursts, overflow, a table that refuses, deadlines, restarts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};
use tempfile::TempDir;
use tokio::time::Instant;

use super::queue::{BATCH_ROWS, QUEUE_ROWS};
use super::*;
use crate::store::UsageTable;
use crate::usage::row::tests::{origin, record};

pub(super) mod staged;
mod stages;

/// Makes the table refuse rows, as a full disk would.
const REFUSE: &str =
    "CREATE TRIGGER refuse BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'refused'); END";
const ACCEPT: &str = "DROP TRIGGER refuse";

struct Bench {
    ledger: Arc<Ledger>,
    path: PathBuf,
    _directory: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(crate::store::FILE_NAME);
        Self {
            ledger: open(&path).await,
            path,
            _directory: directory,
        }
    }

    fn settle(&self, ids: std::ops::Range<usize>) {
        for id in ids {
            self.ledger.settle(&record(&id.to_string()));
        }
    }

    fn start(&self) -> tokio::task::JoinHandle<()> {
        let ledger = Arc::clone(&self.ledger);
        tokio::spawn(async move { ledger.run().await })
    }

    async fn connect(&self) -> SqliteConnection {
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&self.path))
            .await
            .unwrap()
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::query(sql)
            .execute(&mut self.connect().await)
            .await
            .unwrap();
    }

    async fn ids(&self) -> HashSet<usize> {
        let rows = sqlx::query("SELECT request_id FROM usage")
            .fetch_all(&mut self.connect().await)
            .await
            .unwrap();
        rows.iter()
            .map(|row| row.get::<String, _>(0).parse().unwrap())
            .collect()
    }
}

async fn open(path: &Path) -> Arc<Ledger> {
    let store = UsageTable::open(path).await.unwrap();
    Arc::new(Ledger::with_sink(Sink::Local(store), origin()))
}

/// Rows written, and lost.
fn counts(ledger: &Ledger) -> (u64, u64) {
    let stats = ledger.stats();
    (stats.written, stats.lost)
}

/// Looks again until it is so; the test fails after `limit`.
async fn until(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(limit, looks).await.is_ok(),
        "{what} did not happen in {limit:?}"
    );
}

#[tokio::test]
async fn a_settled_row_is_in_the_table_within_a_second() {
    let bench = Bench::new().await;
    let running = bench.start();
    for id in 0..3 {
        bench.settle(id..id + 1);
        until(Duration::from_secs(1), "the write", || {
            bench.ledger.waiting() == 0
        })
        .await;
        assert_eq!(bench.ids().await, (0..=id).collect());
    }
    assert_eq!(bench.ledger.drain(Duration::from_secs(5)).await, 0);
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_rows_from_many_threads_are_written_once_each() {
    let bench = Bench::new().await;
    let running = bench.start();
    let settlers = (0..10).map(|part| {
        let ledger = Arc::clone(&bench.ledger);
        tokio::task::spawn_blocking(move || {
            for id in part * 1000..(part + 1) * 1000 {
                ledger.settle(&record(&id.to_string()));
            }
        })
    });
    for settled in futures_util::future::join_all(settlers).await {
        settled.unwrap();
    }
    assert_eq!(bench.ledger.drain(Duration::from_secs(30)).await, 0);
    running.await.unwrap();
    assert_eq!(bench.ids().await, (0..10_000).collect());
    assert_eq!(counts(&bench.ledger), (10_000, 0));
}

#[tokio::test]
async fn a_full_queue_keeps_the_newest_rows_and_counts_the_others() {
    let bench = Bench::new().await;
    bench.settle(0..QUEUE_ROWS + 7);
    assert_eq!(bench.ledger.waiting(), QUEUE_ROWS);
    assert_eq!(counts(&bench.ledger), (0, 7));
    assert_eq!(bench.ledger.drain(Duration::from_secs(30)).await, 0);
    assert_eq!(bench.ids().await, (7..QUEUE_ROWS + 7).collect());
    assert_eq!(counts(&bench.ledger), (QUEUE_ROWS as u64, 7));
}

#[tokio::test]
async fn rows_in_flight_count_against_the_bound_and_are_kept() {
    let bench = Bench::new().await;
    bench.settle(0..QUEUE_ROWS);
    let batch = bench.ledger.take();
    bench.settle(QUEUE_ROWS..QUEUE_ROWS + 3);
    assert_eq!(bench.ledger.waiting(), QUEUE_ROWS);
    assert_eq!(bench.ledger.stats().lost, 3);
    drop(batch);
    assert_eq!(bench.ledger.waiting(), QUEUE_ROWS);
    assert_eq!(bench.ledger.drain(Duration::from_secs(30)).await, 0);
    let lost: HashSet<usize> = &(0..QUEUE_ROWS + 3).collect() - &bench.ids().await;
    assert_eq!(lost, (BATCH_ROWS..BATCH_ROWS + 3).collect());
}

#[test]
fn a_batch_has_bounds_in_rows_and_bytes() {
    let mut queue = Queue::default();
    for _ in 0..=BATCH_ROWS {
        queue.push("x".to_owned());
    }
    assert_eq!(queue.take().rows.len(), BATCH_ROWS);
    queue.take();
    for _ in 0..10 {
        queue.push("x".repeat(3_000_000));
    }
    assert_eq!(queue.take().rows.len(), 2);
    let mut huge = Queue::default();
    huge.push("x".repeat(9_000_000));
    assert_eq!(huge.take().rows.len(), 1, "one row goes, however long");
}

#[test]
fn faults_are_told_once_in_a_while() {
    let mut queue = Queue::default();
    assert!(queue.fail(String::new(), false) && !queue.fail(String::new(), false));
    let told: Vec<u64> = (0..QUEUE_ROWS + 100)
        .filter_map(|_| queue.push(String::new()).tell_lost)
        .collect();
    assert_eq!(told, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_comes_and_goes_is_told_of_once_in_a_while() {
    let mut queue = Queue::default();
    let mut told = (0, 0);
    for _ in 0..150 {
        told.0 += usize::from(queue.fail(String::new(), false));
        told.1 += usize::from(queue.succeed(true));
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(told, (2, 2), "failures and recoveries in fifteen seconds");
}

#[tokio::test]
async fn a_table_that_refuses_for_a_while_loses_nothing() {
    let bench = Bench::new().await;
    bench.execute(REFUSE).await;
    let running = bench.start();
    bench.settle(0..700);
    until(Duration::from_secs(5), "a failed write", || {
        bench.ledger.stats().failing.is_some()
    })
    .await;
    bench.settle(700..1300);
    assert_eq!(bench.ledger.waiting(), 1300);
    assert_eq!(bench.ids().await, HashSet::new());
    bench.execute(ACCEPT).await;
    until(Duration::from_secs(10), "the write", || {
        bench.ledger.waiting() == 0
    })
    .await;
    assert_eq!(bench.ids().await, (0..1300).collect());
    assert_eq!(counts(&bench.ledger), (1300, 0));
    bench.ledger.drain(Duration::from_secs(1)).await;
    running.await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_by_its_deadline_and_what_it_left_is_not_gone() {
    let bench = Bench::new().await;
    let mut other = bench.connect().await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    bench.settle(0..600);
    let begun = Instant::now();
    assert_eq!(bench.ledger.drain(Duration::from_millis(300)).await, 600);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(bench.ledger.drain(Duration::from_secs(10)).await, 0);
    assert_eq!(bench.ids().await, (0..600).collect());
    assert_eq!(counts(&bench.ledger), (600, 0));
}

#[tokio::test]
async fn a_drain_ends_the_run_in_each_of_its_waits() {
    for settled in [0, 1] {
        let bench = Bench::new().await;
        bench.execute(REFUSE).await;
        let running = bench.start();
        bench.settle(0..settled);
        if settled > 0 {
            until(Duration::from_secs(5), "a failed write", || {
                bench.ledger.stats().failing.is_some()
            })
            .await;
        }
        assert_eq!(bench.ledger.drain(Duration::from_millis(50)).await, settled);
        tokio::time::timeout(Duration::from_secs(7), running)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_drained_ledger_opens_again_and_knows_its_rows() {
    let bench = Bench::new().await;
    bench.settle(0..20);
    assert_eq!(bench.ledger.drain(Duration::from_secs(5)).await, 0);
    assert!(!bench.path.with_extension("db-wal").exists());
    let again = open(&bench.path).await;
    for id in 10..30 {
        again.settle(&record(&id.to_string()));
    }
    assert_eq!(again.drain(Duration::from_secs(5)).await, 0);
    let count: i64 = sqlx::query("SELECT COUNT(*) FROM usage")
        .fetch_one(&mut bench.connect().await)
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 30);
}

#[tokio::test]
async fn without_a_table_the_log_line_is_the_write() {
    let ledger = Ledger::with_sink(Sink::LogOnly, origin());
    ledger.settle(&record("1"));
    assert_eq!(counts(&ledger), (1, 0));
    assert_eq!(ledger.drain(Duration::from_secs(1)).await, 0);
}
