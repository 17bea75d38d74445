//! What a row looks like as JSON.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::usage::{CountedBy, Outcome};

pub(in crate::usage) fn origin() -> Origin {
    let instance = Instance {
        service: "gate".into(),
        revision: "gate-1".into(),
        instance_id: "i1".into(),
        region: "europe-west4".into(),
        project: None,
        on_cloud_run: true,
    };
    let labels = [("team", "ml"), ("environment", "test"), ("team", "twice")];
    Origin::new(
        &instance,
        &labels.map(|(key, value)| (key.to_owned(), value.to_owned())),
    )
}

pub(in crate::usage) fn record(request_id: &str) -> UsageRecord {
    UsageRecord {
        request_id: request_id.to_owned(),
        client_request_id: Some("mine-1".into()),
        started_at: UNIX_EPOCH + Duration::from_micros(1_793_491_199_999_999),
        finished_at: UNIX_EPOCH + Duration::from_micros(1_793_491_200_000_001),
        principal: "service",
        key_name: Some(Arc::from("ci")),
        key_id: Some(Arc::from("0123456789ab")),
        username: None,
        model: Some("small".into()),
        served_model: Some("mistralai/Devstral".into()),
        upstream: "http://127.0.0.1:8001".into(),
        endpoint: "/v1/chat/completions",
        stream: true,
        status: 200,
        outcome: Outcome::ClientAbort,
        error_code: None,
        prompt_tokens: 100,
        cached_tokens: 64,
        completion_tokens: 23,
        counted_by: CountedBy::Running,
        attempts: 1,
        wait_ms: 3,
        woke: true,
        first_byte_ms: Some(41),
        duration_ms: 950,
        request_bytes: 2048,
        response_bytes: 4096,
        client: Some("opencode/1.2".into()),
        trace: None,
        budget: None,
        labels: Arc::new([
            ("cost-center".into(), "e1".into()),
            ("team".into(), "late".into()),
        ]),
    }
}

fn value(record: &UsageRecord) -> Value {
    serde_json::from_str(&origin().row(record).unwrap()).unwrap()
}

#[test]
fn a_row_holds_every_column_with_its_value() {
    let expected = json!({
        "request_id": "r1", "client_request_id": "mine-1",
        "started_at": "2026-10-31T23:59:59.999999Z", "finished_at": "2026-11-01T00:00:00.000001Z",
        "principal": "service", "key_name": "ci", "key_id": "0123456789ab", "username": null,
        "model": "small", "served_model": "mistralai/Devstral", "upstream": "http://127.0.0.1:8001",
        "endpoint": "/v1/chat/completions", "stream": true, "status": 200, "outcome": "client_abort",
        "error_code": null, "prompt_tokens": 100, "cached_tokens": 64, "completion_tokens": 23,
        "total_tokens": 123, "counted_by": "running", "attempts": 1, "wait_ms": 3,
        "first_byte_ms": 41, "duration_ms": 950, "request_bytes": 2048, "response_bytes": 4096,
        "client": "opencode/1.2", "service": "gate", "revision": "gate-1", "instance_id": "i1",
        "region": "europe-west4",
        "labels": [{"key": "team", "value": "ml"}, {"key": "environment", "value": "test"},
                   {"key": "cost-center", "value": "e1"}],
        "woke": true,
    });
    assert_eq!(value(&record("r1")), expected);
}

#[test]
fn columns_are_those_of_the_schema_in_order() {
    let schema: Vec<Value> =
        serde_json::from_str(include_str!("../../../schema/usage.json")).unwrap();
    let row = value(&record("r1"));
    let names: Vec<&str> = row
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted: Vec<&str> = schema
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, wanted);
    for column in &schema {
        let name = column["name"].as_str().unwrap();
        let fits = match (column["type"].as_str().unwrap(), &row[name]) {
            (_, Value::Null) => column["mode"] == "NULLABLE",
            ("STRING" | "TIMESTAMP", Value::String(_)) | ("BOOL", Value::Bool(_)) => true,
            ("INT64", number) => number.is_u64(),
            ("RECORD", Value::Array(_)) => column["mode"] == "REPEATED",
            _ => false,
        };
        assert!(fits, "{name} does not fit its type");
    }
}

#[test]
fn an_optional_field_is_a_nullable_column() {
    let schema: Vec<Value> =
        serde_json::from_str(include_str!("../../../schema/usage.json")).unwrap();
    let mut bare = record("r1");
    (bare.client_request_id, bare.key_name, bare.key_id) = (None, None, None);
    (bare.model, bare.served_model, bare.client) = (None, None, None);
    (bare.first_byte_ms, bare.error_code) = (None, None);
    bare.woke = false;
    let row = value(&bare);
    for column in &schema {
        let null = row[column["name"].as_str().unwrap()].is_null();
        assert_eq!(null, column["mode"] == "NULLABLE", "{}", column["name"]);
    }
}

#[test]
fn texts_are_cut_at_a_character_and_hold_no_control() {
    let mut odd = record("r1");
    odd.model = Some(format!("a{}", "é".repeat(200)));
    odd.client = Some("x\u{0}\r\n\t\u{1b}[31m\u{85}°".into());
    odd.labels = Arc::new([
        ("te\u{7}am".into(), "late".into()),
        ("a\n".into(), "1".into()),
        ("a".into(), "2".into()),
    ]);
    let row = value(&odd);
    assert_eq!(
        row["model"].as_str().unwrap(),
        format!("a{}", "é".repeat(127))
    );
    assert_eq!(row["client"], "x[31m°");
    assert_eq!(row["labels"][2], json!({"key": "a", "value": "1"}));
    assert_eq!(row["labels"].as_array().unwrap().len(), 3);
}

#[test]
fn counts_stay_exact_integers() {
    let mut huge = record("r1");
    (huge.prompt_tokens, huge.completion_tokens) = (u64::MAX, u64::MAX);
    let row = value(&huge);
    assert_eq!(row["prompt_tokens"], COUNT_MAX);
    assert_eq!(row["total_tokens"], COUNT_MAX);
}

#[test]
fn a_clock_beyond_the_calendar_is_held_at_its_edge() {
    let mut odd = record("r1");
    odd.started_at = UNIX_EPOCH - Duration::from_secs(5);
    odd.finished_at = UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 5);
    let row = value(&odd);
    assert_eq!(row["started_at"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(row["finished_at"], "9999-12-31T23:59:59.000000Z");
}
