//! The table's own life: made, grown, missing, forbidden. Calls are served whatever it is.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::bench::{
    Bench, DATASET, PROJECT, TABLE, eventually, gate, resource, resource_without, text,
};
use crate::calls::chat;
use crate::fakes::google::bigquery::{BigQuery, Fault, Lags, Operation, Refusal};
use crate::fakes::google::metadata::{self, Metadata};
use crate::fakes::model_server::{ModelServer, Settings};
use crate::harness::Gate;

#[tokio::test]
async fn a_missing_table_is_made_and_gets_its_rows_at_once() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    let labels = [
        ("LABELS", "team=ml-platform,environment=test"),
        ("DRAIN_SECONDS", "4"),
    ];
    let mut bench = Bench::before(bigquery, &labels).await;
    bench.call(3).await;
    bench.until_in_table(3).await;
    let made = bench
        .bigquery
        .table(PROJECT, DATASET, TABLE)
        .expect("a table");
    assert_eq!(
        made["timePartitioning"],
        json!({"type": "DAY", "field": "started_at"})
    );
    assert_eq!(made["clustering"]["fields"], json!(["key_name", "model"]));
    assert_eq!(
        made["labels"],
        json!({"team": "ml-platform", "environment": "test"})
    );
    assert!(text(&made["description"]).contains("request_id"));
    let columns = |table: &Value| -> Vec<(String, String)> {
        let fields = table["schema"]["fields"].as_array().expect("columns");
        let named = |field: &Value| (text(&field["name"]), text(&field["mode"]));
        fields.iter().map(named).collect()
    };
    assert_eq!(columns(&made), columns(&resource()));
    // They would be sent once more, but the process cannot wait.
    assert_eq!(bench.gate.stop().await.code(), Some(0));
    let figures = bench.figures().await;
    assert_eq!((figures.in_table, figures.duplicates), (3, 0));
    bench.told_once("while the table is new").await;
}

/// A table that in two seconds and a half is five minutes old. Inserts do not know it for so long, and
/// swallow rows for so long, both from now on.
async fn new_table(missing_ms: u64, swallows_ms: u64) -> Bench {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    bigquery.make_table(PROJECT, DATASET, &resource());
    let age = Duration::from_mins(5).saturating_sub(Duration::from_millis(2_500));
    bigquery.age_table(PROJECT, DATASET, TABLE, age);
    bigquery.lag(Lags {
        table_missing: Duration::from_millis(missing_ms),
        table_swallows: Duration::from_millis(swallows_ms),
        column_missing: Duration::ZERO,
    });
    Bench::before(bigquery, &[]).await
}

#[tokio::test]
async fn a_new_table_that_is_not_found_or_swallows_rows_loses_none() {
    for (missing_ms, swallows_ms) in [(4_000, 0), (0, 2_000), (700, 2_000)] {
        let mut bench = new_table(missing_ms, swallows_ms).await;
        bench.call(10).await;
        if missing_ms > 0 {
            bench.until_failing("Not found").await;
        }
        if swallows_ms > 0 {
            // It says that it has them.
            eventually("acknowledged", || async {
                bench.status().await["written"] == 10
            })
            .await;
            assert_eq!(bench.table().len(), 0);
        }
        bench.until_in_table(10).await;
        let figures = bench.figures().await;
        assert_eq!((figures.in_log_only, figures.duplicates), (0, 0));
        eventually("acknowledged, each counted once", || async {
            bench.status().await["written"] == 10
        })
        .await;
        println!("a new table, missing {missing_ms} ms, swallows {swallows_ms} ms: {figures:?}");
    }
}

#[tokio::test]
async fn instances_that_start_at_once_make_one_table() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    let server = ModelServer::start(Settings::default()).await;
    let gates = join_all((0..3).map(|_| gate(&server, &bigquery, &[]))).await;
    for gate in &gates {
        let reply = gate.post("/v1/chat/completions", &chat()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        eventually("each writes its row", || async {
            let status = gate.admin("/admin/status").await.json();
            status["rows"]["written"] == 1
        })
        .await;
    }
    let refused = gates
        .iter()
        .flat_map(Gate::log)
        .filter(|line| line["severity"] == "ERROR");
    assert_eq!(refused.count(), 0);
}

