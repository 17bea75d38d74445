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
            woke: record.woke.then_some(true),
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
    /// Null unless it did: rows that are older than the column say the same.
    woke: Option<bool>,
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
pub(super) mod tests;
