//! What token budgets cost: the same gateway without a database, with a key whose use is only counted
//! there, and with keys that have a limit in the embedded database and in Postgres, in turns.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::load::{self, ADMIN, KEY};
use super::postgres::Postgres;
use super::report::{Row, Run};
use super::targets::{self, Target};
use super::{Options, loads, report, run_one, say};

/// A limit that the loads do not reach.
const LIMIT: u64 = 100_000_000_000;
/// Of the loads only these: one call at once, many, and streams.
const LOADS: [&str; 3] = [
    "512 B, 1 at once",
    "512 B, 16 at once",
    "200 streams, event each 20 ms",
];
/// What the others are compared with.
const OFF: &str = "off";
const SECRET: &str = "of the benchmark, and known to everybody who reads it";

/// Medians, and the database's part.
pub struct Figures {
    rows: Vec<Row>,
    /// Load, target, statements, calls.
    statements: Vec<(&'static str, &'static str, u64, u64)>,
}

/// Runs the loads against each kind of budget.
///
/// # Errors
/// When a gateway does not start, or an answer is not what it should be.
pub async fn measure(options: &Options, folder: &Path, upstream: u16) -> anyhow::Result<Figures> {
    let limited = json!({"key": KEY, "token_limit": LIMIT});
    let sqlite = "sqlite://data/tollgate.db";
    let mut kinds = vec![
        (OFF, json!(KEY), "none"),
        ("no limit, SQLite", json!(KEY), sqlite),
        ("SQLite", limited.clone(), sqlite),
    ];
    let postgres = Postgres::start().await;
    let url = match &postgres {
        Some(postgres) => Some(postgres.database().await),
        None => None,
    };
    match &url {
        Some(url) => kinds.push(("Postgres", limited, url)),
        None => say("Postgres is not installed: it is left out\n")?,
    }
    let mut gateways = Vec::new();
    for (name, key, database) in kinds {
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        let keys = json!({"bench": key, "ops": {"key": ADMIN, "admin": true}});
        let settings = [("DATABASE_URL", database), ("JWT_SECRET_KEY", SECRET)];
        let gateway =
            targets::start_gateway_with(options.program(), &folder, upstream, (&keys, &settings));
        gateways.push(Target {
            name,
            ..gateway.await?
        });
    }
    let figures = run_all(options, &gateways).await?;
    for gateway in gateways {
        gateway.process.stop().await?;
    }
    Ok(figures)
}

async fn run_all(options: &Options, gateways: &[Target]) -> anyhow::Result<Figures> {
    let mut runs: Vec<Run> = Vec::new();
    let mut statements = Vec::new();
    for repeat in 0..options.repeats {
        for (scenario, load) in loads(options.time) {
            for turn in 0..gateways.len() {
                let gateway = &gateways[(turn + repeat) % gateways.len()];
                if !LOADS.contains(&scenario) {
                    continue;
                }
                say(&format!(
                    "{}: budgets: {scenario}, {}\n",
                    repeat + 1,
                    gateway.name
                ))?;
                let before = counts(gateway).await?;
                runs.push(run_one(scenario, load, gateway).await?);
                let after = counts(gateway).await?;
                let (sent, calls) = (after.0 - before.0, after.1 - before.1);
                statements.push((scenario, gateway.name, sent, calls));
            }
        }
    }
    Ok(Figures {
        rows: report::summarize(&runs),
        statements,
    })
}

/// Statements sent to the database, and model calls, so far.
async fn counts(gateway: &Target) -> anyhow::Result<(u64, u64)> {
    let page = load::metrics(gateway.port).await?;
    let sum = |name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.reduce(|one, other| one + other)
    };
    let statements = match gateway.name {
        OFF => 0,
        _ => sum("tollgate_store_statements_total").context("statements are not counted")?,
    };
    // There is no line before the first call.
    Ok((statements, sum("tollgate_calls_total").unwrap_or(0)))
}

impl Figures {
    /// As a table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "\n| load | budget | p50 µs | ratio | CPU µs per unit | ratio | statements per 1,000 calls |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in &self.rows {
            let (p50, cpu) = self.ratios(row);
            let _infallible = writeln!(
                text,
                "| {} | {} | {:.0} | {p50:.2} | {:.1} | {cpu:.2} | {:.1} |",
                row.scenario,
                row.target,
                row.p50_us,
                row.cpu_us,
                self.per_thousand(row)
            );
        }
        text
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<Value> {
        let one = |row: &Row| {
            let (p50, cpu) = self.ratios(row);
            json!({
                "load": row.scenario, "budget": row.target, "p50_us": row.p50_us, "p50_ratio": p50,
                "cpu_us": row.cpu_us, "cpu_ratio": cpu, "statements_per_1000": self.per_thousand(row),
            })
        };
        self.rows.iter().map(one).collect()
    }

    /// p50 and CPU against those without a database.
    fn ratios(&self, row: &Row) -> (f64, f64) {
        let mut rows = self.rows.iter();
        let base = rows.find(|other| other.scenario == row.scenario && other.target == OFF);
        base.map_or((0.0, 0.0), |base| {
            (row.p50_us / base.p50_us, row.cpu_us / base.cpu_us)
        })
    }

    fn per_thousand(&self, row: &Row) -> f64 {
        let same = |of: &&(&str, &str, u64, u64)| of.0 == row.scenario && of.1 == row.target;
        let all = self.statements.iter().filter(same);
        let (sent, calls) = all.fold((0, 0), |sum, of| (sum.0 + of.2, sum.1 + of.3));
        report::ratio(sent * 1000, calls)
    }
}
