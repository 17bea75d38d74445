//! Leases that were charged whole because their owner was not heard of in time, what is known of
//! them later, and the removal of old rows.

use super::locked::Locked;
use super::session::Session;
use super::value::{Row, Value};
use super::{Store, StoreError};

const DAY_MS: i64 = 86_400_000;
/// How long there may be word of what was used on a charged lease.
const CHARGED_MS: i64 = 35 * DAY_MS;
/// Past periods and days.
const PAST_MS: i64 = 400 * DAY_MS;
/// An empty lease says nothing but which exchange was its last.
const EMPTY_MS: i64 = DAY_MS;
/// Charged leases in one answer.
const MOST_LEASES: i64 = 1_000;

const NOW: &str = "SELECT now_ms FROM clock";
/// Those of a period that is over may have been charged by nobody.
const CHARGED: &str = "\
SELECT id, owner, period_start_ms, tokens, settled, expires_at_ms FROM leases \
WHERE tokens > 0 AND (owner = $1 OR $2) \
AND (is_charged OR expires_at_ms <= (SELECT now_ms FROM clock)) ORDER BY expires_at_ms, id LIMIT $3";
/// Each takes what is at least so old, in milliseconds since 1970. A lease that was not charged is
/// part of its budget, and stays as long as that.
const SWEEPS: [(&str, i64); 6] = [
    (
        "DELETE FROM leases WHERE is_charged AND expires_at_ms < $1",
        CHARGED_MS,
    ),
    (
        "DELETE FROM leases WHERE tokens = 0 AND expires_at_ms < $1",
        EMPTY_MS,
    ),
    (
        "DELETE FROM leases WHERE period_start_ms > 0 AND period_start_ms < $1",
        PAST_MS,
    ),
    (
        "DELETE FROM budgets WHERE period_start_ms > 0 AND period_start_ms < $1",
        PAST_MS,
    ),
    ("DELETE FROM budget_days WHERE day_ms < $1", PAST_MS),
    ("DELETE FROM refresh_tokens WHERE expires_at_ms < $1", 0),
];

/// A lease that ended without word of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargedLease {
    pub id: String,
    /// The budget: `service:NAME` or `user:ID`, and the start of the period.
    pub owner: String,
    pub period_start_ms: i64,
    /// Tokens that were charged and that nothing is known of.
    pub left: u64,
    /// Tokens that its owner told to be used.
    pub settled: u64,
    /// When it ended, in milliseconds since 1970.
    pub expired_at_ms: i64,
}

impl Store {
    /// Charged leases of one owner or of all, the oldest first; at most a thousand. They are kept
    /// for 35 days.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn charged_leases(
        &self,
        owner: Option<&str>,
    ) -> Result<Vec<ChargedLease>, StoreError> {
        let values = [
            Value::Text(owner.unwrap_or_default()),
            Value::Bool(owner.is_none()),
            Value::Int(MOST_LEASES),
        ];
        let rows = self.read(CHARGED, &values).await?;
        rows.iter().map(ChargedLease::read).collect()
    }

    /// Gives tokens of a charged lease back that were not used: at most what is left of it. False,
    /// and nothing is done, if it has changed since it was read: its owner is alive after all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn credit_lease(
        &self,
        lease: &ChargedLease,
        unspent: u64,
    ) -> Result<bool, StoreError> {
        let unspent = unspent.min(lease.left);
        self.operate(|| async {
            let mut session = self.begin().await?;
            let mut locked =
                Locked::lock(&mut session, &lease.owner, lease.period_start_ms).await?;
            let found = locked.charge_overdue(&mut session, &lease.id).await?;
            let is_credited = match found {
                Some(mut found) if found.is_charged && found.tokens == lease.left => {
                    locked.budget.settle(&mut found, 0, unspent);
                    locked.write_lease(&mut session, &lease.id, &found).await?;
                    true
                }
                // By this call, whose answer got lost.
                Some(found) => found.is_charged && found.tokens == lease.left - unspent,
                None => false,
            };
            locked.write(&mut session).await?;
            session.end().await?;
            Ok(is_credited)
        })
        .await
    }

    /// Removes what nobody asks for any more.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let mut session: Session<'_> = self.single().await?;
        let now_ms = session.fetch_one(NOW, &[]).await?;
        let now_ms = now_ms.map_or(Ok(0), |row| row.int("now_ms"))?;
        for (sql, age_ms) in SWEEPS {
            session.fetch(sql, &[Value::Int(now_ms - age_ms)]).await?;
        }
        session.end().await
    }
}

impl ChargedLease {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.text("id")?,
            owner: row.text("owner")?,
            period_start_ms: row.int("period_start_ms")?,
            left: row.count("tokens")?,
            settled: row.count("settled")?,
            expired_at_ms: row.int("expires_at_ms")?,
        })
    }
}
