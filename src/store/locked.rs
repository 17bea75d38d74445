//! A budget whose row is locked, and the leases on it. Whatever touches a budget or one of its leases
//! goes through here, so that nobody waits for somebody who waits for them.

use super::StoreError;
use super::lease::{Budget, Lease};
use super::session::Session;
use super::value::{Row, Value, stored};

/// How long it is remembered that an exchange was applied, after the lease has ended.
const EMPTY_LEASE_MS: i64 = 86_400_000;

/// Makes or locks the budget's row.
const LOCK: &str = "\
INSERT INTO budgets (owner, period_start_ms, used, leased, alerted, alerted_limit) \
VALUES ($1, $2, 0, 0, 0, 0) \
ON CONFLICT (owner, period_start_ms) DO UPDATE SET used = budgets.used \
RETURNING used, leased, alerted, alerted_limit, (SELECT now_ms FROM clock) AS now_ms";
const WRITE: &str = "\
UPDATE budgets SET used = $3, leased = $4, alerted = $5, alerted_limit = $6 \
WHERE owner = $1 AND period_start_ms = $2";
/// One lease, and those of the budget that have ended without word.
const LEASES: &str = "\
SELECT id, owner, period_start_ms, tokens, settled, is_charged, number, granted, passed, \
expires_at_ms FROM leases WHERE id = $4 \
OR (owner = $1 AND period_start_ms = $2 AND NOT is_charged AND expires_at_ms <= $3)";
const CHARGE: &str = "\
UPDATE leases SET is_charged = TRUE \
WHERE owner = $1 AND period_start_ms = $2 AND NOT is_charged AND expires_at_ms <= $3";
const WRITE_LEASE: &str = "\
INSERT INTO leases (id, owner, period_start_ms, tokens, settled, is_charged, number, granted, \
passed, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
ON CONFLICT (id) DO UPDATE SET tokens = excluded.tokens, settled = excluded.settled, \
is_charged = excluded.is_charged, number = excluded.number, granted = excluded.granted, \
passed = excluded.passed, expires_at_ms = excluded.expires_at_ms";
const DROP_EMPTY: &str = "\
DELETE FROM leases WHERE owner = $1 AND period_start_ms = $2 AND tokens = 0 AND expires_at_ms < $3";

/// A budget whose row is locked.
pub(super) struct Locked<'e> {
    owner: &'e str,
    period_start_ms: i64,
    pub(super) budget: Budget,
    pub(super) was: Budget,
    /// The database's clock.
    pub(super) now_ms: i64,
}

impl<'e> Locked<'e> {
    pub(super) async fn lock(
        session: &mut Session<'_>,
        owner: &'e str,
        period_start_ms: i64,
    ) -> Result<Self, StoreError> {
        let values = [Value::Text(owner), Value::Int(period_start_ms)];
        let row = session.fetch_one(LOCK, &values).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let budget = Budget {
            used: row.count("used")?,
            leased: row.count("leased")?,
            alerted: share(&row, "alerted")?,
            alerted_limit: row.count("alerted_limit")?,
        };
        Ok(Self {
            owner,
            period_start_ms,
            was: budget.clone(),
            budget,
            now_ms: row.int("now_ms")?,
        })
    }

    /// Charges the leases of the budget that have ended without word; and reads that of this id,
    /// whether it is among them or not.
    pub(super) async fn charge_overdue(
        &mut self,
        session: &mut Session<'_>,
        id: &str,
    ) -> Result<Option<Lease>, StoreError> {
        let [owner, period] = self.key();
        let now = Value::Int(self.now_ms);
        let rows = session
            .fetch(LEASES, &[owner, period, now, Value::Text(id)])
            .await?;
        let (mut found, mut is_any_overdue) = (None, false);
        for row in &rows {
            let mut lease = Lease::read(row)?;
            let is_its = row.text("id")? == id;
            let is_ours = row.text("owner")? == self.owner
                && row.int("period_start_ms")? == self.period_start_ms;
            if is_its && !is_ours {
                return Err(StoreError::out_of_order());
            }
            if !lease.is_charged && lease.expires_at_ms <= self.now_ms {
                self.budget.charge(&mut lease);
                is_any_overdue = true;
            }
            if is_its {
                found = Some(lease);
            }
        }
        if is_any_overdue {
            session.fetch(CHARGE, &[owner, period, now]).await?;
        }
        Ok(found)
    }

    pub(super) async fn write_lease(
        &self,
        session: &mut Session<'_>,
        id: &str,
        lease: &Lease,
    ) -> Result<(), StoreError> {
        let [owner, period] = self.key();
        let values = [
            Value::Text(id),
            owner,
            period,
            Value::Int(stored(lease.tokens)),
            Value::Int(stored(lease.settled)),
            Value::Bool(lease.is_charged),
            Value::Int(lease.number),
            Value::Int(stored(lease.granted)),
            Value::Int(lease.passed.into()),
            Value::Int(lease.expires_at_ms),
        ];
        session.fetch(WRITE_LEASE, &values).await?;
        Ok(())
    }

    pub(super) async fn write(&self, session: &mut Session<'_>) -> Result<(), StoreError> {
        if self.budget == self.was {
            return Ok(());
        }
        let [owner, period] = self.key();
        let values = [
            owner,
            period,
            Value::Int(stored(self.budget.used)),
            Value::Int(stored(self.budget.leased)),
            Value::Int(self.budget.alerted.into()),
            Value::Int(stored(self.budget.alerted_limit)),
        ];
        session.fetch(WRITE, &values).await?;
        Ok(())
    }

    /// Forgets leases that ended, empty, some time ago.
    pub(super) async fn drop_empty(&self, session: &mut Session<'_>) -> Result<(), StoreError> {
        let [owner, period] = self.key();
        let before = Value::Int(self.now_ms - EMPTY_LEASE_MS);
        session.fetch(DROP_EMPTY, &[owner, period, before]).await?;
        Ok(())
    }

    fn key(&self) -> [Value<'e>; 2] {
        [Value::Text(self.owner), Value::Int(self.period_start_ms)]
    }
}

impl Lease {
    pub(super) fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            tokens: row.count("tokens")?,
            settled: row.count("settled")?,
            is_charged: row.flag("is_charged")?,
            number: row.int("number")?,
            granted: row.count("granted")?,
            passed: share(row, "passed")?,
            expires_at_ms: row.int("expires_at_ms")?,
        })
    }
}

fn share(row: &Row, column: &str) -> Result<u8, StoreError> {
    Ok(u8::try_from(row.int(column)?).unwrap_or(0))
}
