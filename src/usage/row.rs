//! A settled call as a row: one JSON object with the columns of `schema/usage.json`, in their order.
//! The log line, the embedded table and every later sink take this one text. Pure.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::{Serialize, SerializeSeq, Serializer};
use time::OffsetDateTime;

use super::UsageRecord;
use crate::config::Instance;

/// Longest text in a row, in bytes.
const TEXT_BYTES: usize = 256;
/// Largest count in a row: every JSON reader keeps it exact, and sums of it do not overflow soon.
const COUNT_MAX: u64 = (1 << 53) - 1;
/// Most rows are shorter, so that they are written without growing.
const ROW_BYTES: usize = 1024;
/// 9999-12-31T23:59:59 UTC, the last second with a four-digit year.
const LAST_SECOND: u64 = 253_402_300_799;

/// What is the same in every row of one process.
pub(super) struct Origin {
    service: String,
    revision: String,
    instance_id: String,
    region: String,
    labels: Vec<(String, String)>,
}

impl Origin {
    pub(super) fn new(instance: &Instance, labels: &[(String, String)]) -> Self {
        let mut unique: Vec<(String, String)> = Vec::with_capacity(labels.len());
        for (key, value) in labels {
            let key = clean(key);
            if !unique.iter().any(|(known, _)| *known == key) {
                unique.push((key.into_owned(), clean(value).into_owned()));
            }
        }
        Self {
            service: instance.service.clone(),
            revision: instance.revision.clone(),
            instance_id: instance.instance_id.clone(),
            region: instance.region.clone(),
            labels: unique,
        }
    }

    /// The row of `record`.
    ///
    /// # Errors
    /// None that is known of: all keys are texts and the writer is memory.
    pub(super) fn row(&self, record: &UsageRecord) -> Result<String, serde_json::Error> {
        let mut row = Vec::with_capacity(ROW_BYTES);
        serde_json::to_writer(&mut row, &self.columns(record))?;
        String::from_utf8(row).map_err(serde::ser::Error::custom)
    }

    fn columns<'a>(&'a self, record: &'a UsageRecord) -> Columns<'a> {
        Columns {
            request_id: Text(&record.request_id),
            client_request_id: record.client_request_id.as_deref().map(Text),
            started_at: Timestamp(record.started_at),
            finished_at: Timestamp(record.finished_at),
            principal: record.principal,
            key_name: record.key_name.as_deref().map(Text),
            key_id: record.key_id.as_deref().map(Text),
            username: record.username.as_deref().map(Text),
            model: record.model.as_deref().map(Text),
            served_model: record.served_model.as_deref().map(Text),
            upstream: Text(&record.upstream),
            endpoint: record.endpoint,
            stream: record.stream,
            status: record.status,
            outcome: record.outcome.as_str(),
            error_code: record.error_code.as_deref().map(Text),
            prompt_tokens: Count(record.prompt_tokens),
            cached_tokens: Count(record.cached_tokens),
            completion_tokens: Count(record.completion_tokens),
            total_tokens: Count(
                record
                    .prompt_tokens
                    .saturating_add(record.completion_tokens),
            ),
            counted_by: record.counted_by.as_str(),
            attempts: record.attempts,
            wait_ms: Count(record.wait_ms),
            first_byte_ms: record.first_byte_ms.map(Count),
            duration_ms: Count(record.duration_ms),
            request_bytes: Count(record.request_bytes),
            response_bytes: Count(record.response_bytes),
            client: record.client.as_deref().map(Text),
            service: Text(&self.service),
            revision: Text(&self.revision),
            instance_id: Text(&self.instance_id),
            region: Text(&self.region),
            labels: Labels {
                service: &self.labels,
                own: &record.labels,
            },
        }
    }
}

