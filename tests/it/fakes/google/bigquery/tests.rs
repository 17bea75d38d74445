//! The fake answers as BigQuery does.

mod queries;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::super::wire::{Reply, exchange};
use super::{BigQuery, Fault, Lags, Operation, Refusal, RowRefusal};

const TABLE: (&str, &str, &str) = ("p", "d", "t");
const TABLES: &str = "/bigquery/v2/projects/p/datasets/d/tables";

fn resource() -> Value {
    json!({
        "tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"},
        "schema": {"fields": [
            {"name": "id", "type": "STRING", "mode": "REQUIRED"},
            {"name": "at", "type": "TIMESTAMP"},
            {"name": "n", "type": "INT64"},
            {"name": "yes", "type": "BOOL"},
            {"name": "labels", "type": "RECORD", "mode": "REPEATED", "fields": [
                {"name": "key", "type": "STRING", "mode": "REQUIRED"}]},
        ]},
    })
}

async fn ask(server: &BigQuery, line: &str, body: &Value) -> Reply {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let addr = server.shared.addr;
    exchange(addr, line, &[], body.as_bytes())
        .await
        .expect("an answer")
}

async fn with_table() -> BigQuery {
    let server = BigQuery::with_dataset("p", "d").await;
    server.make_table("p", "d", &resource());
    server
}

/// Inserts rows with their `id` as insert id; the reasons and messages of the errors by index.
async fn insert(server: &BigQuery, rows: &[Value], skip: bool) -> Vec<(u64, String, String)> {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| json!({"insertId": row["id"], "json": row}))
        .collect();
    let body = json!({"rows": rows, "skipInvalidRows": skip});
    let reply = ask(server, &format!("POST {TABLES}/t/insertAll"), &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let errors = reply.json()["insertErrors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let error = |error: &Value| {
        let first = &error["errors"][0];
        (
            error["index"].as_u64().expect("an index"),
            text(&first["reason"]),
            text(&first["message"]),
        )
    };
    errors.iter().map(error).collect()
}

fn reason(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    assert_eq!(body["error"]["code"], reply.status);
    let reason = body["error"]["errors"][0]["reason"].as_str();
    (reply.status, reason.expect("a reason").to_owned())
}

#[tokio::test]
async fn one_bad_row_stops_the_others_unless_it_is_skipped() {
    let server = with_table().await;
    let rows = [
        json!({"id": "a", "n": "7", "yes": "TRUE"}),
        json!({"id": "b", "more": 1}),
    ];
    let errors = insert(&server, &rows, false).await;
    let wrong = (1, "invalid".to_owned(), "no such field: more.".to_owned());
    assert_eq!(
        errors,
        [(0, "stopped".to_owned(), String::new()), wrong.clone()]
    );
    assert!(server.rows("p", "d", "t").is_empty());
    assert_eq!(insert(&server, &rows, true).await, [wrong]);
    let stored = json!({"id": "a", "at": null, "n": 7, "yes": true, "labels": []});
    assert_eq!(server.rows("p", "d", "t"), [stored]);
}

#[tokio::test]
async fn a_cell_has_the_type_of_its_column() {
    let server = with_table().await;
    let labels = |value: Value| json!({"id": "a", "labels": value});
    for wrong in [
        json!({}),
        json!({"id": null}),
        json!({"id": ["a"]}),
        json!({"id": {"x": 1}}),
        json!({"id": "a", "n": 1.5}),
        json!({"id": "a", "n": "many"}),
        json!({"id": "a", "yes": "perhaps"}),
        json!({"id": "a", "at": "yesterday"}),
        labels(json!({"key": "k"})),
        labels(json!([null])),
        labels(json!([{}])),
        labels(json!([{"key": "k", "other": 1}])),
        json!("a"),
    ] {
        let errors = insert(&server, std::slice::from_ref(&wrong), false).await;
        assert_eq!(errors.len(), 1, "{wrong}");
        assert_eq!(errors[0].1, "invalid", "{wrong}");
    }
    for right in [
        "2026-11-01",
        "2026-11-01 10:00:00.5 UTC",
        "2026-11-01T10:00:00.123456Z",
        "1793527200.25",
    ] {
        assert_eq!(
            insert(&server, &[json!({"id": right, "at": right})], false).await,
            [],
            "{right}"
        );
    }
    assert_eq!(
        insert(
            &server,
            &[json!({"id": "l", "labels": [{"key": "k"}]})],
            false
        )
        .await,
        []
    );
    let page = ask(
        &server,
        &format!("GET {TABLES}/t/data?maxResults=2"),
        &Value::Null,
    )
    .await
    .json();
    assert_eq!(
        (&page["totalRows"], &page["pageToken"]),
        (&json!("5"), &json!("2"))
    );
    let seconds = json!({"v": "1793527200.500000"});
    assert_eq!(page["rows"][1]["f"][1], seconds);
}

