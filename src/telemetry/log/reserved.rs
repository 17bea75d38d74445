//! The line of a call that was admitted on a lease, written before it is sent. Knows nothing of
//! leases but their names.

use std::io::Write as _;

use tracing::Level;

use super::Format;
use super::line::{write_json_string, write_level, write_printable, write_time};

/// What a call holds of a budget.
#[derive(Clone, Copy, Debug)]
pub struct Reserved<'a> {
    pub request_id: &'a str,
    /// The budget's name in the store.
    pub owner: &'a str,
    pub lease: &'a str,
    /// Of the admissions on the lease, from 1.
    pub number: u64,
    pub tokens: u64,
}

impl Reserved<'_> {
    pub(super) fn write_json(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(br#"{"severity":"INFO","message":"reserved","time":""#);
        write_time(buffer);
        for (name, text) in [
            (r#"","request_id":"#, self.request_id),
            (r#","budget":{"owner":"#, self.owner),
            (r#","lease":"#, self.lease),
        ] {
            buffer.extend_from_slice(name.as_bytes());
            write_json_string(buffer, text);
        }
        let (number, tokens) = (self.number, self.tokens);
        // Writing to memory cannot fail.
        let _infallible = writeln!(buffer, r#","number":{number},"tokens":{tokens}}}}}"#);
    }

    pub(super) fn write_text(&self, buffer: &mut Vec<u8>, colour: bool) {
        write_time(buffer);
        buffer.push(b' ');
        write_level(buffer, Level::INFO, colour);
        let (request_id, lease) = (self.request_id, self.lease);
        let _infallible = write!(buffer, " reserved request_id={request_id} owner=");
        write_printable(buffer, self.owner);
        let (number, tokens) = (self.number, self.tokens);
        let _infallible = writeln!(buffer, " lease={lease} number={number} tokens={tokens}");
    }
}

/// The line of a call that was withdrawn.
pub(super) fn write_released(
    buffer: &mut Vec<u8>,
    request_id: &str,
    (lease, number): (&str, u64),
    format: &Format,
) {
    if format.text {
        write_time(buffer);
        buffer.push(b' ');
        write_level(buffer, Level::INFO, format.colour);
        let _infallible = writeln!(
            buffer,
            " released request_id={request_id} lease={lease} number={number}"
        );
        return;
    }
    buffer.extend_from_slice(br#"{"severity":"INFO","message":"released","time":""#);
    write_time(buffer);
    buffer.extend_from_slice(br#"","request_id":"#);
    write_json_string(buffer, request_id);
    buffer.extend_from_slice(br#","budget":{"lease":"#);
    write_json_string(buffer, lease);
    let _infallible = writeln!(buffer, r#","number":{number},"charged":0}}}}"#);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RESERVED: Reserved<'static> = Reserved {
        request_id: "r",
        owner: "service:a \"b\"",
        lease: "l",
        number: 3,
        tokens: 42,
    };

    #[test]
    fn a_json_line_names_the_lease_and_the_place_on_it() {
        let mut buffer = Vec::new();
        RESERVED.write_json(&mut buffer);
        let line: Value = serde_json::from_slice(&buffer).unwrap();
        assert_eq!(line["message"], "reserved");
        assert_eq!(line["severity"], "INFO");
        assert_eq!(line["request_id"], "r");
        let budget = json!({"owner": "service:a \"b\"", "lease": "l", "number": 3, "tokens": 42});
        assert_eq!(line["budget"], budget);
        assert!(buffer.ends_with(b"}\n"));
    }

    #[test]
    fn a_withdrawn_call_is_told_to_cost_nothing() {
        let mut buffer = Vec::new();
        write_released(&mut buffer, "r", ("l", 3), &Format::default());
        let line: Value = serde_json::from_slice(&buffer).unwrap();
        assert_eq!(line["message"], "released");
        assert_eq!(line["request_id"], "r");
        assert_eq!(
            line["budget"],
            json!({"lease": "l", "number": 3, "charged": 0})
        );
    }

    #[test]
    fn a_text_line_is_one_line() {
        let mut buffer = Vec::new();
        RESERVED.write_text(&mut buffer, false);
        let line = String::from_utf8(buffer).unwrap();
        let end = " INFO reserved request_id=r owner=service:a \"b\" lease=l number=3 tokens=42\n";
        assert!(line.ends_with(end), "{line}");
    }
}
