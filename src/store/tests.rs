//! The embedded database on real files: modes, restarts, other processes, and what comes back.

mod sums;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sqlx::Row;

use super::*;

const SCHEMA: &str = include_str!("../../schema/usage.json");

fn row(request_id: &str, changes: &Value) -> String {
    let mut row = json!({
        "request_id": request_id, "client_request_id": null,
        "started_at": "2026-11-02T10:00:00.999999Z", "finished_at": "2026-11-02T10:00:01.000000Z",
        "principal": "service", "key_name": "ci", "key_id": "0123456789ab", "username": null,
        "model": "small", "served_model": "vendor/small", "upstream": "u", "endpoint": "/v1/completions",
        "stream": false, "status": 200, "outcome": "complete", "error_code": null,
        "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 2, "total_tokens": 12,
        "counted_by": "engine", "attempts": 1, "wait_ms": 0, "first_byte_ms": 5, "duration_ms": 9,
        "request_bytes": 100, "response_bytes": 200, "client": null, "service": "", "revision": "",
        "instance_id": "i", "region": "", "labels": [], "woke": null,
    });
    for (name, value) in changes.as_object().unwrap() {
        assert!(row.get(name).is_some(), "{name} is no column");
        row[name] = value.clone();
    }
    row.to_string()
}

fn rows(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|at| row(&format!("{prefix}-{at}"), &json!({})))
        .collect()
}

async fn count(store: &UsageTable) -> i64 {
    store
        .sum_usage(&Grouping::Key, 0)
        .await
        .unwrap()
        .iter()
        .map(|group| group.requests)
        .sum()
}

async fn names(store: &UsageTable, by: Grouping) -> Vec<(Option<String>, i64)> {
    let totals = store.sum_usage(&by, 0).await.unwrap();
    totals
        .into_iter()
        .map(|group| (group.name, group.requests))
        .collect()
}

fn in_words(error: StoreError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[tokio::test]
async fn the_table_has_the_columns_of_the_schema() {
    let directory = tempfile::tempdir().unwrap();
    let store = UsageTable::open(&directory.path().join(FILE_NAME))
        .await
        .unwrap();
    let columns =
        sqlx::query("SELECT name, type, \"notnull\" FROM pragma_table_info('usage') ORDER BY cid")
            .fetch_all(&store.pool)
            .await
            .unwrap();
    let found: Vec<(String, String, bool)> = columns
        .iter()
        .map(|column| (column.get(0), column.get(1), column.get(2)))
        .collect();
    let schema: Vec<Value> = serde_json::from_str(SCHEMA).unwrap();
    let wanted: Vec<(String, String, bool)> = schema
        .iter()
        .map(|column| {
            let kind = match column["type"].as_str().unwrap() {
                "STRING" | "RECORD" => "TEXT",
                "INT64" | "TIMESTAMP" => "BIGINT",
                "BOOL" => "BOOLEAN",
                other => panic!("the table knows no {other}"),
            };
            (
                column["name"].as_str().unwrap().to_owned(),
                kind.to_owned(),
                column["mode"] != "NULLABLE",
            )
        })
        .collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn every_column_keeps_its_value_and_sql_in_it_is_data() {
    let directory = tempfile::tempdir().unwrap();
    let store = UsageTable::open(&directory.path().join(FILE_NAME))
        .await
        .unwrap();
    let schema: Vec<Value> = serde_json::from_str(SCHEMA).unwrap();
    let hostile = |name: &str| format!("{name}'\"); DROP TABLE usage; --$1?1\\ é ,]}}");
    let mut changes = json!({});
    for (at, column) in schema.iter().enumerate() {
        let name = column["name"].as_str().unwrap();
        changes[name] = match column["type"].as_str().unwrap() {
            "STRING" => hostile(name).into(),
            "INT64" => (1_000 + at).into(),
            "BOOL" => true.into(),
            "RECORD" => json!([{"key": hostile("key"), "value": hostile("value")}]),
            _ => continue,
        };
    }
    let text = row("replaced", &changes);
    store
        .insert_usage(std::slice::from_ref(&text))
        .await
        .unwrap();

    let found = sqlx::query("SELECT * FROM usage")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    for column in &schema {
        let name = column["name"].as_str().unwrap();
        match column["type"].as_str().unwrap() {
            "STRING" => assert_eq!(
                found.get::<String, _>(name),
                changes[name].as_str().unwrap()
            ),
            "INT64" => assert_eq!(found.get::<i64, _>(name), changes[name].as_i64().unwrap()),
            "BOOL" => assert!(found.get::<bool, _>(name)),
            "RECORD" => {
                let labels: Value = serde_json::from_str(&found.get::<String, _>(name)).unwrap();
                assert_eq!(labels, changes[name]);
            }
            _ => {}
        }
    }
    assert_eq!(found.get::<i64, _>("started_at"), 1_793_613_600_999_999);
    assert_eq!(found.get::<i64, _>("finished_at"), 1_793_613_601_000_000);
    let label = Grouping::Label(hostile("key"));
    assert_eq!(names(&store, label).await, [(Some(hostile("value")), 1)]);
    assert_eq!(
        names(&store, Grouping::Label("x' OR '1'='1".into())).await,
        [(None, 1)]
    );
}

#[tokio::test]
async fn rows_survive_a_restart_and_a_second_send_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let store = UsageTable::open(&path).await.unwrap();
    store.insert_usage(&rows("a", 500)).await.unwrap();
    store.close().await;
    assert!(
        !path.with_extension("db-wal").exists(),
        "a closed database is one file"
    );

    let store = UsageTable::open(&path).await.unwrap();
    let mut again = rows("a", 500);
    again[0] = row("a-0", &json!({"total_tokens": 99_999}));
    again.push(row("b", &json!({})));
    again.push(row("b", &json!({"total_tokens": 99_999})));
    store.insert_usage(&again).await.unwrap();
    let totals = store.sum_usage(&Grouping::Key, 0).await.unwrap();
    assert_eq!(
        (totals[0].requests, totals[0].total_tokens),
        (501, 501 * 12)
    );
}

#[tokio::test]
async fn a_batch_is_written_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = UsageTable::open(&directory.path().join(FILE_NAME))
        .await
        .unwrap();
    let mut batch = rows("a", 3);
    batch.push(row("bad", &json!({"upstream": null})));
    assert!(store.insert_usage(&batch).await.is_err());
    assert_eq!(count(&store).await, 0);
    store.insert_usage(&[]).await.unwrap();
}

