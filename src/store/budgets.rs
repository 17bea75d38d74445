//! Budgets and the leases on them. One exchange settles, returns, renews and grants in one
//! transaction, by the database's clock.

use super::lease::{Lease, Range};
use super::locked::Locked;
use super::session::Session;
use super::value::{Row, Value, stored};
use super::{Store, StoreError};

/// A sum that would not fit stays at the highest number.
macro_rules! add {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN budget_days.",
            $column,
            " > 9223372036854775807 - excluded.",
            $column,
            " THEN 9223372036854775807 ELSE budget_days.",
            $column,
            " + excluded.",
            $column,
            " END"
        )
    };
}
const ADD_DAY: &str = concat!(
    "INSERT INTO budget_days (owner, day_ms, requests, prompt_tokens, completion_tokens) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (owner, day_ms) DO UPDATE SET ",
    add!("requests"),
    ", ",
    add!("prompt_tokens"),
    ", ",
    add!("completion_tokens")
);
/// A lease that has ended without word counts as used, though nobody has charged it yet.
const STANDING: &str = "\
SELECT now_ms, \
(SELECT CAST(COALESCE(SUM(tokens), 0) AS BIGINT) FROM leases WHERE owner = $1 \
AND period_start_ms = $2 AND NOT is_charged AND expires_at_ms <= now_ms) AS overdue, \
COALESCE((SELECT used FROM budgets WHERE owner = $1 AND period_start_ms = $2), 0) AS used, \
COALESCE((SELECT leased FROM budgets WHERE owner = $1 AND period_start_ms = $2), 0) AS leased \
FROM clock";
const DAYS: &str = "\
SELECT day_ms, requests, prompt_tokens, completion_tokens FROM budget_days \
WHERE owner = $1 AND day_ms >= $2 ORDER BY day_ms";

/// What an instance tells of one lease, and what it wants.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// `service:NAME` or `user:ID`.
    pub owner: String,
    /// Start of the period in milliseconds since 1970; 0 for a total.
    pub period_start_ms: i64,
    /// The next period's start: by the database's clock nothing is granted from then on. `None` for
    /// a total.
    pub period_end_ms: Option<i64>,
    /// Tokens; `None`: nothing is leased, use is only counted.
    pub limit: Option<u64>,
    /// Random id of the lease; made with its first exchange.
    pub lease: String,
    /// Counts the exchanges of the lease from 1. The last one may be sent again: it is answered
    /// again and not applied twice.
    pub number: i64,
    /// Leased tokens that were used since the last exchange.
    pub spent: u64,
    /// Leased tokens that go back.
    pub returned: u64,
    /// Tokens used without a lease: of budgets without a limit, or only watched.
    pub unleased: u64,
    /// To be added to the sums per day.
    pub days: Vec<DayUse>,
    /// Grant at most `most` tokens, and none if there are not `least`; 0 wants none.
    pub least: u64,
    pub most: u64,
    /// From now on the lease is good for this long.
    pub life_ms: i64,
}

/// Use within one UTC day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayUse {
    /// Start of the day in milliseconds since 1970.
    pub day_ms: i64,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// What the store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The database's clock, in milliseconds since 1970.
    pub now_ms: i64,
    /// Charged to the budget in this period, all instances together.
    pub used: u64,
    /// Leased in this period, all instances together, this lease too.
    pub leased: u64,
    /// Added to the lease. With `is_charged` only in an answer that comes again: then these tokens
    /// are charged too, and may be returned.
    pub granted: u64,
    /// The lease had expired and was charged whole: what was `spent` is in that charge, what is
    /// `returned` is credited. It gets no more tokens.
    pub is_charged: bool,
    /// When the lease ends without another exchange.
    pub expires_at_ms: i64,
    /// The share of the limit in percent, 80 or 100, that `used` passed for the first time in this
    /// period with this very exchange.
    pub passed: Option<u8>,
}

/// How a budget stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetUse {
    pub now_ms: i64,
    pub used: u64,
    pub leased: u64,
    /// From the day asked for on, in order; days without use are not there.
    pub days: Vec<DayUse>,
}

impl Store {
    /// # Errors
    /// When the database does not answer: nothing is known of the outcome, and the same exchange
    /// may be sent again. When an exchange of this lease was left out.
    pub async fn exchange(&self, exchange: &Exchange) -> Result<Exchanged, StoreError> {
        self.operate(|| self.try_exchange(exchange)).await
    }

