//! `tollgate usage reconcile`: rows that only the log has come into the table, and what it proves to
//! be unused of charged leases goes back to budgets. A gateway that was killed, or whose table was out
//! of reach for too long, has left them there. Twice is as once.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Place;
use super::credit::Credits;
use super::logged::{Log, Row};
use crate::config::{Database, Paths};
use crate::google::{Parameter, Table, Verdict};
use crate::store::UsageTable;

/// Rows that are looked up at once.
const LOOK_UP_ROWS: usize = 5000;
/// Rows of one insert.
const INSERT_ROWS: usize = 500;
/// Inserts that change nothing, and the pause after the first of them; each further one is twice as long.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// Look-ups of rows that were accepted; they are mostly there within seconds.
const READS: u32 = 4;
/// The filter on the day partition keeps the look-up small.
const WHICH_ARE_THERE: &str = "SELECT DISTINCT request_id FROM {table} \
     WHERE started_at BETWEEN @first AND @last AND request_id IN UNNEST(@ids)";

const EXAMPLES: &str = "\
Examples:
  tollgate usage reconcile gateway.log         lines as the gateway wrote them (LOG_FORMAT=json)
  gcloud logging read --freshness=7d --format=json \\
      'jsonPayload.message=(\"usage\" OR \"reserved\")' | tollgate usage reconcile -
                                               entries of Cloud Logging

Where DATABASE_URL leads to budgets, leases that were charged whole because their gateway was killed
are credited with what the log proves to be unused. It needs the lines \"reserved\" beside \"usage\", from
before the lease began; a lease of which the log lacks a call stays as it is.

A row that still waits in a running gateway may come twice into BigQuery's table; the views and
`tollgate usage` count it once.";

/// Brings rows that only the log has into the table, and credits budgets with what it proves to be
/// unused.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A log with JSON lines, or with the list that `gcloud logging read --format=json` prints; - for
    /// standard input
    log: PathBuf,
    /// Say what is missing and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Default)]
struct Counts {
    logged: usize,
    missing: usize,
    refused: usize,
    /// Accepted, and not to be found.
    unread: usize,
}

/// Reads the log, looks up which rows are in the table, writes the others, and credits leases.
///
/// # Errors
/// When the log cannot be read, or the table or the database cannot be read or written; also when a row
/// was refused or is not whole, after all others were brought in.
pub(super) async fn run(args: Args, paths: Paths) -> anyhow::Result<()> {
    // Nothing else runs in this process that reading could keep from running.
    let mut log = Log::open(&args.log)?;
    // Trouble with the one must not keep the other from being done.
    let credits = credits(&paths.database, args.dry_run, &mut log).await;
    let counts = match Place::of(paths) {
        Ok(place) => bring_in(&args, place, &mut log).await?,
        Err(cause) if matches!(credits, Ok(None)) => return Err(cause),
        Err(_) => read_through(&mut log)?,
    };
    if let Some(credits) = &credits? {
        let credited = credits.give(&mut log).await;
        credits.close().await;
        super::super::print(&credited.context("not all leases could be credited")?)?;
    }
    conclude(&log, &counts)
}

/// The budgets of the configuration, and in the log what to look for.
async fn credits(
    database: &Database,
    dry_run: bool,
    log: &mut Log,
) -> anyhow::Result<Option<Credits>> {
    let credits = Credits::open(database, dry_run).await?;
    if let Some(credits) = &credits {
        log.leases = credits.leases().await?;
    }
    Ok(credits)
}

/// Writes the rows that are missing.
async fn bring_in(args: &Args, place: Place, log: &mut Log) -> anyhow::Result<Counts> {
    let name = place.describe();
    let target = Target::open(place, args.dry_run).await?;
    let mut counts = Counts::default();
    loop {
        let mut rows = log.next_rows(LOOK_UP_ROWS)?;
        if rows.is_empty() {
            break;
        }
        let mut seen = HashSet::new();
        rows.retain(|row| seen.insert(row.request_id.clone()));
        counts.logged += rows.len();
        let there = target.recorded(&rows).await?;
        rows.retain(|row| !there.contains(&row.request_id));
        counts.missing += rows.len();
        if !args.dry_run && !rows.is_empty() {
            let refused = target.write(&rows).await?;
            counts.refused += refused;
            counts.unread += target.unread(&rows, refused).await?;
        }
    }
    target.close().await;
    super::super::print(&counts.report(&name, args.dry_run))?;
    Ok(counts)
}

/// Where there is no table the log is read for its leases alone.
fn read_through(log: &mut Log) -> anyhow::Result<Counts> {
    while !log.next_rows(LOOK_UP_ROWS)?.is_empty() {}
    Ok(Counts::default())
}

impl Counts {
    fn report(&self, name: &str, dry_run: bool) -> String {
        let there = self.logged - self.missing;
        let (missing, what) = if dry_run {
            (self.missing, "missing, nothing was written".to_owned())
        } else {
            let written = self.missing - self.refused - self.unread;
            (written, format!("brought into {name}"))
        };
        format!(
            "in the log: {}, there already: {there}, {what}: {missing}\n",
            self.logged
        )
    }
}

