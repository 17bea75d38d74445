//! The report as text: a table for people, CSV for spreadsheets, JSON for programs. Pure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::store::Totals;

/// Headings of the figures, in the order of [`figures`].
const FIGURES: [&str; 7] = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "total_tokens",
    "errors",
    "wakes",
];

fn figures(totals: &Totals) -> [i64; 7] {
    [
        totals.requests,
        totals.prompt_tokens,
        totals.cached_tokens,
        totals.completion_tokens,
        totals.total_tokens,
        totals.errors,
        totals.wakes,
    ]
}

pub(super) fn table(heading: &str, totals: &[Totals]) -> String {
    let mut lines: Vec<(String, [String; 7])> =
        vec![(heading.to_owned(), FIGURES.map(str::to_owned))];
    let mut sums = [0_i64; 7];
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
    let mut widths = [0; 7];
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

pub(super) fn csv(heading: &str, totals: &[Totals]) -> String {
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
pub(super) fn csv_cell(text: &str) -> String {
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

pub(super) fn json(heading: &str, totals: &[Totals]) -> String {
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
