//! Queries are run, read in pages, and refused in Google's words.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::BigQuery;
use super::{ask, insert, reason, with_table};

#[tokio::test]
async fn a_query_is_run_and_read_in_pages() {
    if !BigQuery::can_query_or_says_so("queries against the fake of BigQuery") {
        return;
    }
    let server = with_table().await;
    insert(
        &server,
        &[
            json!({"id": "a", "n": 1, "at": "2026-11-01"}),
            json!({"id": "b", "n": 2}),
        ],
        false,
    )
    .await;
    server.slow_queries(Duration::from_millis(300), 1);
    let sql = "SELECT id, at FROM `p.d.t` WHERE n <= @most AND id IN UNNEST(@ids) ORDER BY id";
    let parameters = json!([
        {"name": "most", "parameterType": {"type": "INT64"}, "parameterValue": {"value": "2"}},
        {"name": "ids", "parameterType": {"type": "ARRAY", "arrayType": {"type": "STRING"}},
         "parameterValue": {"arrayValues": [{"value": "a"}, {"value": "b"}, {"value": "c"}]}},
    ]);
    let body =
        json!({"query": sql, "useLegacySql": false, "queryParameters": parameters, "timeoutMs": 1});
    let first = ask(&server, "POST /bigquery/v2/projects/p/queries", &body)
        .await
        .json();
    assert_eq!(first["jobComplete"], false, "{first}");
    let job = first["jobReference"]["jobId"]
        .as_str()
        .expect("a job")
        .to_owned();
    let path = format!("/bigquery/v2/projects/p/queries/{job}");
    let mut page = json!({"jobComplete": false});
    while page["jobComplete"] == false {
        let line = format!("GET {path}");
        page = ask(&server, &line, &Value::Null).await.json();
    }
    assert_eq!(
        (&page["totalRows"], &page["pageToken"]),
        (&json!("2"), &json!("1")),
        "{page}"
    );
    assert_eq!(
        page["rows"],
        json!([{"f": [{"v": "a"}, {"v": "1793491200.000000"}]}])
    );
    let page = ask(
        &server,
        &format!("GET {path}?pageToken=1&formatOptions.useInt64Timestamp=true"),
        &Value::Null,
    )
    .await;
    assert_eq!(
        page.json()["rows"],
        json!([{"f": [{"v": "b"}, {"v": null}]}])
    );
}

#[tokio::test]
async fn a_query_that_cannot_be_run_is_refused() {
    if !BigQuery::can_query_or_says_so("queries against the fake of BigQuery") {
        return;
    }
    let server = with_table().await;
    for (sql, expected) in [
        ("SELECT 1 FROM d.none", (404, "notFound")),
        ("SELEC", (400, "invalidQuery")),
    ] {
        let body = json!({"query": sql, "useLegacySql": false});
        let reply = ask(&server, "POST /bigquery/v2/projects/p/queries", &body).await;
        assert_eq!(
            reason(&reply),
            (expected.0, expected.1.to_owned()),
            "{}",
            reply.text()
        );
    }
}