#[tokio::test]
async fn new_files_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one/two").join(FILE_NAME);
    let store = UsageTable::open(&path).await.unwrap();
    store.insert_usage(&rows("a", 1)).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.db");
    std::fs::write(
        &text,
        "this is no database, but it is long enough to be taken for one".repeat(50),
    )
    .unwrap();
    let no_database = in_words(UsageTable::open(&text).await.err().unwrap());
    assert!(
        no_database.contains("cannot open the database") && no_database.contains("text.db"),
        "{no_database}"
    );

    let under_a_file = in_words(UsageTable::open(&text.join(FILE_NAME)).await.err().unwrap());
    assert!(
        under_a_file.contains("cannot make the directory"),
        "{under_a_file}"
    );
    let a_directory = in_words(UsageTable::open(directory.path()).await.err().unwrap());
    assert!(
        a_directory.contains("cannot open the database"),
        "{a_directory}"
    );

    let missing = UsageTable::open_read_only(&directory.path().join("none.db"))
        .await
        .err()
        .unwrap();
    assert!(missing.is_missing());
    assert!(!directory.path().join("none.db").exists());
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_used_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let store = UsageTable::open(&path).await.unwrap();
    let later = "INSERT INTO _sqlx_migrations VALUES (999, 'later', '', TRUE, x'00', 0); \
                 ALTER TABLE usage ADD COLUMN later TEXT; CREATE TABLE later (id BIGINT)";
    sqlx::raw_sql(later).execute(&store.pool).await.unwrap();
    store.insert_usage(&rows("before", 1)).await.unwrap();
    store.close().await;
    let store = UsageTable::open(&path).await.unwrap();
    store.insert_usage(&rows("after", 1)).await.unwrap();
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_read_only_store_reads_beside_a_writer_and_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let writer = UsageTable::open(&path).await.unwrap();
    writer.insert_usage(&rows("a", 3)).await.unwrap();
    let reader = UsageTable::open_read_only(&path).await.unwrap();
    assert_eq!(count(&reader).await, 3);
    writer.insert_usage(&rows("b", 2)).await.unwrap();
    assert_eq!(count(&reader).await, 5);
    assert!(reader.insert_usage(&rows("c", 1)).await.is_err());
    writer.close().await;
    assert_eq!(count(&reader).await, 5);
}

#[tokio::test]
async fn one_new_file_may_be_opened_by_many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let opened = futures_util::future::join_all((0..8).map(|_| UsageTable::open(&path))).await;
    for (at, store) in opened.into_iter().enumerate() {
        store
            .unwrap()
            .insert_usage(&rows(&at.to_string(), 2))
            .await
            .unwrap();
    }
    assert_eq!(
        count(&UsageTable::open_read_only(&path).await.unwrap()).await,
        16
    );
}

/// Marks the working directory of [`second_process`].
const MARK: &str = "second-process";
const CHILD_BATCHES: usize = 40;

/// Run by the test below as a process of its own; in a directory without the mark it is nothing.
#[tokio::test]
async fn second_process() {
    if Path::new(MARK).exists() {
        let store = UsageTable::open(Path::new(FILE_NAME)).await.unwrap();
        for batch in 0..CHILD_BATCHES {
            store
                .insert_usage(&rows(&format!("child-{batch}"), 10))
                .await
                .unwrap();
        }
        // As a kill would end it: nothing is closed, the journal stays.
        std::process::abort();
    }
}

#[tokio::test]
async fn two_processes_write_one_file_and_a_killed_one_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(MARK), "").unwrap();
    let path = directory.path().join(FILE_NAME);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::second_process"])
        .current_dir(directory.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let store = UsageTable::open(&path).await.unwrap();
    for batch in 0..40 {
        store
            .insert_usage(&rows(&format!("parent-{batch}"), 10))
            .await
            .unwrap();
    }
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert!(!ended.success(), "the child ends by abort");
    let both = i64::try_from(400 + CHILD_BATCHES * 10).unwrap();
    assert_eq!(count(&store).await, both);

    // The file as a killed process leaves it, journal beside it: a reader sees all of it.
    let copy = directory.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
    assert_eq!(
        count(&UsageTable::open_read_only(&copy).await.unwrap()).await,
        both
    );
}
