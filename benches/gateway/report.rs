//! Medians over the repeats, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::Sample;

/// One run of one load against one target.
pub struct Run {
    pub scenario: &'static str,
    pub target: &'static str,
    pub sample: Sample,
    /// CPU time of the target alone.
    pub cpu_ms: u64,
}

/// The repeats of one load against one target.
pub struct Row {
    pub scenario: &'static str,
    pub target: &'static str,
    pub per_second: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    /// Per request, or per event of a stream.
    pub cpu_us: f64,
    pub cpu_us_least: f64,
    pub cpu_us_most: f64,
}

/// What is measured but not compared.
pub struct Fact {
    pub name: &'static str,
    pub target: &'static str,
    pub value: f64,
    pub unit: &'static str,
}

/// Brings the repeats together, in the order of their first run.
#[must_use]
pub fn summarize(runs: &[Run]) -> Vec<Row> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if !names.contains(&(run.scenario, run.target)) {
            names.push((run.scenario, run.target));
        }
    }
    let row = |(scenario, target)| {
        let of = |measure: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs
                .iter()
                .filter(|run| run.scenario == scenario && run.target == target)
                .map(measure)
                .collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let cpu = of(|run| ratio(run.cpu_ms * 1000, run.sample.units));
        Row {
            scenario,
            target,
            per_second: median(&of(|run| {
                ratio(run.sample.units, 1) / run.sample.took.as_secs_f64()
            })),
            p50_us: median(&of(|run| run.sample.percentile(50))),
            p90_us: median(&of(|run| run.sample.percentile(90))),
            p99_us: median(&of(|run| run.sample.percentile(99))),
            cpu_us: median(&cpu),
            cpu_us_least: cpu.first().copied().unwrap_or(0.0),
            cpu_us_most: cpu.last().copied().unwrap_or(0.0),
        }
    };
    let mut rows: Vec<Row> = names.into_iter().map(row).collect();
    // The order of the targets changes with every repeat; that of the rows does not.
    rows.sort_by_key(|row| {
        let scenario = runs.iter().position(|run| run.scenario == row.scenario);
        (scenario, row.target != "direct", row.target == "nginx")
    });
    rows
}

/// The middle of sorted values.
#[must_use]
pub fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// One count as a part of another.
pub fn ratio(part: u64, of: u64) -> f64 {
    let wide = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    wide(part) / wide(of).max(1.0)
}

/// The row that another one is compared with.
fn direct<'a>(rows: &'a [Row], row: &Row) -> Option<&'a Row> {
    rows.iter()
        .find(|other| other.scenario == row.scenario && other.target == "direct")
}

/// Everything as a table in Markdown.
#[must_use]
pub fn table(rows: &[Row], facts: &[Fact]) -> String {
    let mut text = String::from(
        "| load | target | per s | p50 µs | p90 µs | p99 µs | added p50 µs | CPU µs per unit (least to most) |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let added = match direct(rows, row) {
            Some(direct) if row.target != "direct" => format!("{:.0}", row.p50_us - direct.p50_us),
            _ => "-".to_owned(),
        };
        let _infallible = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {added} | {:.1} ({:.1} to {:.1}) |",
            row.scenario,
            row.target,
            row.per_second,
            row.p50_us,
            row.p90_us,
            row.p99_us,
            row.cpu_us,
            row.cpu_us_least,
            row.cpu_us_most,
        );
    }
    text.push_str("\n| measure | target | value |\n| --- | --- | ---: |\n");
    for fact in facts {
        let Fact {
            name,
            target,
            value,
            unit,
        } = fact;
        let _infallible = writeln!(text, "| {name} | {target} | {value:.1} {unit} |");
    }
    text
}

/// Everything as one JSON object.
#[must_use]
pub fn to_json(rows: &[Row], facts: &[Fact]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "load": row.scenario, "target": row.target, "per_second": row.per_second,
                "p50_us": row.p50_us, "p90_us": row.p90_us, "p99_us": row.p99_us,
                "cpu_us": row.cpu_us, "cpu_us_least": row.cpu_us_least, "cpu_us_most": row.cpu_us_most,
            })
        })
        .collect();
    let facts: Vec<Value> = facts
        .iter()
        .map(|fact| {
            json!({ "measure": fact.name, "target": fact.target, "value": fact.value, "unit": fact.unit })
        })
        .collect();
    json!({ "loads": rows, "measures": facts })
}
