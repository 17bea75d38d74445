//! `tollgate usage` reads BigQuery's table and counts each call once.

mod reconcile;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fakes::google::bigquery::{BigQuery, Fault, Operation, Refusal};

const PROJECT: &str = "p-1";
const TABLE: (&str, &str, &str) = (PROJECT, "llm", "usage");

/// A service with the dataset and, if columns are given, the table.
async fn service(columns: Option<Value>) -> BigQuery {
    let server = BigQuery::with_dataset(PROJECT, "llm").await;
    if let Some(fields) = columns {
        server.make_table(
            PROJECT,
            "llm",
            &json!({
                "tableReference": {"projectId": PROJECT, "datasetId": "llm", "tableId": "usage"},
                "schema": {"fields": fields},
                "timePartitioning": {"type": "DAY", "field": "started_at"},
            }),
        );
    }
    server
}

fn columns() -> Value {
    serde_json::from_str(include_str!("../../schema/usage.json")).expect("columns")
}

/// What leads the program to the service.
fn settings(server: &BigQuery) -> Vec<(&'static str, String)> {
    vec![
        ("GCP_PROJECT", PROJECT.to_owned()),
        ("BIGQUERY_DATASET", "llm".to_owned()),
        ("BIGQUERY_ENDPOINT", server.url()),
    ]
}

