//! What a principal may use: its owner's name in the store, a limit and the period it is for. Pure.

use std::sync::Arc;

/// When a budget begins anew; periods are of the calendar in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Period {
    /// Never.
    #[default]
    Total,
    Day,
    Month,
}

impl Period {
    /// The word in key sets and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Reads the word of a key set.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Total, Self::Day, Self::Month]
            .into_iter()
            .find(|period| period.as_str() == word)
    }
}

/// Whose tokens are counted, and up to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Name of the budget in the store: `service:NAME` or `user:ID`. Rotating a key keeps it.
    pub owner: Arc<str>,
    /// Tokens, prompt and completion together; `None` counts without a limit.
    pub limit: Option<u64>,
    pub period: Period,
    /// Counted and told of, never refused.
    pub dry_run: bool,
}
