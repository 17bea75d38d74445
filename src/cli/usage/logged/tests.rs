//! Rows are found in every shape of log, and nothing else is.

use serde_json::json;

use super::*;

fn usage(id: &str) -> Value {
    json!({
        "request_id": id, "client_request_id": null, "started_at": "2026-11-01T00:00:00.000001Z",
        "finished_at": "2026-11-01T00:00:01.000000Z", "principal": "service", "key_name": "ci",
        "key_id": null, "username": null, "model": "m", "served_model": "m", "upstream": "u",
        "endpoint": "/v1/chat/completions", "stream": true, "status": 200, "outcome": "complete",
        "error_code": null, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 2,
        "total_tokens": 3, "counted_by": "engine", "attempts": 1, "wait_ms": 0, "first_byte_ms": 5,
        "duration_ms": 1000, "request_bytes": 10, "response_bytes": 20, "client": null, "service": "",
        "revision": "", "instance_id": "i", "region": "", "labels": [{"key": "team", "value": "ml"}],
        "woke": true,
    })
}

fn line(usage: &Value) -> Value {
    json!({"severity": "INFO", "message": "usage", "time": "2026-11-01T00:00:01Z", "usage": usage})
}

/// What Cloud Logging makes of a line: numbers are floats, what has no value may be left out.
fn entry(usage: &Value) -> Value {
    let mut usage = usage.clone();
    let columns = usage.as_object_mut().unwrap();
    columns.retain(|_, value| !value.is_null());
    for value in columns.values_mut() {
        if let Some(number) = value.as_f64() {
            *value = json!(number);
        }
    }
    json!({"insertId": "x", "jsonPayload": {"message": "usage", "usage": usage}, "severity": "INFO"})
}

fn read(text: impl Into<Vec<u8>>) -> anyhow::Result<(Vec<Row>, Log)> {
    let text: Vec<u8> = text.into();
    let mut log = Log::of(Box::new(BufReader::with_capacity(
        16,
        io::Cursor::new(text),
    )))?;
    let mut rows = Vec::new();
    loop {
        let next = log.next_rows(2)?;
        if next.is_empty() {
            return Ok((rows, log));
        }
        rows.extend(next);
    }
}

fn columns(row: &Row) -> Value {
    serde_json::from_str(&row.text).unwrap()
}

#[test]
fn a_row_is_the_same_from_every_shape_of_log() {
    let wanted = [usage("a"), usage("b"), usage("c")];
    let lines = wanted.iter().map(|usage| line(usage).to_string());
    let entries: Vec<Value> = wanted.iter().map(entry).collect();
    let mixed = format!(
        "starting\n[info] {{}}\n\n{}\n{{\"message\":\"tollgate listens\"}}\n{{\"message\":\"usage\"}}\n{}\n{{cut",
        line(&wanted[0]),
        lines.clone().skip(1).collect::<Vec<_>>().join("\r\n"),
    );
    for text in [
        lines.clone().collect::<Vec<_>>().join("\n"),
        mixed,
        json!(entries).to_string(),
        format!("  {:#}\n", json!(entries)),
        entries
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    ] {
        let (rows, log) = read(text.clone()).unwrap();
        let found: Vec<Value> = rows.iter().map(columns).collect();
        assert_eq!(found, wanted, "{text}");
        assert_eq!((log.faulty_rows, log.unknown_columns.len()), (0, 0));
        assert_eq!(rows[0].started_at.microsecond(), 1);
    }
    for empty in ["", "\n", "[]", " [ ]\n", "[\n", "[warn] x\n"] {
        let rows = read(empty).map(|(rows, _)| rows.len());
        assert!(matches!(rows, Ok(0)) || empty == "[\n", "{empty}: {rows:?}");
    }
}

#[test]
fn a_row_that_is_not_whole_is_told_of() {
    let with = |name: &str, value: Value| {
        let mut usage = usage("a");
        usage[name] = value;
        line(&usage)
    };
    for (wrong, what) in [
        (with("request_id", json!("")), "without a request id"),
        (
            with("request_id", json!("x".repeat(129))),
            "without a request id",
        ),
        (with("status", json!("200")), "status is no INT64"),
        (with("status", json!(200.5)), "status is no INT64"),
        (with("upstream", Value::Null), "upstream is missing"),
        (with("stream", json!(1)), "stream is no BOOL"),
        (
            with("started_at", json!("yesterday")),
            "started_at is no TIMESTAMP",
        ),
        (with("labels", json!({})), "labels is no RECORD"),
        (with("labels", json!(["a"])), "labels holds something else"),
        (with("labels", json!([{"key": "a"}])), "value is missing"),
    ] {
        let (rows, log) = read(wrong.to_string()).unwrap();
        assert!(rows.is_empty() && log.faulty_rows == 1, "{wrong}");
        assert!(log.faults[0].contains(what), "{}", log.faults[0]);
    }
    let (rows, log) = read(with("of_tomorrow", json!(1)).to_string()).unwrap();
    assert_eq!((rows.len(), columns(&rows[0])), (1, usage("a")));
    assert!(log.unknown_columns.contains("of_tomorrow"));
}

#[test]
fn a_row_of_a_release_without_wakes_is_whole() {
    let mut older = usage("a");
    older.as_object_mut().unwrap().remove("woke");
    let (rows, log) = read(line(&older).to_string()).unwrap();
    assert_eq!(log.faulty_rows, 0);
    older["woke"] = Value::Null;
    assert_eq!(columns(&rows[0]), older);
}

#[test]
fn times_have_one_spelling() {
    let mut usage = usage("a");
    usage["started_at"] = json!("2026-11-01T02:00:00.5+02:00");
    let (rows, _) = read(line(&usage).to_string()).unwrap();
    assert_eq!(
        columns(&rows[0])["started_at"],
        "2026-11-01T00:00:00.500000Z"
    );
}

#[test]
fn what_cannot_be_a_row_is_bounded() {
    let long = "x".repeat(3 << 20);
    let text = format!(
        "{long}\n{}\n{{\"a\":\"{long}\"}}\n{}",
        line(&usage("a")),
        line(&usage("b"))
    );
    assert_eq!(read(text).unwrap().0.len(), 2);
    assert!(read(format!("[{{\"a\":\"{long}\"}}]")).is_err());
    for cut in ["[{\"a\":1}", "[{\"a\":1},", "[{\"a\""] {
        assert!(read(cut).is_err(), "{cut}");
    }
}
