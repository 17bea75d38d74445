//! `tabledata.insertAll`: rows are checked one by one, and stored all or none unless the call says
//! otherwise.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::cell;
use super::faults::RowRefusal;
use super::refusal::Refusal;
use super::schema::Field;
use super::serve::Call;
use super::tables::{Table, TableName};
use super::{State, within};

const MOST_ROWS: usize = 50_000;
const MOST_BYTES: usize = 10 << 20;
const INSERT_ID_BYTES: usize = 128;

/// What the API may be given.
const MEMBERS: [&str; 6] = [
    "kind",
    "rows",
    "skipInvalidRows",
    "ignoreUnknownValues",
    "templateSuffix",
    "traceId",
];

pub fn insert_all(state: &mut State, name: &TableName, call: &Call) -> Result<Value, Refusal> {
    let rows = rows_of(call)?;
    let State { tables, orders, .. } = state;
    let key = (name.0.clone(), name.1.clone(), name.2.clone());
    let missing =
        || Refusal::not_found(format!("Not found: Table {}:{}.{}", name.0, name.1, name.2));
    let table = tables.get_mut(&key).ok_or_else(missing)?;
    if within(table.made_at, orders.lags.table_missing) && !table.settled {
        return Err(missing());
    }
    if table.is_view() {
        return Err(Refusal::invalid("Cannot add rows to a table of type VIEW."));
    }
    let known: Vec<Field> = table.known_columns(orders.lags.column_missing);
    let ignores_unknown = call.body["ignoreUnknownValues"] == true;
    let checked: Vec<Result<Value, RowError>> = rows
        .iter()
        .map(|row| {
            if let Some(refusal) = orders
                .refuses_row
                .as_ref()
                .and_then(|refuses| refuses(&row["json"]))
            {
                return Err(RowError::ordered(refusal));
            }
            let sent = if ignores_unknown {
                pruned(&row["json"], &known)
            } else {
                row["json"].clone()
            };
            cell::stored_row(&sent, &known).map_err(RowError::invalid)
        })
        .collect();
    let any_bad = checked.iter().any(Result::is_err);
    let stops = any_bad && call.body["skipInvalidRows"] != true;
    let swallows = within(table.made_at, orders.lags.table_swallows) && !table.settled;
    let window = orders.insert_id_window;
    table.insert_ids.retain(|_, since| within(*since, window));
    let mut errors = Vec::new();
    for (index, (row, checked)) in rows.iter().zip(checked).enumerate() {
        match checked {
            Err(error) => errors.push(error.at(index)),
            Ok(_) if stops => errors.push(RowError::stopped().at(index)),
            Ok(stored) => keep(table, row, stored, (swallows, !window.is_zero())),
        }
    }
    let mut answer = acknowledged();
    if !errors.is_empty() {
        answer["insertErrors"] = Value::Array(errors);
    }
    Ok(answer)
}

/// What is answered when every row was taken.
pub fn acknowledged() -> Value {
    json!({"kind": "bigquery#tableDataInsertAllResponse"})
}

/// The rows of a call, if it keeps to the limits.
fn rows_of(call: &Call) -> Result<&Vec<Value>, Refusal> {
    if call.body_bytes > MOST_BYTES {
        let message = format!("Request payload size exceeds the limit: {MOST_BYTES} bytes.");
        return Err(Refusal::new(413, "uploadTooLarge", message));
    }
    let object = call.body.as_object();
    let object = object.ok_or_else(|| Refusal::new(400, "parseError", "Parse Error"))?;
    if let Some(name) = object.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        let message =
            format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.");
        return Err(Refusal::invalid(message));
    }
    let rows = call.body["rows"].as_array().filter(|rows| !rows.is_empty());
    let rows = rows.ok_or_else(|| Refusal::invalid("No rows present in the request."))?;
    if rows.len() > MOST_ROWS {
        let message = format!(
            "too many rows present in the request, limit: {MOST_ROWS} row count: {}.",
            rows.len()
        );
        return Err(Refusal::invalid(message));
    }
    let is_long = |row: &Value| {
        row["insertId"]
            .as_str()
            .is_some_and(|id| id.len() > INSERT_ID_BYTES)
    };
    if rows.iter().any(is_long) {
        return Err(Refusal::invalid("insertId is longer than the limit: 128"));
    }
    Ok(rows)
}

/// Stores a row unless its insert id was seen, or the table swallows rows. What is swallowed takes
/// its insert id with it no further: sent again, it is new.
fn keep(table: &mut Table, row: &Value, stored: Value, (swallows, dedups): (bool, bool)) {
    if swallows {
        return;
    }
    if let Some(id) = row["insertId"]
        .as_str()
        .filter(|id| dedups && !id.is_empty())
        && table
            .insert_ids
            .insert(id.to_owned(), Instant::now())
            .is_some()
    {
        return;
    }
    table.rows.push(stored);
    table.streamed += 1;
}

/// The row without the top-level fields that the table lacks.
fn pruned(row: &Value, columns: &[Field]) -> Value {
    let Some(object) = row.as_object() else {
        return row.clone();
    };
    let known = |name: &str| {
        columns
            .iter()
            .any(|column| column.name.eq_ignore_ascii_case(name))
    };
    let kept = object.iter().filter(|(name, _)| known(name));
    Value::Object(
        kept.map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

/// Why a row was not stored.
struct RowError {
    reason: String,
    location: String,
    message: String,
}

impl RowError {
    fn invalid((location, message): (String, String)) -> Self {
        let reason = "invalid".to_owned();
        Self {
            reason,
            location,
            message,
        }
    }

    fn stopped() -> Self {
        let (location, message) = (String::new(), String::new());
        let reason = "stopped".to_owned();
        Self {
            reason,
            location,
            message,
        }
    }

    fn ordered(refusal: RowRefusal) -> Self {
        let RowRefusal { reason, message } = refusal;
        let location = String::new();
        Self {
            reason,
            location,
            message,
        }
    }

    fn at(self, index: usize) -> Value {
        let Self {
            reason,
            location,
            message,
        } = self;
        let error =
            json!({"reason": reason, "location": location, "debugInfo": "", "message": message});
        json!({"index": index, "errors": [error]})
    }
}