/// The columns, in the contract's order.
#[derive(serde::Serialize)]
struct Columns<'a> {
    request_id: Text<'a>,
    client_request_id: Option<Text<'a>>,
    started_at: Timestamp,
    finished_at: Timestamp,
    principal: &'static str,
    key_name: Option<Text<'a>>,
    key_id: Option<Text<'a>>,
    username: Option<Text<'a>>,
    model: Option<Text<'a>>,
    served_model: Option<Text<'a>>,
    upstream: Text<'a>,
    endpoint: &'static str,
    stream: bool,
    status: u16,
    outcome: &'static str,
    error_code: Option<Text<'a>>,
    prompt_tokens: Count,
    cached_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    counted_by: &'static str,
    attempts: u32,
    wait_ms: Count,
    first_byte_ms: Option<Count>,
    duration_ms: Count,
    request_bytes: Count,
    response_bytes: Count,
    client: Option<Text<'a>>,
    service: Text<'a>,
    revision: Text<'a>,
    instance_id: Text<'a>,
    region: Text<'a>,
    labels: Labels<'a>,
}

/// A text of foreign origin.
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&clean(self.0))
    }
}

/// A number of foreign origin.
struct Count(u64);

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.min(COUNT_MAX))
    }
}

/// RFC 3339 in UTC with microseconds, always of the same width.
struct Timestamp(SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = i64::try_from(since.as_secs().min(LAST_SECOND)).unwrap_or_default();
        let at = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        serializer.collect_str(&format_args!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            since.subsec_micros(),
        ))
    }
}

/// Labels of the service, then the key's own; of two with the same key the first stays.
struct Labels<'a> {
    service: &'a [(String, String)],
    own: &'a [(String, String)],
}

#[derive(serde::Serialize)]
struct Label<'a> {
    key: Text<'a>,
    value: Text<'a>,
}

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut labels = serializer.serialize_seq(None)?;
        for (key, value) in self.service {
            labels.serialize_element(&Label {
                key: Text(key),
                value: Text(value),
            })?;
        }
        for (at, (key, value)) in self.own.iter().enumerate() {
            let name = clean(key);
            let known = self
                .service
                .iter()
                .chain(&self.own[..at])
                .any(|(k, _)| clean(k) == name);
            if !known {
                labels.serialize_element(&Label {
                    key: Text(&name),
                    value: Text(value),
                })?;
            }
        }
        labels.end()
    }
}

/// Takes control characters out of a text and cuts it at a character's boundary.
fn clean(text: &str) -> Cow<'_, str> {
    // 0xC2 begins the control characters beyond ASCII, and some harmless ones besides.
    let suspect = |byte: u8| byte < 0x20 || byte == 0x7F || byte == 0xC2;
    if text.len() <= TEXT_BYTES && !text.bytes().any(suspect) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(TEXT_BYTES);
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > TEXT_BYTES {
            break;
        }
        kept.push(c);
    }
    Cow::Owned(kept)
}

#[cfg(test)]
pub(super) mod tests {
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
            first_byte_ms: Some(41),
            duration_ms: 950,
            request_bytes: 2048,
            response_bytes: 4096,
            client: Some("opencode/1.2".into()),
            labels: vec![
                ("cost-center".into(), "e1".into()),
                ("team".into(), "late".into()),
            ],
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
        });
        assert_eq!(value(&record("r1")), expected);
    }

    #[test]
    fn columns_are_those_of_the_schema_in_order() {
        let schema: Vec<Value> =
            serde_json::from_str(include_str!("../../schema/usage.json")).unwrap();
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
            serde_json::from_str(include_str!("../../schema/usage.json")).unwrap();
        let mut bare = record("r1");
        (bare.client_request_id, bare.key_name, bare.key_id) = (None, None, None);
        (bare.model, bare.served_model, bare.client) = (None, None, None);
        (bare.first_byte_ms, bare.error_code) = (None, None);
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
        odd.labels = vec![
            ("te\u{7}am".into(), "late".into()),
            ("a\n".into(), "1".into()),
            ("a".into(), "2".into()),
        ];
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
}
