//! Budgets and the leases on them. One exchange settles, returns, renews and grants in one
//! transaction, by the database's clock.

use super::{Store, StoreError};

/// What an instance tells of one lease, and what it wants.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// `service:NAME` or `user:ID`.
    pub owner: String,
    /// Start of the period in milliseconds since 1970; 0 for a total.
    pub period_start_ms: i64,
    /// The next period's start: by the database's clock the exchange is refused from then on if it
    /// asks for tokens. `None` for a total.
    pub period_end_ms: Option<i64>,
    /// Tokens; `None`: nothing is leased, use is only counted.
    pub limit: Option<u64>,
    /// Random id of the lease; made with its first exchange.
    pub lease: String,
    /// Counts the exchanges of the lease from 1. One that was applied already is answered again
    /// and not applied twice.
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
    /// Added to the lease.
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
    /// may be sent again.
    pub async fn exchange(&self, exchange: &Exchange) -> Result<Exchanged, StoreError> {
        let _ = exchange;
        Err(StoreError::absent())
    }

    /// Use of a budget in the period that began at `period_start_ms`, and its days since
    /// `since_ms`.
    pub async fn budget_use(
        &self,
        owner: &str,
        period_start_ms: i64,
        since_ms: i64,
    ) -> Result<BudgetUse, StoreError> {
        let _ = (owner, period_start_ms, since_ms);
        Err(StoreError::absent())
    }
}
