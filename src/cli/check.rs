//! `tollgate check`: judges the configuration and prints what is in effect, secrets as stars.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::flags::Flags;
use crate::config::{Config, ConfigError, Setting};

const NOTES: &str = "\
Example: tollgate check --json | jq .settings.PORT
Exit codes: 0 the gateway would start, 64 it would not; every fault is named on standard error.";

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct CheckArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Prints the effective values, also when they have faults.
///
/// # Errors
/// A [`ConfigError`] with every fault.
pub fn run(args: CheckArgs) -> anyhow::Result<()> {
    let (verdict, settings, warnings) = match Config::load(args.flags.0) {
        Ok(config) => (None, config.settings, config.warnings),
        Err(error) => (Some(error.faults), error.settings, error.warnings),
    };
    let faults = verdict.as_deref().unwrap_or_default();
    super::print(&if args.json {
        as_json(&settings, &warnings, faults)?
    } else {
        as_table(&settings, &warnings)
    })?;
    match verdict {
        None => Ok(()),
        Some(faults) => Err(ConfigError {
            faults,
            warnings,
            settings,
        }
        .into()),
    }
}

fn as_table(settings: &[Setting], warnings: &[String]) -> String {
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
    for warning in warnings {
        let _infallible = writeln!(table, "warning: {warning}");
    }
    table
}

fn as_json(settings: &[Setting], warnings: &[String], faults: &[String]) -> anyhow::Result<String> {
    let values: Map<String, Value> = settings
        .iter()
        .map(|setting| {
            (
                setting.name.to_owned(),
                json!({"value": setting.value, "origin": setting.origin.as_str()}),
            )
        })
        .collect();
    let report = json!({"ok": faults.is_empty(), "faults": faults, "warnings": warnings, "settings": values});
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}