    async fn try_exchange(&self, exchange: &Exchange) -> Result<Exchanged, StoreError> {
        if exchange.number < 1 {
            return Err(StoreError::out_of_order());
        }
        let mut session = self.begin().await?;
        let mut locked =
            Locked::lock(&mut session, &exchange.owner, exchange.period_start_ms).await?;
        let mut lease = locked.charge_overdue(&mut session, &exchange.lease).await?;
        // One that is not there was never made; or it had ended, empty, and is forgotten.
        let lease = lease.get_or_insert_with(|| Lease {
            is_charged: exchange.number > 1,
            number: exchange.number - 1,
            expires_at_ms: locked.now_ms,
            ..Lease::default()
        });
        if lease.number + 1 == exchange.number {
            locked.apply(exchange, lease);
            write_days(&mut session, exchange).await?;
            locked
                .write_lease(&mut session, &exchange.lease, lease)
                .await?;
            if exchange.number == 1 {
                locked.drop_empty(&mut session).await?;
            }
        } else if lease.number != exchange.number {
            return Err(StoreError::out_of_order());
        }
        locked.write(&mut session).await?;
        session.end().await?;
        Ok(Exchanged {
            now_ms: locked.now_ms,
            used: locked.budget.used,
            leased: locked.budget.leased,
            granted: lease.granted,
            is_charged: lease.is_charged,
            expires_at_ms: lease.expires_at_ms,
            passed: Some(lease.passed).filter(|share| *share > 0),
        })
    }

    /// Use of a budget in the period that began at `period_start_ms`, and its days since
    /// `since_ms`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn budget_use(
        &self,
        owner: &str,
        period_start_ms: i64,
        since_ms: i64,
    ) -> Result<BudgetUse, StoreError> {
        self.operate(|| async {
            let owner = Value::Text(owner);
            let mut session = self.single().await?;
            let values = [owner, Value::Int(period_start_ms)];
            let standing = session.fetch_one(STANDING, &values).await?;
            let days = session.fetch(DAYS, &[owner, Value::Int(since_ms)]).await?;
            session.end().await?;
            let mut found = BudgetUse {
                days: days.iter().map(DayUse::read).collect::<Result<_, _>>()?,
                ..BudgetUse::default()
            };
            if let Some(row) = standing {
                found.now_ms = row.int("now_ms")?;
                let overdue = row.count("overdue")?;
                found.used = row.count("used")?.saturating_add(overdue);
                found.leased = row.count("leased")?.saturating_sub(overdue);
            }
            Ok(found)
        })
        .await
    }
}

impl Locked<'_> {
    fn apply(&mut self, exchange: &Exchange, lease: &mut Lease) {
        let limit = exchange.limit;
        let wanted = Range {
            least: exchange.least,
            most: exchange.most,
        };
        self.budget.settle(lease, exchange.spent, exchange.returned);
        self.budget.add_use(exchange.unleased);
        let is_in_period = exchange.period_start_ms <= self.now_ms
            && exchange
                .period_end_ms
                .is_none_or(|end_ms| self.now_ms < end_ms);
        lease.granted = match limit {
            Some(limit) if is_in_period => self.budget.grant(lease, limit, wanted),
            _ => 0,
        };
        let passed = limit.and_then(|limit| self.budget.pass(limit, self.was.used));
        lease.passed = passed.unwrap_or(0);
        if !lease.is_charged {
            lease.expires_at_ms = self.now_ms.saturating_add(exchange.life_ms.max(0));
        }
        lease.number = exchange.number;
    }
}

/// Days in their order, so that two transactions cannot wait for one another.
async fn write_days(session: &mut Session<'_>, exchange: &Exchange) -> Result<(), StoreError> {
    let mut days = exchange.days.clone();
    days.sort_unstable_by_key(|day| day.day_ms);
    for day in days {
        let values = [
            Value::Text(&exchange.owner),
            Value::Int(day.day_ms),
            Value::Int(stored(day.requests)),
            Value::Int(stored(day.prompt_tokens)),
            Value::Int(stored(day.completion_tokens)),
        ];
        session.fetch(ADD_DAY, &values).await?;
    }
    Ok(())
}

impl DayUse {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            day_ms: row.int("day_ms")?,
            requests: row.count("requests")?,
            prompt_tokens: row.count("prompt_tokens")?,
            completion_tokens: row.count("completion_tokens")?,
        })
    }
}
