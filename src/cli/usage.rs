//! `tollgate usage`: what was used, from the embedded table. Reads only; a gateway may be writing.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime, Time, macros::format_description};

use crate::config::Paths;
use crate::store::{Grouping, Store, StoreError, Totals};

/// Prints requests, tokens and errors of the calls that were recorded.
///
/// A call counts as an error if it failed for another reason than that its client left.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to add up by: key, user, model, day (UTC) or label:NAME
    #[arg(long, default_value = "key", value_parser = parse_grouping)]
    by: Grouping,
    /// How far back: 7d, 24h, 30m, a date (UTC) or a time like 2026-11-01T00:00:00Z
    #[arg(long, default_value = "7d", value_parser = parse_since)]
    since: Since,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Where a report begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Ago(Duration),
    At(OffsetDateTime),
}

/// Reads the configured sink and prints the report.
///
/// # Errors
/// When there is no database or it cannot be read, in words.
pub async fn run(args: Args, paths: Paths) -> anyhow::Result<()> {
    let database = paths.database;
    let since = args.since.resolve(OffsetDateTime::now_utc())?;
    let report = match report(&args, &database, since).await {
        Err(cause) if cause.is_missing() => bail!(
            "nothing was recorded yet: there is no database at {} (it is made by `tollgate serve` with the local usage sink; DATA_DIR says where)",
            database.display(),
        ),
        Err(cause) => return Err(cause).context("cannot read what was recorded"),
        Ok(report) => report,
    };
    match io::stdout().lock().write_all(report.as_bytes()) {
        // The reader of a pipe has seen enough.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print the report"),
    }
}

async fn report(args: &Args, database: &Path, since: OffsetDateTime) -> Result<String, StoreError> {
    let since_us = i64::try_from(since.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
    let store = Store::open_read_only(database).await?;
    let totals = store.sum_usage(&args.by, since_us).await;
    store.close().await;
    let totals = totals?;
    let heading = heading(&args.by);
    Ok(match args.format {
        Format::Table if totals.is_empty() => {
            format!(
                "No calls recorded since {} in {}.\n",
                describe(since),
                database.display()
            )
        }
        Format::Table => table(&heading, &totals),
        Format::Csv => csv(&heading, &totals),
        Format::Json => json(&heading, &totals),
    })
}

impl Since {
    fn resolve(self, now: OffsetDateTime) -> anyhow::Result<OffsetDateTime> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(ago) => time::Duration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago))
                .context("--since reaches back further than the calendar"),
        }
    }
}

fn parse_grouping(text: &str) -> Result<Grouping, String> {
    match text {
        "key" => Ok(Grouping::Key),
        "user" => Ok(Grouping::User),
        "model" => Ok(Grouping::Model),
        "day" => Ok(Grouping::Day),
        _ => match text.strip_prefix("label:") {
            Some(name) if !name.is_empty() => Ok(Grouping::Label(name.to_owned())),
            _ => Err("use key, user, model, day or label:NAME".to_owned()),
        },
    }
}

fn parse_since(text: &str) -> Result<Since, String> {
    const DATE: &[time::format_description::BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]");
    const WORDS: &str = "use a span like 7d, 24h or 30m, a date like 2026-11-01, or a time like 2026-11-01T00:00:00Z";
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Since::At(at));
    }
    if let Ok(date) = time::Date::parse(text, DATE) {
        return Ok(Since::At(
            PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc(),
        ));
    }
    let unit_seconds = match text.chars().last() {
        Some('d') => 86_400,
        Some('h') => 3600,
        Some('m') => 60,
        _ => return Err(WORDS.to_owned()),
    };
    let count = text[..text.len() - 1]
        .parse::<u32>()
        .map_err(|_| WORDS.to_owned())?;
    Ok(Since::Ago(Duration::from_secs(
        u64::from(count) * unit_seconds,
    )))
}

fn heading(by: &Grouping) -> String {
    match by {
        Grouping::Key => "key".to_owned(),
        Grouping::User => "user".to_owned(),
        Grouping::Model => "model".to_owned(),
        Grouping::Day => "day".to_owned(),
        Grouping::Label(name) => format!("label:{name}"),
    }
}

fn describe(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_else(|_| at.to_string())
}

/// Headings of the figures, in the order of [`figures`].
const FIGURES: [&str; 6] = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "total_tokens",
    "errors",
];

fn figures(totals: &Totals) -> [i64; 6] {
    [
        totals.requests,
        totals.prompt_tokens,
        totals.cached_tokens,
        totals.completion_tokens,
        totals.total_tokens,
        totals.errors,
    ]
}

fn table(heading: &str, totals: &[Totals]) -> String {
    let mut lines: Vec<(String, [String; 6])> =
        vec![(heading.to_owned(), FIGURES.map(str::to_owned))];
    let mut sums = [0_i64; 6];
    for group in totals {
        let figures = figures(group);
        for (sum, figure) in sums.iter_mut().zip(figures) {
            *sum = sum.saturating_add(figure);
        }
        let name = group.name.clone().unwrap_or_else(|| "(none)".to_owned());
        lines.push((name, figures.map(|figure| figure.to_string())));
    }
    lines.push(("total".to_owned(), sums.map(|sum| sum.to_string())));

    let width = lines
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    let mut widths = [0; 6];
    for (_, cells) in &lines {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for (name, cells) in &lines {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name:<width$}");
        for (width, cell) in widths.iter().zip(cells) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn csv(heading: &str, totals: &[Totals]) -> String {
    let mut text = csv_cell(heading);
    for figure in FIGURES {
        text.push(',');
        text.push_str(figure);
    }
    text.push('\n');
    for group in totals {
        text.push_str(&csv_cell(group.name.as_deref().unwrap_or_default()));
        for figure in figures(group) {
            let _ = write!(text, ",{figure}");
        }
        text.push('\n');
    }
    text
}

/// A cell that no spreadsheet takes for a formula.
fn csv_cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        "'"
    } else {
        ""
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{guard}{text}")
    }
}

fn json(heading: &str, totals: &[Totals]) -> String {
    let groups = totals.iter().map(|group| {
        let mut object = Map::new();
        object.insert(
            heading.to_owned(),
            group.name.clone().map_or(Value::Null, Value::String),
        );
        for (name, figure) in FIGURES.iter().zip(figures(group)) {
            object.insert((*name).to_owned(), Value::from(figure));
        }
        Value::Object(object)
    });
    format!("{:#}\n", Value::Array(groups.collect()))
}

#[cfg(test)]
mod tests;
