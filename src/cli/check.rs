//! `tollgate check`: judges the configuration, asks the services that it names, and prints what is in
//! effect, secrets as stars.

mod services;
mod upstreams;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use self::services::{Check, Outcome};
use super::flags::Flags;
use crate::config::{Config, ConfigError, Setting, UpstreamConfig};

const NOTES: &str = "\
Example: tollgate check --json | jq .settings.PORT
What the services say depends on who asks: run it as the gateway's service account. A service that
does not answer is no fault, but a warning.

Exit codes: 0 nothing has to be changed, 64 something has to; every fault is named on standard error.";

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct CheckArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Ask no service, such as in a build step without credentials
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    flags: Flags,
}

/// What is printed.
struct Report {
    settings: Vec<Setting>,
    /// None of a configuration with faults.
    upstreams: Vec<UpstreamConfig>,
    warnings: Vec<String>,
    checks: Vec<Check>,
    faults: Vec<String>,
}

/// Prints the effective values, also when they have faults.
///
/// # Errors
/// A [`ConfigError`] with every fault.
pub async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let report = judge(args.flags, args.offline).await?;
    super::print(&if args.json {
        as_json(&report)?
    } else {
        as_table(&report)
    })?;
    if report.faults.is_empty() {
        return Ok(());
    }
    let Report {
        settings,
        warnings,
        faults,
        ..
    } = report;
    Err(ConfigError {
        faults,
        warnings,
        settings,
    }
    .into())
}

/// Services are asked only if the variables are good by themselves.
async fn judge(flags: Flags, offline: bool) -> anyhow::Result<Report> {
    let config = match Config::load(flags.0) {
        Ok(config) => config,
        Err(error) => {
            return Ok(Report {
                settings: error.settings,
                upstreams: Vec::new(),
                warnings: error.warnings,
                checks: Vec::new(),
                faults: error.faults,
            });
        }
    };
    let mut warnings = config.warnings.clone();
    let checks = if offline {
        services::skip(&config)
    } else {
        services::ask(&config, &mut warnings).await?
    };
    let mut faults = Vec::new();
    for Check { name, outcome } in &checks {
        match outcome {
            Outcome::Faulty(text) => faults.push(format!("{name}: {text}")),
            Outcome::Unknown(text) => {
                warnings.push(format!("{name}: could not be checked: {text}"));
            }
            Outcome::Good(_) | Outcome::Skipped => {}
        }
    }
    faults.sort();
    Ok(Report {
        settings: config.settings,
        upstreams: config.upstreams.upstreams,
        warnings,
        checks,
        faults,
    })
}

fn as_table(report: &Report) -> String {
    let settings = &report.settings;
    let name_width = settings
        .iter()
        .map(|setting| setting.name.len())
        .max()
        .unwrap_or(0);
    let value_width = settings
        .iter()
        .map(|setting| setting.value.chars().count())
        .max()
        .unwrap_or(0)
        .min(60);
    let mut table = String::new();
    for Setting {
        name,
        value,
        origin,
    } in settings
    {
        let value: String = value
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let _infallible = writeln!(
            table,
            "{name:name_width$}  {value:value_width$}  {}",
            origin.as_str()
        );
    }
    table.push_str(&upstreams::as_table(&report.upstreams));
    for Check { name, outcome } in &report.checks {
        if matches!(outcome, Outcome::Good(_) | Outcome::Skipped) {
            let _infallible = writeln!(table, "{}: {name}: {}", outcome.as_str(), outcome.text());
        }
    }
    for warning in &report.warnings {
        let _infallible = writeln!(table, "warning: {warning}");
    }
    table
}

fn as_json(report: &Report) -> anyhow::Result<String> {
    let values: Map<String, Value> = report
        .settings
        .iter()
        .map(|setting| {
            (
                setting.name.to_owned(),
                json!({"value": setting.value, "origin": setting.origin.as_str()}),
            )
        })
        .collect();
    let checks = report.checks.iter().map(|Check { name, outcome }| {
        json!({"name": name, "result": outcome.as_str(), "text": outcome.text()})
    });
    let upstreams = report.upstreams.iter().map(upstreams::as_json);
    let json = json!({
        "ok": report.faults.is_empty(),
        "faults": report.faults,
        "warnings": report.warnings,
        "checks": checks.collect::<Vec<_>>(),
        "settings": values,
        "upstreams": upstreams.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}