#[tokio::test]
async fn insert_ids_are_remembered_for_a_while() {
    let server = with_table().await;
    for _ in 0..2 {
        assert_eq!(insert(&server, &[json!({"id": "a"})], false).await, []);
    }
    assert_eq!(server.rows("p", "d", "t").len(), 1);
    server.remember_insert_ids(Duration::ZERO);
    insert(&server, &[json!({"id": "a"})], false).await;
    assert_eq!(server.rows("p", "d", "t").len(), 2);
    assert_eq!(server.distinct_rows(TABLE, "id").len(), 1);
}

#[tokio::test]
async fn columns_are_added_and_never_taken() {
    let server = with_table().await;
    let path = format!("{TABLES}/t");
    let read = ask(&server, &format!("GET {path}"), &Value::Null).await;
    let etag = read.header("etag").to_owned();
    let schema = read.json()["schema"].clone();
    let change = |at: usize, name: &str, value: &str| {
        let mut schema = schema.clone();
        schema["fields"][at][name] = json!(value);
        json!({"schema": schema})
    };
    let mut fewer = schema.clone();
    fewer["fields"].as_array_mut().expect("columns").pop();
    let mut more = schema.clone();
    let fields = more["fields"].as_array_mut().expect("columns");
    fields.push(json!({"name": "extra", "type": "STRING", "mode": "REQUIRED"}));
    for wrong in [
        json!({"schema": fewer}),
        json!({"schema": more}),
        change(2, "type", "STRING"),
        change(1, "mode", "REQUIRED"),
    ] {
        let reply = ask(&server, &format!("PATCH {path}"), &wrong).await;
        assert_eq!(reason(&reply), (400, "invalid".to_owned()), "{wrong}");
    }
    more["fields"][5]["mode"] = json!("NULLABLE");
    let body = json!({"schema": more}).to_string();
    let change_at = |etag: String| {
        let (body, line) = (body.clone(), format!("PATCH {path}"));
        let addr = server.shared.addr;
        async move {
            exchange(addr, &line, &[("if-match", &etag)], body.as_bytes())
                .await
                .expect("an answer")
        }
    };
    assert_eq!(change_at(etag.clone()).await.status, 200);
    assert_eq!(
        reason(&change_at(etag).await),
        (412, "conditionNotMet".to_owned())
    );

    let row = [json!({"id": "a", "extra": "x"})];
    server.lag(Lags {
        column_missing: Duration::MAX,
        ..Lags::default()
    });
    assert_eq!(
        insert(&server, &row, false).await[0].2,
        "no such field: extra."
    );
    server.lag(Lags::default());
    assert_eq!(insert(&server, &row, false).await, []);
}

#[tokio::test]
async fn a_new_table_may_be_missing_and_may_swallow_rows() {
    let server = BigQuery::with_dataset("p", "d").await;
    let line = format!("POST {TABLES}/t/insertAll");
    let rows = json!({"rows": [{"insertId": "a", "json": {"id": "a"}}]});
    assert_eq!(
        reason(&ask(&server, &line, &rows).await),
        (404, "notFound".to_owned())
    );
    server.lag(Lags {
        table_missing: Duration::MAX,
        ..Lags::default()
    });
    assert_eq!(
        ask(&server, &format!("POST {TABLES}"), &resource())
            .await
            .status,
        200
    );
    let again = ask(&server, &format!("POST {TABLES}"), &resource()).await;
    assert_eq!(reason(&again), (409, "duplicate".to_owned()));
    assert_eq!(
        reason(&ask(&server, &line, &rows).await),
        (404, "notFound".to_owned())
    );
    server.lag(Lags {
        table_swallows: Duration::MAX,
        ..Lags::default()
    });
    assert_eq!(insert(&server, &[json!({"id": "a"})], false).await, []);
    assert!(server.rows("p", "d", "t").is_empty());
    server.lag(Lags::default());
    insert(&server, &[json!({"id": "a"})], false).await;
    assert_eq!(server.rows("p", "d", "t").len(), 1);
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let server = with_table().await;
    let line = format!("POST {TABLES}/t/insertAll");
    let rows = |id: &str| json!({"rows": [{"insertId": id, "json": {"id": id}}]});
    for (refusal, expected) in [
        (Refusal::rate_limit(), (403, "rateLimitExceeded")),
        (Refusal::too_many(), (429, "rateLimitExceeded")),
        (Refusal::unavailable(), (503, "backendError")),
        (Refusal::denied("no"), (403, "accessDenied")),
    ] {
        server.next(Operation::InsertAll, Fault::Refuse(refusal));
        let reply = ask(&server, &line, &rows("a")).await;
        assert_eq!(reason(&reply), (expected.0, expected.1.to_owned()));
    }
    server.always(Operation::Any, Fault::Html);
    let reply = ask(&server, &line, &rows("a")).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (502, "text/html; charset=UTF-8")
    );
    assert!(server.rows("p", "d", "t").is_empty());
}

