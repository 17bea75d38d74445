//! Rows out of a log: the gateway's own lines as they were written, or Cloud Logging's entries. What
//! is no row is passed over; a row that is not whole is told of.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize as _;
use serde_json::{Map, Value};
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::leases::Leases;

const SCHEMA: &str = include_str!("../../../schema/usage.json");
/// Cloud Logging takes entries up to a quarter of this; what is longer is no row.
const ENTRY_BYTES: u64 = 1 << 20;
/// Longest insert id that BigQuery takes.
const ID_BYTES: usize = 128;
/// The one spelling of times in rows: RFC 3339 in UTC with microseconds.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A row that is whole.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub request_id: String,
    pub started_at: OffsetDateTime,
    /// A JSON object with the columns of `schema/usage.json`.
    pub text: String,
}

/// A log under way.
pub(super) struct Log {
    input: Box<dyn BufRead>,
    /// Entries stand in one JSON array, as `gcloud logging read --format=json` prints them.
    is_array: bool,
    columns: Vec<Column>,
    /// What was wrong with the first rows that are not whole.
    pub faults: Vec<String>,
    pub faulty_rows: usize,
    /// Columns that another version of the gateway wrote.
    pub unknown_columns: BTreeSet<String>,
    /// Leases to look for, and what was found of them.
    pub leases: Leases,
    /// It holds entries of Cloud Logging, where lines arrive some time after they were written.
    pub is_clouds: bool,
}

#[derive(serde::Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    mode: String,
    #[serde(default)]
    fields: Vec<Column>,
}

/// Faults that are told one by one.
const MOST_FAULTS: usize = 20;

impl Log {
    /// Of a file, or of standard input for `-`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let input: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let file = File::open(path);
            let file = file.with_context(|| format!("cannot read {}", path.display()))?;
            Box::new(BufReader::new(file))
        };
        Self::of(input)
    }

    fn of(mut input: Box<dyn BufRead>) -> anyhow::Result<Self> {
        // Lines of text may begin with a bracket too; then they are lines after all.
        let start = input.fill_buf().context("cannot read the log")?;
        let mut marks = start.iter().filter(|byte| !byte.is_ascii_whitespace());
        let is_array =
            marks.next() == Some(&b'[') && matches!(marks.next(), None | Some(b'{' | b']'));
        let mut log = Self {
            input,
            is_array,
            columns: serde_json::from_str(SCHEMA)?,
            faults: Vec::new(),
            faulty_rows: 0,
            unknown_columns: BTreeSet::new(),
            leases: Leases::default(),
            is_clouds: false,
        };
        if is_array {
            log.skip(|byte| byte.is_ascii_whitespace())?;
            log.input.consume(1);
        }
        Ok(log)
    }

    /// The next rows, at most so many; none at the end.
    ///
    /// # Errors
    /// When the log cannot be read on.
    pub(super) fn next_rows(&mut self, most: usize) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        while rows.len() < most {
            let entry = if self.is_array {
                self.next_element()?
            } else {
                self.next_line()?
            };
            let Some(entry) = entry else { break };
            let line = self.line_of(entry);
            self.leases.note(&line);
            let Some(usage) = usage_of(line) else {
                continue;
            };
            match self.row(usage) {
                Ok(row) => rows.push(row),
                Err(fault) => {
                    self.faulty_rows += 1;
                    if self.faults.len() < MOST_FAULTS {
                        self.faults.push(fault);
                    }
                }
            }
        }
        Ok(rows)
    }

    /// The next entry of the array.
    fn next_element(&mut self) -> anyhow::Result<Option<Value>> {
        self.skip(|byte| byte.is_ascii_whitespace() || byte == b',')?;
        match self.input.fill_buf()?.first() {
            None => bail!("the log ends in the middle of its list of entries"),
            Some(b']') => return Ok(None),
            Some(_) => {}
        }
        let mut entry = serde_json::Deserializer::from_reader((&mut self.input).take(ENTRY_BYTES));
        let entry =
            Value::deserialize(&mut entry).context("the log's list of entries cannot be read")?;
        Ok(Some(entry))
    }

    /// The next line; null if it is no JSON, or too long for a row.
    fn next_line(&mut self) -> anyhow::Result<Option<Value>> {
        let mut line = Vec::new();
        let mut part = (&mut self.input).take(ENTRY_BYTES);
        let read = part
            .read_until(b'\n', &mut line)
            .context("cannot read the log")?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') && read as u64 == ENTRY_BYTES {
            self.skip(|byte| byte != b'\n')?;
            return Ok(Some(Value::Null));
        }
        Ok(Some(serde_json::from_slice(&line).unwrap_or_default()))
    }

    fn skip(&mut self, skips: impl Fn(u8) -> bool) -> anyhow::Result<()> {
        loop {
            let ahead = self.input.fill_buf().context("cannot read the log")?;
            let count = ahead.iter().take_while(|&&byte| skips(byte)).count();
            let is_over = count < ahead.len() || ahead.is_empty();
            self.input.consume(count);
            if is_over {
                return Ok(());
            }
        }
    }

    /// The line of an entry: a line as the gateway writes it, or what Cloud Logging makes of such a
    /// line.
    fn line_of(&mut self, mut entry: Value) -> Value {
        if entry["jsonPayload"].is_object() {
            self.is_clouds = true;
            entry = entry["jsonPayload"].take();
        }
        entry
    }

    /// A row with all columns and nothing else, or what is wrong with it.
    fn row(&mut self, mut usage: Map<String, Value>) -> Result<Row, String> {
        let id = usage.get("request_id").and_then(Value::as_str);
        let id = id.filter(|id| !id.is_empty() && id.len() <= ID_BYTES);
        let request_id = id.ok_or("a row without a request id")?.to_owned();
        let fault = |what: String| format!("the row {request_id:?}: {what}");
        let mut row = Map::new();
        for column in &self.columns {
            let value = usage.remove(&column.name).unwrap_or_default();
            let value = column.read(value).map_err(fault)?;
            row.insert(column.name.clone(), value);
        }
        self.unknown_columns
            .extend(usage.into_iter().map(|(name, _)| name));
        let started_at = row
            .get("started_at")
            .and_then(Value::as_str)
            .and_then(instant);
        let started_at = started_at.ok_or_else(|| fault("started_at is no time".to_owned()))?;
        let text = Value::Object(row).to_string();
        Ok(Row {
            request_id,
            started_at,
            text,
        })
    }
}

