//! The line of one settled call. Knows the columns only for the short form that people read.

use std::io::Write as _;

use serde_json::Value;
use tracing::Level;

use super::line::{write_json_string, write_level, write_printable, write_time};
use crate::usage::Charged;

/// The columns of the short form, in order.
const SHORT: [&str; 14] = [
    "request_id",
    "key_name",
    "username",
    "endpoint",
    "model",
    "stream",
    "status",
    "outcome",
    "error_code",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "woke",
    "duration_ms",
];

/// All columns under `usage`, what it took of a budget beside them, and the link to the request's
/// trace.
pub(super) fn write_json(
    buffer: &mut Vec<u8>,
    row: &[u8],
    budget: Option<&Charged>,
    trace: Option<(&str, &str)>,
) {
    buffer.extend_from_slice(br#"{"severity":"INFO","message":"usage","time":""#);
    write_time(buffer);
    buffer.push(b'"');
    if let Some((project, id)) = trace {
        let link = format!(r#","logging.googleapis.com/trace":"projects/{project}/traces/{id}""#);
        buffer.extend_from_slice(link.as_bytes());
    }
    if let Some(budget) = budget {
        buffer.extend_from_slice(br#","budget":{"lease":"#);
        write_json_string(buffer, &budget.lease);
        let (number, charged) = (budget.number, budget.charged);
        let _infallible = write!(buffer, r#","number":{number},"charged":{charged}}}"#);
    }
    buffer.extend_from_slice(br#","usage":"#);
    buffer.extend_from_slice(row);
    buffer.extend_from_slice(b"}\n");
}

/// `usage name=value ...` with the columns that a person looks for; absent ones are left out.
pub(super) fn write_text(buffer: &mut Vec<u8>, row: &[u8], budget: Option<&Charged>, colour: bool) {
    write_time(buffer);
    buffer.push(b' ');
    write_level(buffer, Level::INFO, colour);
    buffer.extend_from_slice(b" usage");
    write_short(buffer, row);
    if let Some(budget) = budget {
        let _infallible = write!(buffer, " charged={}", budget.charged);
    }
    buffer.push(b'\n');
}

/// As [`write_json`], for a row that the sink refused. It has a message of its own, so that whoever
/// counts usage lines does not count it twice.
pub(super) fn write_refused_json(buffer: &mut Vec<u8>, row: &[u8], reason: &str) {
    buffer.extend_from_slice(
        br#"{"severity":"ERROR","message":"usage rows are refused for good: this one is in the log alone","time":""#,
    );
    write_time(buffer);
    buffer.extend_from_slice(br#"","reason":"#);
    write_json_string(buffer, reason);
    buffer.extend_from_slice(br#","usage":"#);
    buffer.extend_from_slice(row);
    buffer.extend_from_slice(b"}\n");
}

/// As [`write_text`], for a row that the sink refused.
pub(super) fn write_refused_text(buffer: &mut Vec<u8>, row: &[u8], reason: &str, colour: bool) {
    write_time(buffer);
    buffer.push(b' ');
    write_level(buffer, Level::ERROR, colour);
    buffer.extend_from_slice(b" usage row refused for good: ");
    write_printable(buffer, reason);
    write_short(buffer, row);
    buffer.push(b'\n');
}

fn write_short(buffer: &mut Vec<u8>, row: &[u8]) {
    let row: Value = serde_json::from_slice(row).unwrap_or_default();
    for column in SHORT {
        let text = match row.get(column) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        buffer.push(b' ');
        buffer.extend_from_slice(column.as_bytes());
        buffer.push(b'=');
        write_printable(buffer, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &[u8] = br#"{"request_id":"r","key_name":"a b","status":200,"error_code":null,"labels":[{"key":"k","value":"v"}],"woke":true}"#;

    #[test]
    fn a_json_line_holds_the_whole_row() {
        let mut buffer = Vec::new();
        let budget = Charged {
            lease: "l".into(),
            number: 3,
            charged: 42,
        };
        write_json(&mut buffer, ROW, Some(&budget), Some(("p", "abc")));
        let line: Value = serde_json::from_slice(&buffer).unwrap();
        assert_eq!(
            line["logging.googleapis.com/trace"],
            "projects/p/traces/abc"
        );
        assert_eq!(
            (line["message"].as_str(), line["severity"].as_str()),
            (Some("usage"), Some("INFO"))
        );
        assert_eq!(line["usage"], serde_json::from_slice::<Value>(ROW).unwrap());
        let budget = serde_json::json!({"lease": "l", "number": 3, "charged": 42});
        assert_eq!(line["budget"], budget);
        assert_eq!(
            buffer.split(|byte| *byte == b'\n').count(),
            2,
            "one line break, at the end"
        );
    }

    #[test]
    fn a_refused_row_is_told_whole_with_its_reason() {
        let mut buffer = Vec::new();
        write_refused_json(&mut buffer, ROW, "no \"number\"");
        let line: Value = serde_json::from_slice(&buffer).unwrap();
        assert_eq!(line["severity"], "ERROR");
        assert_eq!(line["reason"], "no \"number\"");
        assert_ne!(line["message"], "usage");
        assert_eq!(line["usage"], serde_json::from_slice::<Value>(ROW).unwrap());
        buffer.clear();
        write_refused_text(&mut buffer, ROW, "no\nnumber", false);
        let line = String::from_utf8(buffer).unwrap();
        assert!(
            line.contains(" ERROR usage row refused for good: no\\nnumber request_id=r "),
            "{line}"
        );
    }

    #[test]
    fn a_text_line_is_short() {
        let mut buffer = Vec::new();
        write_text(&mut buffer, ROW, None, false);
        let line = String::from_utf8(buffer).unwrap();
        assert!(
            line.ends_with(" INFO usage request_id=r key_name=a b status=200 woke=true\n"),
            "{line}"
        );
    }
}