/// Tells of what is not as it should be.
fn conclude(log: &Log, counts: &Counts) -> anyhow::Result<()> {
    for fault in &log.faults {
        tell(fault);
    }
    if !log.unknown_columns.is_empty() {
        let names: Vec<&str> = log.unknown_columns.iter().map(String::as_str).collect();
        tell(&format!(
            "columns of another version were left out: {}",
            names.join(", ")
        ));
    }
    if counts.unread > 0 {
        tell(&format!(
            "{} rows were accepted and cannot be read yet; a table that was made lately may lose them: run this again in some minutes",
            counts.unread
        ));
    }
    let bad = log.faulty_rows + counts.refused + counts.unread;
    if bad > 0 {
        bail!("{bad} rows of the log could not be brought in");
    }
    Ok(())
}

/// A line for people beside the result.
pub(super) fn tell(text: &str) {
    // A closed terminal leaves nobody to tell.
    let _unread = writeln!(io::stderr(), "tollgate: {text}");
}

/// The table that rows are brought into.
enum Target {
    /// `None`: there is no file and none is made.
    Embedded(Option<UsageTable>),
    /// `None`: there is no table and none is made.
    BigQuery(Option<Box<Table>>),
}

impl Target {
    async fn open(place: Place, dry_run: bool) -> anyhow::Result<Self> {
        const WHAT: &str = "cannot open the table";
        match place {
            Place::Embedded(path) if dry_run => match UsageTable::open_read_only(&path).await {
                Err(cause) if cause.is_missing() => Ok(Self::Embedded(None)),
                opened => Ok(Self::Embedded(Some(opened.context(WHAT)?))),
            },
            Place::Embedded(path) => Ok(Self::Embedded(Some(
                UsageTable::open(&path).await.context(WHAT)?,
            ))),
            Place::BigQuery(table, _) if dry_run => {
                let is_there = table.column_names().await?.is_some();
                Ok(Self::BigQuery(is_there.then_some(table)))
            }
            Place::BigQuery(table, _) => {
                let prepared = table.prepare().await?;
                if let Some(note) = prepared.note {
                    tell(&note);
                }
                Ok(Self::BigQuery(Some(table)))
            }
        }
    }

    /// The request ids of those rows that are in the table.
    async fn recorded(&self, rows: &[Row]) -> anyhow::Result<HashSet<String>> {
        let ids: Vec<String> = rows.iter().map(|row| row.request_id.clone()).collect();
        match self {
            Self::Embedded(None) | Self::BigQuery(None) => Ok(HashSet::new()),
            Self::Embedded(Some(store)) => Ok(store.recorded(&ids).await?),
            Self::BigQuery(Some(table)) => {
                let times = || rows.iter().map(|row| row.started_at);
                let (Some(first), Some(last)) = (times().min(), times().max()) else {
                    return Ok(HashSet::new());
                };
                let parameters = [
                    ("first", Parameter::Timestamp(first)),
                    ("last", Parameter::Timestamp(last)),
                    ("ids", Parameter::Texts(ids)),
                ];
                let found = table.query(WHICH_ARE_THERE, &parameters).await?;
                Ok(found.into_iter().flatten().flatten().collect())
            }
        }
    }

    /// Writes rows; how many were refused for good.
    async fn write(&self, rows: &[Row]) -> anyhow::Result<usize> {
        let mut refused = 0;
        for rows in rows.chunks(INSERT_ROWS) {
            let texts: Vec<String> = rows.iter().map(|row| row.text.clone()).collect();
            match self {
                Self::Embedded(None) | Self::BigQuery(None) => {}
                Self::Embedded(Some(store)) => store.insert_usage(&texts).await?,
                Self::BigQuery(Some(table)) => refused += insert(table, texts).await?,
            }
        }
        Ok(refused)
    }

    /// How many of the rows that were written, all but the refused ones, cannot be read.
    async fn unread(&self, rows: &[Row], refused: usize) -> anyhow::Result<usize> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let there = self.recorded(rows).await?.len();
            let unread = rows.len().saturating_sub(there + refused);
            if unread == 0 || attempt == READS {
                return Ok(unread);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(0)
    }

    async fn close(&self) {
        if let Self::Embedded(Some(store)) = self {
            store.close().await;
        }
    }
}

/// Sends rows until each is in the table or refused for good; how many were refused. They carry the
/// insert ids that the gateway would have sent them with.
async fn insert(table: &Table, mut rows: Vec<String>) -> anyhow::Result<usize> {
    let mut refused = 0;
    let mut pause = PAUSE;
    let mut failures = 0;
    while !rows.is_empty() {
        let sent = rows.len();
        let why = match table.insert(&rows).await {
            Err(fault) if fault.permanent => return Err(fault.into()),
            Err(fault) => fault.text,
            Ok(verdicts) => {
                let mut why = String::new();
                let mut again = Vec::new();
                for (row, verdict) in rows.into_iter().zip(verdicts) {
                    match verdict {
                        Verdict::Accepted => {}
                        Verdict::Invalid(cause) => {
                            tell(&format!("a row is refused: {cause}: {row}"));
                            refused += 1;
                        }
                        Verdict::Again(cause) => {
                            why = cause;
                            again.push(row);
                        }
                    }
                }
                rows = again;
                why
            }
        };
        // Rows that only stood beside a bad one go at once.
        if rows.len() < sent {
            continue;
        }
        failures += 1;
        if failures == ATTEMPTS {
            bail!("{} rows could not be brought in: {why}", rows.len());
        }
        tell(&format!("{} rows wait: {why}", rows.len()));
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(refused)
}
