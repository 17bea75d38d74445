//! `tollgate usage reconcile` brings in what only the log has, and twice is as once.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::calls::chat;
use super::super::fakes::google::bigquery::{BigQuery, Fault, Operation, RowRefusal};
use super::super::fakes::model_server::{ModelServer, Settings};
use super::super::harness::Gate;
use super::{
    PROJECT, TABLE, columns, failure, line, printed, row, service, settings, text, tollgate, with,
};

/// A log of these rows in a folder of its own.
fn log_of(rows: &[Value]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let entries: Vec<Value> = rows
        .iter()
        .map(|row| json!({"insertId": "x", "jsonPayload": {"message": "usage", "usage": row}}))
        .collect();
    let lines: Vec<String> = rows.iter().map(|row| line(row).to_string()).collect();
    std::fs::write(folder.path().join("lines"), lines.join("\n")).expect("a log");
    std::fs::write(
        folder.path().join("entries"),
        format!("{:#}", json!(entries)),
    )
    .expect("a log");
    folder
}

#[tokio::test]
async fn reconcile_brings_in_what_is_missing_and_twice_is_as_once() {
    if !BigQuery::can_query_or_says_so("tollgate usage reconcile") {
        return;
    }
    let server = service(Some(columns())).await;
    let rows: Vec<Value> = (0..600)
        .map(|n| row(&format!("r{n}"), Some("ci"), n))
        .collect();
    server.put_rows(TABLE.0, TABLE.1, TABLE.2, &rows[..3]);
    let folder = log_of(&rows);
    let settings = settings(&server);
    let reconcile = |arguments: &'static [&'static str]| {
        let arguments = [&["reconcile"][..], arguments].concat();
        let (settings, folder) = (&settings, folder.path());
        async move { printed(&tollgate(folder, settings, &arguments).await) }
    };
    let dry = reconcile(&["--dry-run", "lines"]).await;
    assert_eq!(
        dry,
        "in the log: 600, there already: 3, missing, nothing was written: 597\n"
    );
    assert_eq!(server.rows(PROJECT, "llm", "usage").len(), 3);

    // It must not live on insert ids.
    server.remember_insert_ids(Duration::ZERO);
    let first = reconcile(&["lines"]).await;
    assert!(
        first.starts_with(
            "in the log: 600, there already: 3, brought into BigQuery's table llm.usage: 597"
        ),
        "{first}"
    );
    assert_eq!(server.rows(PROJECT, "llm", "usage"), rows);
    for log in ["lines", "entries"] {
        let again = tollgate(folder.path(), &settings, &["reconcile", log]).await;
        let again = printed(&again);
        assert!(
            again.starts_with("in the log: 600, there already: 600, brought"),
            "{again}"
        );
    }
    assert_eq!(server.rows(PROJECT, "llm", "usage").len(), 600);
}

#[tokio::test]
async fn reconcile_works_through_weak_moments_and_tells_of_refused_rows() {
    if !BigQuery::can_query_or_says_so("tollgate usage reconcile with faults") {
        return;
    }
    let server = service(Some(columns())).await;
    let rows: Vec<Value> = (0..3)
        .map(|n| row(&format!("r{n}"), Some("ci"), n))
        .collect();
    let folder = log_of(
        &[
            rows.clone(),
            vec![with(row("bad", None, 1), &json!({"status": "x"}))],
        ]
        .concat(),
    );
    server.next(Operation::InsertAll, Fault::Html);
    server.next(Operation::InsertAll, Fault::Lost);
    server.refuse_rows(|row| {
        let (reason, message) = ("invalid".to_owned(), "no".to_owned());
        (row["request_id"] == "r1").then_some(RowRefusal { reason, message })
    });
    let output = tollgate(folder.path(), &settings(&server), &["reconcile", "lines"]).await;
    let told = failure(&output);
    assert!(told.contains("\"bad\": status is no INT64"), "{told}");
    assert!(told.contains("a row is refused: invalid: no"), "{told}");
    assert!(
        told.contains("2 rows of the log could not be brought in"),
        "{told}"
    );
    assert!(text(&output.stdout).starts_with(
        "in the log: 3, there already: 0, brought into BigQuery's table llm.usage: 2"
    ));
    assert_eq!(
        server.rows(PROJECT, "llm", "usage"),
        [rows[0].clone(), rows[2].clone()]
    );
}