/// Runs the program; the service's tasks go on meanwhile.
async fn tollgate(folder: &Path, settings: &[(&str, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .current_dir(folder)
        .env_clear()
        .arg("usage")
        .args(arguments);
    for (name, value) in settings {
        command.env(name, value);
    }
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("it runs").expect("an end")
}

async fn report(server: &BigQuery, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    tollgate(folder.path(), &settings(server), arguments).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What was printed, when it ended well.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What was said of a failure.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// So many hours ago, as rows spell it.
fn hours_ago(hours: i64) -> String {
    let at = OffsetDateTime::now_utc() - time::Duration::hours(hours);
    let at = at.replace_microsecond(123_456).expect("a time");
    at.format(&Rfc3339).expect("a time")
}

fn row(id: &str, key: Option<&str>, tokens: i64) -> Value {
    json!({
        "request_id": id, "client_request_id": null, "started_at": hours_ago(1), "finished_at": hours_ago(1),
        "principal": "service", "key_name": key, "key_id": null, "username": null, "model": "small",
        "served_model": "m", "upstream": "u", "endpoint": "/v1/chat/completions", "stream": true,
        "status": 200, "outcome": "complete", "error_code": null, "prompt_tokens": 10,
        "cached_tokens": 4, "completion_tokens": tokens, "total_tokens": 10 + tokens,
        "counted_by": "engine", "attempts": 1, "wait_ms": 0, "first_byte_ms": 5, "duration_ms": 1000,
        "request_bytes": 10, "response_bytes": 20, "client": null, "service": "", "revision": "",
        "instance_id": "i", "region": "", "labels": [{"key": "team", "value": "ml"}],
        "woke": null,
    })
}

fn with(mut row: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().expect("an object") {
        row[name] = value.clone();
    }
    row
}

/// Calls of two keys, one user and nobody, on two days, one of them long ago; duplicates of some.
fn made_rows() -> Vec<Value> {
    let old = hours_ago(24 * 9);
    let user = json!({"principal": "user", "username": "ada", "model": "", "labels": []});
    let failed =
        json!({"status": 502, "outcome": "upstream_error", "error_code": "upstream_error"});
    let left = json!({"status": 499, "outcome": "client_abort"});
    let rows = vec![
        with(row("a", Some("ci"), 5), &json!({"woke": true})),
        with(row("b", Some("ci"), 7), &failed),
        with(row("c", Some("=cmd()"), 100), &left),
        with(row("d", None, 1), &user),
        with(
            row("old", Some("ci"), 1000),
            &json!({"started_at": old, "finished_at": old}),
        ),
    ];
    [rows.clone(), rows[..2].to_vec(), rows[..1].to_vec()].concat()
}

#[tokio::test]
async fn a_call_is_counted_once_by_whatever_it_is_added_up() {
    if !BigQuery::can_query_or_says_so("tollgate usage with BigQuery") {
        return;
    }
    let server = service(Some(columns())).await;
    server.put_rows(TABLE.0, TABLE.1, TABLE.2, &made_rows());
    let embedded = tempfile::tempdir().expect("a folder");
    embed(embedded.path(), &made_rows()).await;
    let day = hours_ago(1)[..10].to_owned();
    let by = |grouping: &'static str| {
        let server = &server;
        let folder = embedded.path();
        async move {
            let arguments = ["--by", grouping, "--format", "csv"];
            let csv = printed(&report(server, &arguments).await);
            let same = tollgate(folder, &[], &arguments).await;
            assert_eq!(csv, printed(&same), "the embedded table says otherwise");
            csv.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        }
    };
    assert_eq!(
        by("key").await,
        [
            "'=cmd(),1,10,4,100,110,0,0",
            "ci,2,20,8,12,32,1,1",
            ",1,10,4,1,11,0,0"
        ]
    );
    assert_eq!(
        by("user").await,
        [",3,30,12,112,142,1,1", "ada,1,10,4,1,11,0,0"]
    );
    assert_eq!(
        by("model").await,
        ["small,3,30,12,112,142,1,1", "m,1,10,4,1,11,0,0"]
    );
    assert_eq!(
        by("label:team").await,
        ["ml,3,30,12,112,142,1,1", ",1,10,4,1,11,0,0"]
    );
    assert_eq!(by("label:x' OR 1=1 --").await, [",4,40,16,113,153,1,1"]);
    assert_eq!(by("day").await, [format!("{day},4,40,16,113,153,1,1")]);

    for call in server.calls_of(Operation::Query) {
        let query = call.body["query"].as_str().expect("a query");
        assert!(!query.contains("OR 1=1"), "{query}");
    }
}

#[tokio::test]
async fn a_report_begins_where_it_is_told_to() {
    if !BigQuery::can_query_or_says_so("tollgate usage --since with BigQuery") {
        return;
    }
    let server = service(Some(columns())).await;
    server.put_rows(TABLE.0, TABLE.1, TABLE.2, &made_rows());
    let since = printed(&report(&server, &["--since", "30d", "--format", "json"]).await);
    let since: Value = serde_json::from_str(&since).expect("JSON");
    assert_eq!(
        since[0],
        json!({"key": "ci", "requests": 3, "prompt_tokens": 30, "cached_tokens": 12,
        "completion_tokens": 1012, "total_tokens": 1042, "errors": 1, "wakes": 1})
    );
    let table = printed(&report(&server, &[]).await);
    assert!(
        table.starts_with("key ") && table.contains("\ntotal "),
        "{table}"
    );
    let none = printed(&report(&server, &["--since", "1m"]).await);
    assert!(
        none.starts_with("No calls recorded since ") && none.contains("BigQuery's table llm.usage"),
        "{none}"
    );
    for call in server.calls_of(Operation::Query) {
        let query = call.body["query"].as_str().expect("a query");
        assert!(
            query.contains("WHERE started_at >= @since"),
            "no day is left out: {query}"
        );
    }
}

/// The same rows in an embedded table.
async fn embed(folder: &Path, rows: &[Value]) {
    let log: Vec<String> = rows.iter().map(|row| line(row).to_string()).collect();
    std::fs::write(folder.join("log"), log.join("\n")).expect("a log");
    let output = tollgate(folder, &[], &["reconcile", "log"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn what_an_old_table_lacks_counts_as_nothing() {
    if !BigQuery::can_query_or_says_so("tollgate usage with an old table") {
        return;
    }
    let mut few = columns();
    let lacking = [
        "cached_tokens",
        "labels",
        "username",
        "error_code",
        "served_model",
    ];
    let fields = few.as_array_mut().expect("columns");
    fields.retain(|column| !lacking.contains(&column["name"].as_str().expect("a name")));
    let server = service(Some(few)).await;
    let mut row = row("a", Some("ci"), 5);
    for name in lacking {
        row.as_object_mut().expect("a row").remove(name);
    }
    server.put_rows(TABLE.0, TABLE.1, TABLE.2, &[row]);
    for (by, name) in [
        ("key", "ci"),
        ("user", ""),
        ("model", "small"),
        ("label:team", ""),
    ] {
        let csv = printed(&report(&server, &["--by", by, "--format", "csv"]).await);
        assert_eq!(
            csv.lines().nth(1),
            Some(format!("{name},1,10,0,5,15,0,0").as_str()),
            "{by}"
        );
    }
}

#[tokio::test]
async fn what_keeps_it_from_reading_is_told_in_words() {
    let server = service(None).await;
    let missing = failure(&report(&server, &[]).await);
    assert!(
        missing.contains("nothing was recorded yet") && missing.contains("usage"),
        "{missing}"
    );

    let other = BigQuery::start().await;
    let dataset = failure(&report(&other, &[]).await);
    assert!(
        dataset.contains("there is no dataset llm in the project p-1"),
        "{dataset}"
    );

    let server = service(Some(columns())).await;
    let no_right = "Access Denied: Project p-1: User does not have bigquery.jobs.create permission in project p-1.";
    server.always(Operation::Query, Fault::Refuse(Refusal::denied(no_right)));
    let denied = failure(&report(&server, &[]).await);
    assert!(
        denied.contains("bigquery.jobs.create") && denied.contains("roles/bigquery.jobUser"),
        "{denied}"
    );
    assert_eq!(
        server.calls_of(Operation::Query).len(),
        1,
        "asked again in vain"
    );

    server.recover();
    server.require_bearer("a-token");
    let refused = failure(&report(&server, &[]).await);
    assert!(refused.contains("authentication"), "{refused}");

    let folder = tempfile::tempdir().expect("a folder");
    let stdout = [("USAGE_SINK", "stdout".to_owned())];
    let no_table = failure(&tollgate(folder.path(), &stdout, &[]).await);
    assert!(no_table.contains("rows go to the log alone"), "{no_table}");
}

#[tokio::test]
async fn a_slow_query_in_pages_and_a_weak_moment_are_no_failure() {
    if !BigQuery::can_query_or_says_so("slow queries of tollgate usage") {
        return;
    }
    let server = service(Some(columns())).await;
    server.put_rows(TABLE.0, TABLE.1, TABLE.2, &made_rows());
    server.slow_queries(Duration::from_millis(400), 1);
    server.next(Operation::TablesGet, Fault::Refuse(Refusal::unavailable()));
    server.next(Operation::Query, Fault::Html);
    server.next(Operation::Query, Fault::Refuse(Refusal::rate_limit()));
    let csv = printed(&report(&server, &["--format", "csv"]).await);
    assert_eq!(csv.lines().count(), 4, "{csv}");
    let pages = server.calls_of(Operation::Query);
    assert!(
        pages.iter().any(|call| call.query.contains("pageToken")),
        "{pages:#?}"
    );
}

fn line(row: &Value) -> Value {
    json!({"severity": "INFO", "message": "usage", "usage": row})
}