#[tokio::test]
async fn columns_of_another_release_stay_also_if_it_writes_at_the_same_time() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    let mut grown = resource_without(&["labels"]);
    let theirs = json!({"name": "of_a_newer_release", "type": "JSON", "mode": "NULLABLE", "description": "d"});
    grown["schema"]["fields"]
        .as_array_mut()
        .expect("columns")
        .insert(3, theirs);
    bigquery.make_table(PROJECT, DATASET, &grown);
    // Somebody was faster.
    bigquery.next(
        Operation::TablesChange,
        Fault::Refuse(Refusal::new(412, "conditionNotMet", "Precondition Failed")),
    );
    let mut bench = Bench::before(bigquery, &[]).await;
    bench.call(2).await;
    bench.until_in_table(2).await;
    let table = bench
        .bigquery
        .table(PROJECT, DATASET, TABLE)
        .expect("a table");
    let mut wanted = grown["schema"]["fields"]
        .as_array()
        .expect("columns")
        .clone();
    let ours = resource()["schema"]["fields"]
        .as_array()
        .expect("columns")
        .clone();
    wanted.extend(
        ours.into_iter()
            .filter(|field| text(&field["name"]) == "labels"),
    );
    let names = |fields: &[Value]| -> Vec<String> {
        fields.iter().map(|field| text(&field["name"])).collect()
    };
    let columns = table["schema"]["fields"].as_array().expect("columns");
    assert_eq!(names(columns), names(&wanted));
    let changes = bench.bigquery.calls_of(Operation::TablesChange);
    assert_eq!(changes.len(), 2);
    assert!(
        changes
            .iter()
            .all(|call| call.headers.contains_key("if-match"))
    );
}

#[tokio::test]
async fn rows_go_without_columns_that_may_not_be_added() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    bigquery.make_table(PROJECT, DATASET, &resource_without(&["labels", "client"]));
    bigquery.always(
        Operation::TablesChange,
        Fault::Refuse(Refusal::denied("Access Denied: tables.update")),
    );
    let mut bench = Bench::before(bigquery, &[]).await;
    bench.call(3).await;
    bench.until_in_table(3).await;
    let said = bench.until_failing("client, labels").await;
    assert!(said.contains("Access Denied"), "{said}");
    bench.told_once("lacks columns").await;
    let figures = bench.figures().await;
    assert_eq!((figures.in_log_only, figures.duplicates), (0, 0));
    // The log has all.
    assert!(
        bench
            .gate
            .rows(3)
            .await
            .iter()
            .all(|row| row["labels"].is_array())
    );
}

#[tokio::test]
async fn the_right_to_write_rows_is_enough() {
    let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
    bigquery.make_table(PROJECT, DATASET, &resource());
    for operation in [Operation::TablesGet, Operation::TablesChange] {
        bigquery.always(
            operation,
            Fault::Refuse(Refusal::denied("Access Denied: tables.get")),
        );
    }
    let mut bench = Bench::before(bigquery, &[]).await;
    bench.call(3).await;
    bench.until_in_table(3).await;
    bench.until_failing("rows go unseen").await;
    bench.told_once("cannot be looked at").await;
    let figures = bench.figures().await;
    assert_eq!((figures.in_log_only, figures.duplicates), (0, 0));
}

