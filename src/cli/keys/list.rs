//! The list of keys as a table and as JSON. Pure; shows names and key ids, never a key or a hash.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::time_text;
use crate::auth::{KeyEntry, KeySet};

const HEADING: [&str; 6] = ["NAME", "KEY ID", "ADMIN", "EXPIRES", "PREVIOUS", "LIMITS"];

/// One line per entry under a heading.
pub(super) fn table(set: &KeySet) -> String {
    if set.is_empty() {
        return "no keys; `tollgate keys add NAME` makes one\n".to_owned();
    }
    let mut rows = vec![HEADING.map(str::to_owned)];
    rows.extend(set.entries().iter().map(|entry| row(entry)));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; HEADING.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _written = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(entry: &KeyEntry) -> [String; HEADING.len()] {
    let admin = if entry.admin { "yes" } else { "no" };
    let expires = entry.expires_at.map_or_else(
        || "never".to_owned(),
        |end| {
            if end <= SystemTime::now() {
                format!("{} (over)", show(end))
            } else {
                show(end)
            }
        },
    );
    [
        entry.name.to_string(),
        entry.key_id.to_string(),
        admin.to_owned(),
        expires,
        entry.previous.len().to_string(),
        limits(entry),
    ]
}

/// All limits in words.
fn limits(entry: &KeyEntry) -> String {
    let mut words = Vec::new();
    if let Some(limit) = entry.allowance.limit {
        words.push(format!(
            "{limit} tokens {}",
            entry.allowance.period.as_str()
        ));
    }
    let minute = entry.minute.as_deref();
    if let Some(limit) = minute.and_then(|minute| minute.requests) {
        words.push(format!("{limit} requests/min"));
    }
    if let Some(limit) = minute.and_then(|minute| minute.tokens) {
        words.push(format!("{limit} tokens/min"));
    }
    if let Some(maximum) = entry.max_concurrent {
        words.push(format!("{maximum} at once"));
    }
    if words.is_empty() {
        words.push("none".to_owned());
    } else if entry.allowance.dry_run {
        words.push("dry run".to_owned());
    }
    if !entry.wake {
        words.push("no wake".to_owned());
    }
    words.join(", ")
}

/// A JSON array with one object per entry.
pub(super) fn json(set: &KeySet) -> anyhow::Result<String> {
    let list: Vec<Value> = set.entries().iter().map(|entry| object(entry)).collect();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn object(entry: &KeyEntry) -> Value {
    let previous = entry
        .previous
        .iter()
        .map(|key| json!({"key_id": *key.key_id, "expires_at": key.expires_at.map(show)}));
    let labels = entry
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let minute = entry.minute.as_deref();
    json!({
        "name": *entry.name,
        "key_id": *entry.key_id,
        "admin": entry.admin,
        "expires_at": entry.expires_at.map(show),
        "previous": previous.collect::<Vec<_>>(),
        "models": entry.models,
        "token_limit": entry.allowance.limit,
        "period": entry.allowance.limit.map(|_| entry.allowance.period.as_str()),
        "requests_per_minute": minute.and_then(|minute| minute.requests),
        "tokens_per_minute": minute.and_then(|minute| minute.tokens),
        "max_concurrent": entry.max_concurrent,
        "dry_run": entry.allowance.dry_run,
        "wake": entry.wake,
        "labels": labels.collect::<serde_json::Map<_, _>>(),
    })
}

fn show(time: SystemTime) -> String {
    time_text(OffsetDateTime::from(time)).unwrap_or_else(|_| "far ahead".to_owned())
}
