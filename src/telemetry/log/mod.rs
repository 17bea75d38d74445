//! Log lines on standard output: Cloud Logging's fields as JSON, or text for a terminal. One line is
//! one write to the descriptor, so that what was logged survives a `kill -9`. Must not know what the
//! events mean, nor ever end the process because nobody reads them.

mod line;
mod refusal;
mod reserved;
mod row;

use std::io::Write;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, registry::LookupSpan};

pub use refusal::{Refusal, RefusalLog};
pub use reserved::Reserved;

use crate::config::LogConfig;
use crate::usage::UsageRecord;

/// Left out unless `LOG_LEVEL` asks for it by name: the client of databases tells of each notice of
/// the server, and repeats what it does not understand in a URL, which may be a password.
const QUIET: &str = "sqlx=off";

/// How lines look in this process; set once at start. Before that, JSON.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// How lines look.
#[derive(Clone, Debug, Default)]
struct Format {
    text: bool,
    colour: bool,
    /// Google project, for links to traces; it may be learnt after the first lines.
    project: Arc<OnceLock<String>>,
}

/// Starts logging for this process. The field `trace` of an event is the id of a trace; it becomes
/// a link once the project is known.
///
/// # Errors
/// A level that is none, or a second call.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    let filter = format!("{QUIET},{}", config.level);
    let filter = EnvFilter::try_new(filter).context("LOG_LEVEL")?;
    let format = Format {
        text: !config.json,
        colour: config.colour,
        project: Arc::default(),
    };
    let layer = Lines {
        format: format.clone(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .context("logging was started before")?;
    FORMAT
        .set(format)
        .map_err(|_| anyhow::anyhow!("logging was started before"))
}

/// From now on traces are links into this Google project.
pub fn know_project(project: &str) {
    if let Some(format) = FORMAT.get() {
        // A second one would be the same.
        let _known = format.project.set(project.to_owned());
    }
}

/// Writes the line of one settled call, whatever the log level. `row` is the JSON object of all
/// columns of `record`, without line breaks; it stands under `usage`.
pub fn usage_line(row: &[u8], record: &UsageRecord) {
    let default = Format::default();
    let format = FORMAT.get().unwrap_or(&default);
    line::with_buffer(|buffer| {
        if format.text {
            row::write_text(buffer, row, record.budget.as_ref(), format.colour);
        } else {
            let project = format.project.get().map(String::as_str);
            let trace = project.zip(record.trace.as_deref());
            row::write_json(buffer, row, record.budget.as_ref(), trace);
        }
        write_out(buffer);
    });
}

/// Writes that a call holds tokens of a lease, whatever the log level: with the usage line it says
/// later what was spent of a lease whose owner died.
pub fn reserved_line(reserved: &Reserved<'_>) {
    let default = Format::default();
    let format = FORMAT.get().unwrap_or(&default);
    line::with_buffer(|buffer| {
        if format.text {
            reserved.write_text(buffer, format.colour);
        } else {
            reserved.write_json(buffer);
        }
        write_out(buffer);
    });
}

/// Writes that a call on a lease was withdrawn after all: its number is not missing, and cost nothing.
pub fn released_line(request_id: &str, lease: &str, number: u64) {
    let default = Format::default();
    let format = FORMAT.get().unwrap_or(&default);
    line::with_buffer(|buffer| {
        reserved::write_released(buffer, request_id, (lease, number), format);
        write_out(buffer);
    });
}

/// Writes a row that the sink will never take, whole and with the reason, as an error.
pub fn refused_row_line(row: &[u8], reason: &str) {
    let default = Format::default();
    let format = FORMAT.get().unwrap_or(&default);
    line::with_buffer(|buffer| {
        if format.text {
            row::write_refused_text(buffer, row, reason, format.colour);
        } else {
            row::write_refused_json(buffer, row, reason);
        }
        write_out(buffer);
    });
}

/// The layer that turns events into lines.
struct Lines {
    format: Format,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        line::with_buffer(|buffer| {
            line::write_event(buffer, event, &self.format);
            write_out(buffer);
        });
    }
}

/// One write of one whole line. `Stdout` hands text that ends in a line break straight to the
/// descriptor. Nobody reading is no reason to stop serving, and there is nowhere to report it.
fn write_out(line: &[u8]) {
    let _unread = std::io::stdout().lock().write_all(line);
}
