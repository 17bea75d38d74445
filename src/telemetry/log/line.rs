//! One event into one line, in a buffer that each thread keeps. Pure but for the clock.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Format;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A buffer that grew beyond this is given back, so that one long line does not stay in memory.
const KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends an empty buffer. An event inside `write` (nothing here makes one) gets its own.
pub(super) fn with_buffer(write: impl FnOnce(&mut Vec<u8>)) {
    BUFFER.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.clear();
            write(&mut buffer);
            buffer.shrink_to(KEPT_BYTES);
        }
        Err(_) => write(&mut Vec::new()),
    });
}

/// Now, RFC 3339 with microseconds.
pub(super) fn write_time(buffer: &mut Vec<u8>) {
    // Writing to memory with a fixed format cannot fail.
    let _infallible = OffsetDateTime::now_utc().format_into(buffer, TIME);
}

/// Appends an event as one line with its line break.
pub(super) fn write_event(buffer: &mut Vec<u8>, event: &Event<'_>, format: &Format) {
    let mut fields = Fields {
        format,
        message: String::new(),
        rest: Vec::new(),
    };
    event.record(&mut fields);
    if format.text {
        write_time(buffer);
        buffer.push(b' ');
        write_level(buffer, *event.metadata().level(), format.colour);
        buffer.push(b' ');
        write_printable(buffer, &fields.message);
        buffer.extend_from_slice(&fields.rest);
    } else {
        buffer.extend_from_slice(b"{\"severity\":\"");
        buffer.extend_from_slice(severity(*event.metadata().level()).as_bytes());
        buffer.extend_from_slice(b"\",\"message\":");
        write_json_string(buffer, &fields.message);
        buffer.extend_from_slice(b",\"time\":\"");
        write_time(buffer);
        buffer.push(b'"');
        buffer.extend_from_slice(&fields.rest);
        buffer.push(b'}');
    }
    buffer.push(b'\n');
}

/// Cloud Logging's name of a level.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// A level as people know it, in five columns.
pub(super) fn write_level(buffer: &mut Vec<u8>, level: Level, colour: bool) {
    let (name, code) = match level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => (" WARN", "33"),
        Level::INFO => (" INFO", "32"),
        Level::DEBUG => ("DEBUG", "34"),
        Level::TRACE => ("TRACE", "35"),
    };
    let _infallible = if colour {
        write!(buffer, "\x1b[{code}m{name}\x1b[0m")
    } else {
        write!(buffer, "{name}")
    };
}

/// Text without control characters: what a client sent must not forge lines or move the cursor.
pub(super) fn write_printable(buffer: &mut Vec<u8>, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            let _infallible = write!(buffer, "{}", c.escape_default());
        } else {
            buffer.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

pub(super) fn write_json_string(buffer: &mut Vec<u8>, text: &str) {
    // A string written to memory cannot fail.
    let _infallible = serde_json::to_writer(buffer, text);
}

/// Collects the fields of an event: the message, and the others already written.
struct Fields<'a> {
    format: &'a Format,
    message: String,
    rest: Vec<u8>,
}

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        if self.format.text {
            let _infallible = write!(self.rest, " {name}=");
        } else {
            self.rest.push(b',');
            write_json_string(&mut self.rest, name);
            self.rest.push(b':');
        }
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field.name());
        let _infallible = write!(self.rest, "{value}");
    }

    fn text(&mut self, field: &Field, value: &str) {
        match (field.name(), self.format.project.get()) {
            ("message", _) => self.message.push_str(value),
            ("trace", Some(project)) if !self.format.text => {
                let link = format!("projects/{project}/traces/{value}");
                self.name("logging.googleapis.com/trace");
                write_json_string(&mut self.rest, &link);
            }
            (name, _) => {
                self.name(name);
                if self.format.text {
                    write_printable(&mut self.rest, value);
                } else {
                    write_json_string(&mut self.rest, value);
                }
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _infallible = write!(text, "{value:?}");
        self.text(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut next = value.source();
        while let Some(cause) = next {
            let _infallible = write!(chain, ": {cause}");
            next = cause.source();
        }
        self.text(field, &chain);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is not finite.
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.plain(field, "null");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, OnceLock};

    use serde_json::Value;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;

    /// Keeps the lines instead of writing them.
    struct Kept {
        format: Format,
        lines: Arc<Mutex<Vec<u8>>>,
    }

    impl<S: tracing::Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            write_event(&mut self.lines.lock().unwrap(), event, &self.format);
        }
    }

    fn lines_of(format: Format, log: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let layer = Kept {
            format,
            lines: lines.clone(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_have_cloud_loggings_fields() {
        let format = Format {
            project: Arc::new(OnceLock::from("p".to_owned())),
            ..Format::default()
        };
        let cause = std::io::Error::other("dis\"k");
        let text = lines_of(format, || {
            let error: &(dyn std::error::Error + 'static) = &cause;
            tracing::warn!(
                trace = "abc",
                wait_ms = 3,
                ratio = f64::NAN,
                ok = true,
                error,
                "late\n{}",
                "now"
            );
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["severity"], "WARNING");
        assert_eq!(line["message"], "late\nnow");
        assert_eq!(
            line["logging.googleapis.com/trace"],
            "projects/p/traces/abc"
        );
        assert_eq!(line["wait_ms"], 3);
        assert_eq!(line["ratio"], Value::Null);
        assert_eq!(line["ok"], true);
        assert_eq!(line["error"], "dis\"k");
        let time = line["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len());
        assert!(
            OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_ok()
        );
    }

    #[test]
    fn without_a_project_a_trace_is_a_plain_field() {
        let line: Value = serde_json::from_str(&lines_of(Format::default(), || {
            tracing::info!(trace = "abc", "x");
        }))
        .unwrap();
        assert_eq!(line["trace"], "abc");
    }

    #[test]
    fn text_lines_cannot_be_forged() {
        let format = Format {
            text: true,
            ..Format::default()
        };
        let text = lines_of(format, || tracing::error!(name = "a\r\nb\x1b[31m", "c\nd"));
        assert!(
            text.ends_with("ERROR c\\nd name=a\\r\\nb\\u{1b}[31m\n"),
            "{text}"
        );
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        let lines = [false, true].map(|colour| {
            lines_of(
                Format {
                    text: true,
                    colour,
                    project: Arc::default(),
                },
                || tracing::info!("x"),
            )
        });
        assert!(
            !lines[0].contains('\x1b') && lines[1].contains("\x1b[32m INFO\x1b[0m x"),
            "{lines:?}"
        );
    }
}
