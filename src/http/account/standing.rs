//! How budgets stand, for answers.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Ask;
use crate::budget::Allowance;
use crate::error::Error;
use crate::store::{BudgetUse, DayUse};

const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// Days that may be asked for.
pub const DAYS: RangeInclusive<u64> = 1..=366;

/// What was used of a budget in its period, and on each of the last `days` UTC days.
///
/// # Errors
/// `store_unavailable`.
pub async fn of(ask: &Ask<'_>, allowance: &Allowance, days: u64) -> Result<BudgetUse, Error> {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    let today_ms = now_ms - now_ms.rem_euclid(DAY_MS);
    let days = i64::try_from(days).unwrap_or(0);
    let since_ms = today_ms - (days - 1) * DAY_MS;
    let mut period_start_ms = 0;
    if let Some(budgets) = &ask.gateway.budgets {
        // Who has just made a call sees it.
        budgets.tell(&allowance.owner).await;
        period_start_ms = budgets.period_start_ms(allowance.period);
    }
    let period = (&*allowance.owner, period_start_ms);
    ask.users.budget_use(period, since_ms).await
}

/// The days as answers show them.
pub fn daily(days: &[DayUse]) -> Vec<Value> {
    let shown = |day: &DayUse| {
        let date = OffsetDateTime::from_unix_timestamp(day.day_ms.div_euclid(1_000));
        let date = date.unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
        json!({
            "date": date.to_string(),
            "requests": day.requests,
            "prompt_tokens": day.prompt_tokens,
            "completion_tokens": day.completion_tokens,
        })
    };
    days.iter().map(shown).collect()
}