/// BigQuery as it should not be, and what the gateway says of it.
async fn wrong() -> Vec<(&'static str, BigQuery)> {
    let no_dataset = BigQuery::start().await;
    let denied = |operation| async move {
        let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
        if operation == Operation::InsertAll {
            bigquery.make_table(PROJECT, DATASET, &resource());
        }
        bigquery.always(operation, Fault::Refuse(Refusal::denied("Access Denied")));
        bigquery
    };
    let mute = BigQuery::start().await;
    mute.always(Operation::Any, Fault::Never);
    vec![
        (
            "bq --location=LOCATION mk --dataset my-project:metering",
            no_dataset,
        ),
        (
            "cannot create the table metering.usage: Access Denied",
            denied(Operation::TablesInsert).await,
        ),
        (
            "cannot write to the table metering.usage: Access Denied",
            denied(Operation::InsertAll).await,
        ),
        ("", mute),
    ]
}

/// Serves, says what is wrong, ends.
async fn serve_without(words: &str, bigquery: BigQuery) {
    let began = Instant::now();
    let mut bench = Bench::before(bigquery, &[("DRAIN_SECONDS", "4")]).await;
    assert_eq!(bench.gate.ask("GET /ready", &[], b"").await.status, 200);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{words}: {took:?}");
    bench.call(5).await;
    if !words.is_empty() {
        bench.until_failing(words).await;
        let refused = bench
            .metric("tollgate_row_writes_total{outcome=\"refused\"}")
            .await;
        assert!(refused > 0.5, "{refused}");
        let told = bench.told_once("do not reach the sink").await;
        assert!(text(&told["cause"]).contains(words), "{told:#?}");
        assert_eq!(told["severity"], "ERROR");
    }
    bench.call(5).await;
    assert_eq!(bench.status().await["waiting"], 10);
    assert_eq!(bench.gate.stop().await.code(), Some(0));
    let figures = bench.figures().await;
    assert_eq!(figures.in_log_only, 10, "{words}");
    let told = bench.told_once("not acknowledged in time").await;
    assert_eq!(told["left"], 10);
}

#[tokio::test]
async fn a_missing_dataset_or_right_is_loud_and_stops_no_call() {
    let cases = wrong().await.into_iter();
    join_all(cases.map(|(words, bigquery)| serve_without(words, bigquery))).await;
}

#[tokio::test]
async fn rows_flow_when_the_dataset_is_there() {
    let mut bench = Bench::before(BigQuery::start().await, &[]).await;
    bench.call(3).await;
    bench.until_failing("no dataset").await;
    bench.bigquery.make_dataset(PROJECT, DATASET);
    bench.bigquery.make_table(PROJECT, DATASET, &resource());
    bench.until_in_table(3).await;
    assert_eq!(bench.status().await["failing"], Value::Null);
    bench.told_once("the sink of usage rows is ready").await;
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_no_file_is_needed() {
    let metadata = Metadata::start().await;
    let bigquery = BigQuery::with_dataset(metadata::PROJECT, DATASET).await;
    let mut old = resource();
    old["tableReference"]["projectId"] = json!(metadata::PROJECT);
    bigquery.make_table(metadata::PROJECT, DATASET, &old);
    let host = metadata.host();
    // The project and the account are known to the metadata server alone.
    let settings = [
        ("GCP_PROJECT", ""),
        ("GCE_METADATA_HOST", host.as_str()),
        ("DATA_DIR", "/proc/none"),
        ("DATABASE_URL", "none"),
        ("USAGE_SINK", "bigquery"),
    ];
    let mut bench = Bench::before(bigquery, &settings).await;
    let rows = |bench: &Bench| bench.bigquery.rows(metadata::PROJECT, DATASET, TABLE).len();
    bench.call(1).await;
    eventually("the first row", || async { rows(&bench) == 1 }).await;
    metadata.tokens().revoke();
    bench.bigquery.require_bearer("none of those");
    bench.call(1).await;
    bench.until_failing("authError").await;
    eventually("a new token", || async {
        !metadata.tokens().all().is_empty()
    })
    .await;
    let tokens = metadata.tokens().all();
    bench
        .bigquery
        .require_bearer(tokens.last().expect("a token"));
    eventually("the second row", || async { rows(&bench) == 2 }).await;
    let log = serde_json::to_string(&bench.gate.log()).expect("a log");
    assert!(tokens.iter().all(|token| !log.contains(token)));
}