#[tokio::test]
async fn an_answer_may_come_late_or_never() {
    let server = with_table().await;
    let line = format!("POST {TABLES}/t/insertAll");
    let rows = |id: &str| json!({"rows": [{"insertId": id, "json": {"id": id}}]});
    let late = Duration::from_millis(200);
    server.next(Operation::InsertAll, Fault::Late(late));
    let begun = Instant::now();
    assert_eq!(ask(&server, &line, &rows("late")).await.status, 200);
    assert!(begun.elapsed() >= late);
    server.next(Operation::InsertAll, Fault::Never);
    let (never, body) = (format!("POST {TABLES}/t/insertAll"), rows("never"));
    let asked = ask(&server, &never, &body);
    assert!(tokio::time::timeout(late, asked).await.is_err());
    assert_eq!(server.wait_for(|calls| calls.len() == 2).await.len(), 2);
    assert_eq!(server.rows("p", "d", "t").len(), 1);
}

#[tokio::test]
async fn an_answer_may_be_lost_and_a_port_closed() {
    let mut server = with_table().await;
    let line = format!("POST {TABLES}/t/insertAll");
    let rows = |id: &str| json!({"rows": [{"insertId": id, "json": {"id": id}}]});
    server.always(Operation::Any, Fault::Html);
    server.recover();
    server.next(Operation::InsertAll, Fault::Lost);
    let body = rows("lost").to_string();
    assert!(
        exchange(server.shared.addr, &line, &[], body.as_bytes())
            .await
            .is_err()
    );
    server.next(Operation::InsertAll, Fault::Unreadable);
    assert!(
        ask(&server, &line, &rows("unread"))
            .await
            .text()
            .starts_with("<!DOCTYPE")
    );
    assert_eq!(server.rows("p", "d", "t").len(), 2);

    server.refuse_rows(|row| {
        let (reason, message) = ("backendError".to_owned(), "once more".to_owned());
        (row["id"] == "bad").then_some(RowRefusal { reason, message })
    });
    let errors = insert(
        &server,
        &[json!({"id": "good"}), json!({"id": "bad"})],
        true,
    )
    .await;
    assert_eq!(
        errors,
        [(1, "backendError".to_owned(), "once more".to_owned())]
    );

    server.require_bearer("t");
    assert_eq!(
        reason(&ask(&server, &line, &rows("a")).await),
        (401, "authError".to_owned())
    );
    server.stop().await;
    assert!(
        exchange(server.shared.addr, &line, &[], b"{}")
            .await
            .is_err()
    );
    server.resume().await;
    assert_eq!(ask(&server, &line, &rows("a")).await.status, 401);
    assert_eq!(server.calls().len(), 5);
}

#[tokio::test]
async fn an_insert_has_limits() {
    let server = with_table().await;
    let line = format!("POST {TABLES}/t/insertAll");
    let row = json!({"json": {"id": "a"}});
    let many = json!({"rows": vec![row.clone(); 50_001]});
    let big = json!({"rows": [{"json": {"id": "a".repeat(11 << 20)}}]});
    for (body, status) in [
        (json!({"rows": []}), 400),
        (many, 400),
        (big, 413),
        (json!({"row": [row]}), 400),
    ] {
        assert_eq!(ask(&server, &line, &body).await.status, status);
    }
}