#[tokio::test]
async fn rows_that_a_table_swallows_are_told_of_and_brought_in_later() {
    if !BigQuery::can_query_or_says_so("reconcile with a table that swallows rows") {
        return;
    }
    let server = service(Some(columns())).await;
    let rows = [row("a", Some("ci"), 1), row("b", Some("ci"), 2)];
    let folder = log_of(&rows);
    let settings = settings(&server);
    server.next(Operation::InsertAll, Fault::Swallow);
    let output = tollgate(folder.path(), &settings, &["reconcile", "lines"]).await;
    let told = failure(&output);
    assert!(
        told.contains("2 rows were accepted and cannot be read yet"),
        "{told}"
    );
    assert!(
        text(&output.stdout).contains("llm.usage: 0\n"),
        "{}",
        text(&output.stdout)
    );
    let again = printed(&tollgate(folder.path(), &settings, &["reconcile", "lines"]).await);
    assert!(again.contains("llm.usage: 2\n"), "{again}");
    assert_eq!(server.rows(PROJECT, "llm", "usage"), rows);
}

#[tokio::test]
async fn reconcile_fills_the_embedded_table_too() {
    let rows: Vec<Value> = (0..3)
        .map(|n| row(&format!("r{n}"), Some("ci"), n))
        .collect();
    let folder = log_of(&rows);
    let reconcile = async |arguments: &[&str]| {
        printed(&tollgate(folder.path(), &[], &[&["reconcile"], arguments].concat()).await)
    };
    let dry = reconcile(&["entries", "--dry-run"]).await;
    assert!(
        dry.starts_with("in the log: 3, there already: 0, missing, nothing was written: 3"),
        "{dry}"
    );
    assert!(!folder.path().join("tollgate-data").exists());
    assert!(
        reconcile(&["lines"])
            .await
            .contains("there already: 0, brought into ./tollgate-data/tollgate.db: 3")
    );
    assert!(
        reconcile(&["entries"])
            .await
            .contains("there already: 3, brought into ./tollgate-data/tollgate.db: 0")
    );
    let csv = printed(&tollgate(folder.path(), &[], &["--format", "csv"]).await);
    assert_eq!(csv.lines().nth(1), Some("ci,3,30,12,3,33,0,0"));
}

#[tokio::test]
async fn killed_while_bigquery_is_away_its_log_fills_the_table() {
    if !BigQuery::can_query_or_says_so("reconcile after a kill") {
        return;
    }
    let model = ModelServer::start(Settings::default()).await;
    let mut server = service(Some(columns())).await;
    server.stop().await;
    let own = settings(&server);
    let borrowed: Vec<(&str, &str)> = own
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut gate = Gate::with(&model.url(), &borrowed).await;
    for _ in 0..20 {
        assert_eq!(gate.post("/v1/chat/completions", &chat()).await.status, 200);
    }
    let settled = gate.rows(20).await;
    gate.signal("KILL");
    gate.ended().await;
    let log: Vec<String> = gate.log().iter().map(Value::to_string).collect();
    std::fs::write(gate.folder.path().join("log"), log.join("\n")).expect("a log");

    server.resume().await;
    for _ in 0..2 {
        let output = tollgate(gate.folder.path(), &own, &["reconcile", "log"]).await;
        assert!(
            printed(&output).starts_with("in the log: 20,"),
            "{}",
            text(&output.stdout)
        );
        let mut stored = server.rows(PROJECT, "llm", "usage");
        assert_eq!(stored.len(), 20);
        stored.sort_by_key(|row| row["request_id"].to_string());
        let mut wanted = settled.clone();
        wanted.sort_by_key(|row| row["request_id"].to_string());
        assert_eq!(stored, wanted);
    }
    let made: u64 = model
        .model_calls()
        .iter()
        .map(|call| call.completion_tokens)
        .sum();
    let csv = printed(&tollgate(gate.folder.path(), &own, &["--format", "csv"]).await);
    let figures: Vec<&str> = csv.lines().nth(1).expect("a line").split(',').collect();
    assert_eq!(
        (figures[1], figures[4]),
        ("20", made.to_string().as_str()),
        "{csv}"
    );
}
