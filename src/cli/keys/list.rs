//! The list of keys as a table and as JSON. Pure; shows names and key ids, never a key or a hash.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::time_text;
use crate::auth::{KeyEntry, KeySet};

const HEADING: [&str; 5] = ["NAME", "KEY ID", "ADMIN", "EXPIRES", "PREVIOUS"];

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
    ]
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
    json!({
        "name": *entry.name,
        "key_id": *entry.key_id,
        "admin": entry.admin,
        "expires_at": entry.expires_at.map(show),
        "previous": previous.collect::<Vec<_>>(),
        "models": entry.models,
        "max_concurrent": entry.max_concurrent,
        "labels": labels.collect::<serde_json::Map<_, _>>(),
    })
}

fn show(time: SystemTime) -> String {
    time_text(OffsetDateTime::from(time)).unwrap_or_else(|_| "far ahead".to_owned())
}
