//! Credits what of charged leases was not used, by the word of a log. Asks and tells the store; what
//! the log proves is found in `leases`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::leases::{Finding, Leases};
use super::logged::Log;
use super::reconcile::tell;
use crate::config::Database;
use crate::store::Store;

/// Cloud Logging has its lines after this time.
const LAG: Duration = Duration::from_mins(5);

/// The budgets' side of a reconciliation.
pub(super) struct Credits {
    store: Store,
    dry_run: bool,
}

/// What was done about charged leases.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    credited: usize,
    tokens: u64,
    /// Nothing of them was unused.
    spent: usize,
    kept: usize,
    unseen: usize,
}

impl Credits {
    /// `None` where there are no budgets; no file is made.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(super) async fn open(database: &Database, dry_run: bool) -> anyhow::Result<Option<Self>> {
        if matches!(database, Database::Sqlite(path) if !path.exists()) {
            return Ok(None);
        }
        let store = Store::open(database).await;
        let store = store.context("cannot use the database of DATABASE_URL")?;
        Ok(store.map(|store| Self { store, dry_run }))
    }

    /// The leases to look for in a log.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn leases(&self) -> anyhow::Result<Leases> {
        let charged = self.store.charged_leases(None).await;
        Ok(Leases::of(
            charged.context("cannot read which leases were charged")?,
        ))
    }

    /// Credits what the log, now read to its end, proves to be unused; says what in words. Nothing
    /// is said where there are no charged leases.
    ///
    /// # Errors
    /// When the database does not answer; what was credited before stays so.
    pub(super) async fn give(&self, log: &mut Log) -> anyhow::Result<String> {
        let lag = if log.is_clouds { LAG } else { Duration::ZERO };
        let leases = std::mem::take(&mut log.leases);
        if leases.is_empty() {
            return Ok(String::new());
        }
        let mut counts = Counts::default();
        let mut text = String::new();
        for (lease, finding) in leases.conclude(ms_before_now(lag)) {
            let name = format!("lease {} of {}", lease.id, lease.owner);
            match finding {
                Finding::Unseen => counts.unseen += 1,
                Finding::Doubtful(doubt) => {
                    counts.kept += 1;
                    tell(&format!(
                        "{name} stays charged with {} tokens: {doubt}",
                        lease.left
                    ));
                }
                Finding::Unused { tokens: 0, .. } => counts.spent += 1,
                Finding::Unused { tokens, open } => {
                    let given = self.dry_run || self.store.credit_lease(&lease, tokens).await?;
                    if !given {
                        counts.kept += 1;
                        tell(&format!(
                            "{name} is left alone: its owner is alive and settles it"
                        ));
                        continue;
                    }
                    counts.credited += 1;
                    counts.tokens = counts.tokens.saturating_add(tokens);
                    // Writing to a string cannot fail.
                    let _written = writeln!(
                        text,
                        "  {name}: {tokens} of {} tokens; calls without an end: {open}",
                        lease.left
                    );
                }
            }
        }
        Ok(counts.report(self.dry_run) + &text)
    }

    pub(super) async fn close(&self) {
        self.store.close().await;
    }
}

impl Counts {
    fn report(&self, dry_run: bool) -> String {
        let what = if dry_run {
            "unused, nothing was credited"
        } else {
            "credited"
        };
        format!(
            "charged leases: used up {}, in doubt {}, not in this log {}, {what}: {} tokens of {}\n",
            self.spent, self.kept, self.unseen, self.tokens, self.credited
        )
    }
}

/// In milliseconds since 1970.
fn ms_before_now(span: Duration) -> i64 {
    let then = SystemTime::now().checked_sub(span).unwrap_or(UNIX_EPOCH);
    let since = then.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
