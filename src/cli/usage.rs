//! `tollgate usage`: what was used, from wherever rows go. Reads only; a gateway may be writing.
//! `tollgate usage reconcile` brings in rows that only the log has, and credits budgets with what it
//! proves to be unused.

mod bigquery;
mod credit;
mod leases;
mod logged;
mod reconcile;
mod report;
mod since;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use time::{OffsetDateTime, macros::format_description};

use crate::config::{Paths, SinkKind, TableRef};
use crate::google::{Google, Table};
use crate::store::{Grouping, Totals, UsageTable};
use crate::usage;

use since::Since;

/// Prints requests, tokens and errors of the calls that were recorded.
///
/// They come from where rows go: the embedded table, or BigQuery's if a dataset is configured, where
/// a row that stands there more than once is counted once. A call counts as an error if it failed
/// for another reason than that its client left.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// What to add up by: key, user, model, day (UTC) or label:NAME
    #[arg(long, default_value = "key", value_parser = parse_grouping)]
    by: Grouping,
    /// How far back: 7d, 24h, 30m, a date (UTC) or a time like 2026-11-01T00:00:00Z
    #[arg(long, default_value = "7d", value_parser = since::parse)]
    since: Since,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring rows that only the log has into the table, and credit budgets with what a gateway that
    /// was killed had leased and not used
    Reconcile(reconcile::Args),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Prints the report, or does what the verb says.
///
/// # Errors
/// When there is no table or it cannot be read, in words.
pub async fn run(args: Args, paths: Paths) -> anyhow::Result<()> {
    if let Some(Verb::Reconcile(args)) = args.verb {
        return reconcile::run(args, paths).await;
    }
    let place = Place::of(paths)?;
    let since = args.since.resolve(OffsetDateTime::now_utc())?;
    super::print(&report(&args, &place, since).await?)
}

/// Where rows go.
enum Place {
    Embedded(PathBuf),
    BigQuery(Box<Table>, TableRef),
}

impl Place {
    fn of(paths: Paths) -> anyhow::Result<Self> {
        match paths.sink {
            SinkKind::Local => Ok(Self::Embedded(paths.usage_file)),
            SinkKind::BigQuery(name) => {
                let google = Arc::new(Google::new(&paths.google));
                let table = usage::table(&google, &name, &[]);
                Ok(Self::BigQuery(Box::new(table), name))
            }
            SinkKind::Stdout | SinkKind::None => bail!(
                "rows go to the log alone, there is no table to read: set BIGQUERY_DATASET, or USAGE_SINK=local"
            ),
        }
    }

    /// For people.
    fn describe(&self) -> String {
        match self {
            Self::Embedded(path) => path.display().to_string(),
            Self::BigQuery(_, name) => format!("BigQuery's table {}.{}", name.dataset, name.table),
        }
    }

    async fn sum(&self, by: &Grouping, since: OffsetDateTime) -> anyhow::Result<Vec<Totals>> {
        match self {
            Self::Embedded(path) => {
                let since_us = i64::try_from(since.unix_timestamp_nanos() / 1000);
                let store = match UsageTable::open_read_only(path).await {
                    Err(cause) if cause.is_missing() => bail!(
                        "nothing was recorded yet: there is no database at {} (it is made by `tollgate serve` with the local usage sink; DATA_DIR says where)",
                        path.display(),
                    ),
                    opened => opened.context("cannot read what was recorded")?,
                };
                let totals = store.sum_usage(by, since_us.unwrap_or(i64::MAX)).await;
                store.close().await;
                totals.context("cannot read what was recorded")
            }
            Self::BigQuery(table, name) => {
                let totals = bigquery::sum(table, by, since).await;
                let totals = totals.context("cannot read what was recorded")?;
                totals.with_context(|| format!(
                    "nothing was recorded yet: there is no table {} in BigQuery's dataset {} (it is made by `tollgate serve`; BIGQUERY_TABLE says which)",
                    name.table, name.dataset,
                ))
            }
        }
    }
}

async fn report(args: &Args, place: &Place, since: OffsetDateTime) -> anyhow::Result<String> {
    let totals = place.sum(&args.by, since).await?;
    let heading = heading(&args.by);
    Ok(match args.format {
        Format::Table if totals.is_empty() => format!(
            "No calls recorded since {} in {}.\n",
            describe(since),
            place.describe()
        ),
        Format::Table => report::table(&heading, &totals),
        Format::Csv => report::csv(&heading, &totals),
        Format::Json => report::json(&heading, &totals),
    })
}

fn parse_grouping(text: &str) -> Result<Grouping, String> {
    match text {
        "key" => Ok(Grouping::Key),
        "user" => Ok(Grouping::User),
        "model" => Ok(Grouping::Model),
        "day" => Ok(Grouping::Day),
        _ => match text.strip_prefix("label:") {
            Some(name) if !name.is_empty() => Ok(Grouping::Label(name.to_owned())),
            _ => Err("use key, user, model, day or label:NAME".to_owned()),
        },
    }
}

fn heading(by: &Grouping) -> String {
    match by {
        Grouping::Key => "key".to_owned(),
        Grouping::User => "user".to_owned(),
        Grouping::Model => "model".to_owned(),
        Grouping::Day => "day".to_owned(),
        Grouping::Label(name) => format!("label:{name}"),
    }
}

fn describe(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests;