/// The row of a line, if it has one.
fn usage_of(mut line: Value) -> Option<Map<String, Value>> {
    if line["message"] != "usage" {
        return None;
    }
    match line["usage"].take() {
        Value::Object(usage) => Some(usage),
        _ => None,
    }
}

impl Column {
    /// The value as rows have it. Cloud Logging keeps every number as a float, and may leave null out.
    fn read(&self, value: Value) -> Result<Value, String> {
        let name = &self.name;
        let read = match (self.kind.as_str(), self.mode.as_str(), value) {
            (_, "REPEATED", Value::Null) => Some(Value::Array(Vec::new())),
            (_, "REPEATED", Value::Array(items)) => {
                let items = items.into_iter().map(|item| self.record(item));
                Some(Value::Array(items.collect::<Result<_, _>>()?))
            }
            (_, "NULLABLE", Value::Null) => Some(Value::Null),
            (_, _, Value::Null) => return Err(format!("{name} is missing")),
            ("STRING", _, value @ Value::String(_)) | ("BOOL", _, value @ Value::Bool(_)) => {
                Some(value)
            }
            ("INT64", _, value) => integer(&value).map(Value::from),
            ("TIMESTAMP", _, Value::String(text)) => instant(&text)
                .and_then(|at| at.format(TIMESTAMP).ok())
                .map(Value::String),
            _ => None,
        };
        read.ok_or_else(|| format!("{name} is no {}", self.kind))
    }

    fn record(&self, item: Value) -> Result<Value, String> {
        let Value::Object(mut item) = item else {
            return Err(format!("{} holds something else than records", self.name));
        };
        let mut record = Map::new();
        for field in &self.fields {
            let value = field.read(item.remove(&field.name).unwrap_or_default())?;
            record.insert(field.name.clone(), value);
        }
        Ok(Value::Object(record))
    }
}

fn instant(text: &str) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    at.checked_to_offset(UtcOffset::UTC)
}

/// A whole number, though it may be written as a float.
pub(super) fn integer(value: &Value) -> Option<i64> {
    /// From here on a float may stand for several integers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || {
        let float = value.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is whole and small enough"
        )]
        (float.fract() == 0.0 && float.abs() < EXACT).then_some(float as i64)
    };
    value.as_i64().or_else(float)
}

#[cfg(test)]
mod tests;
