//! Cells: what an insert may bring for a column, and how answers spell what is stored.

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, Time};

use super::schema::{Field, Mode};

/// Checks a row of an insert against the columns and returns it as it is stored: columns in the
/// spelling of the schema, integers as numbers, booleans as such. An error is what BigQuery says of
/// the row, after the field that it names.
pub fn stored_row(row: &Value, columns: &[Field]) -> Result<Value, (String, String)> {
    record(row, columns, "")
}

fn record(value: &Value, fields: &[Field], path: &str) -> Result<Value, (String, String)> {
    let Some(object) = value.as_object() else {
        return Err((
            path.trim_end_matches('.').to_owned(),
            "This field is not a record.".to_owned(),
        ));
    };
    for name in object.keys() {
        if !fields
            .iter()
            .any(|field| field.name.eq_ignore_ascii_case(name))
        {
            let name = format!("{path}{name}");
            return Err((name.clone(), format!("no such field: {name}.")));
        }
    }
    let mut stored = serde_json::Map::new();
    for field in fields {
        let name = format!("{path}{}", field.name);
        let sent = object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(&field.name));
        let value = sent.map_or(&Value::Null, |(_, value)| value);
        let value = by_mode(value, field, &name)?;
        stored.insert(field.name.clone(), value);
    }
    Ok(Value::Object(stored))
}

fn by_mode(value: &Value, field: &Field, name: &str) -> Result<Value, (String, String)> {
    let refuse = |message: &str| Err((name.to_owned(), message.to_owned()));
    match (field.mode, value) {
        (Mode::Repeated, Value::Null) => Ok(json!([])),
        (Mode::Repeated, Value::Array(items)) => {
            if items.iter().any(Value::is_null) {
                return refuse("Only optional fields can be set to NULL.");
            }
            let items = items.iter().map(|item| single(item, field, name));
            items.collect::<Result<_, _>>().map(Value::Array)
        }
        (Mode::Repeated, _) => refuse("Repeated field must be imported as a JSON array."),
        (Mode::Nullable, Value::Null) => Ok(Value::Null),
        (Mode::Required, Value::Null) => refuse(&format!("Missing required field: {name}.")),
        (_, Value::Array(_)) => refuse(&format!("Array specified for non-repeated field: {name}.")),
        _ => single(value, field, name),
    }
}

fn single(value: &Value, field: &Field, name: &str) -> Result<Value, (String, String)> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(bool) => bool.to_string(),
        _ => String::new(),
    };
    let is_scalar = !value.is_object() && !value.is_array();
    let stored = match field.kind.as_str() {
        "RECORD" => return record(value, &field.fields, &format!("{name}.")),
        "JSON" => Some(value.clone()),
        _ if !is_scalar => None,
        "INTEGER" => text.parse::<i64>().ok().map(Value::from),
        "FLOAT" => text.parse::<f64>().ok().map(Value::from),
        "BOOLEAN" => text
            .to_ascii_lowercase()
            .parse::<bool>()
            .ok()
            .map(Value::from),
        "TIMESTAMP" => micros(&text).map(|_| value.clone()),
        "DATE" => date(&text).map(|_| value.clone()),
        "NUMERIC" | "BIGNUMERIC" => text.parse::<f64>().ok().map(|_| value.clone()),
        _ => Some(Value::String(text.clone())),
    };
    stored.ok_or_else(|| {
        let message = match (field.kind.as_str(), is_scalar) {
            (_, false) => format!("This field: {name} is not a record."),
            ("TIMESTAMP", _) => format!(
                "Could not parse '{text}' as a timestamp. Required format is YYYY-MM-DD HH:MM[:SS[.SSSSSS]] or YYYY/MM/DD HH:MM[:SS[.SSSSSS]]"
            ),
            ("BOOLEAN", _) => format!("Cannot convert value to boolean (bad value): {text}"),
            ("INTEGER", _) => format!("Cannot convert value to integer (bad value): {text}"),
            (kind, _) => format!("Cannot convert value to {} (bad value): {text}", kind.to_ascii_lowercase()),
        };
        (name.to_owned(), message)
    })
}

/// Microseconds since 1970 of a timestamp as inserts may spell it: a date with or without a time and
/// a zone, or seconds.
pub fn micros(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "a time that people meet")]
        return Some((seconds * 1e6).round() as i64);
    }
    let text = text
        .strip_suffix(" UTC")
        .unwrap_or(text)
        .replacen(' ', "T", 1);
    let nanos = |at: OffsetDateTime| i64::try_from(at.unix_timestamp_nanos() / 1000).ok();
    for spelling in [
        text.clone(),
        format!("{text}Z"),
        format!("{text}T00:00:00Z"),
    ] {
        if let Ok(at) = OffsetDateTime::parse(&spelling, &Rfc3339) {
            return nanos(at);
        }
    }
    None
}

fn date(text: &str) -> Option<Date> {
    let day = micros(&format!("{text}T00:00:00Z"))?;
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(day) * 1000).ok()?;
    (at.time() == Time::MIDNIGHT).then(|| at.date())
}

/// A stored row as `{"f": [{"v": ...}]}`.
pub fn answered_row(row: &Value, columns: &[Field], int64_timestamps: bool) -> Value {
    let cells = columns.iter().map(|field| {
        let value = &row[&field.name];
        json!({"v": match field.mode {
            Mode::Repeated => value.as_array().into_iter().flatten()
                .map(|item| json!({"v": answered(item, field, int64_timestamps)}))
                .collect(),
            _ => answered(value, field, int64_timestamps),
        }})
    });
    json!({"f": cells.collect::<Vec<_>>()})
}

fn answered(value: &Value, field: &Field, int64_timestamps: bool) -> Value {
    match (field.kind.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("RECORD", _) => answered_row(value, &field.fields, int64_timestamps),
        ("TIMESTAMP", _) => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            micros(&text).map_or(Value::Null, |micros| timestamp(micros, int64_timestamps))
        }
        (_, Value::String(_)) => value.clone(),
        _ => Value::String(value.to_string()),
    }
}

/// A timestamp as answers spell it: seconds with a fraction unless microseconds were asked for.
pub fn timestamp(micros: i64, int64: bool) -> Value {
    if int64 {
        return Value::String(micros.to_string());
    }
    let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    Value::String(format!("{seconds}.{rest:06}"))
}
