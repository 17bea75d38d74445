//! Two counts of the same tokens, the engine's and ours, from a moment on when both were read. Pure.

use std::time::SystemTime;

use super::reading::Reading;

/// A process's own start is told by clocks that may be set a little.
const SAME_START_MS: u64 = 2_000;

/// What both sides counted since they were first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub engine_tokens: u64,
    pub gateway_tokens: u64,
    /// The engine's less ours. Below zero where we counted what it did not.
    pub unaccounted_tokens: i64,
    /// Calls that were under way at either end, or in between while the engine told: what they used
    /// may be in one of the counts alone.
    pub blurred_by: u64,
    pub at: SystemTime,
}

/// The comparison with one engine.
#[derive(Debug, Default)]
pub(super) struct Account {
    baseline: Option<Baseline>,
    last: Option<Comparison>,
    /// The address leads to more than one engine.
    is_of_several: bool,
}

#[derive(Clone, Copy, Debug)]
struct Baseline {
    engine: Reading,
    gateway: u64,
    blurred_by: u64,
    at: SystemTime,
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// There was nothing to compare it with: from now on there is.
    First,
    Compared,
    /// An engine answers that was started before the one that answered last.
    Several,
    /// As was found before.
    Ignored,
}

impl Account {
    pub fn last(&self) -> Option<Comparison> {
        self.last
    }

    pub fn since(&self) -> Option<SystemTime> {
        self.baseline.map(|baseline| baseline.at)
    }

    /// Enters what the engine counted, and what was counted here by then.
    pub fn enter(&mut self, engine: Reading, gateway: u64, blurred_by: u64) -> Entered {
        if self.is_of_several {
            return Entered::Ignored;
        }
        let now = SystemTime::now();
        let baseline = match self.baseline {
            Some(baseline) if baseline.is_younger(&engine) => {
                *self = Self {
                    is_of_several: true,
                    ..Self::default()
                };
                return Entered::Several;
            }
            // A sharp beginning is worth more than a long time since a blurred one.
            Some(kept) if kept.is_of(&engine) && (kept.blurred_by == 0 || blurred_by > 0) => kept,
            _ => {
                self.last = None;
                self.baseline = Some(Baseline {
                    engine,
                    gateway,
                    blurred_by,
                    at: now,
                });
                return Entered::First;
            }
        };
        let engine_tokens = engine.tokens - baseline.engine.tokens;
        let gateway_tokens = gateway - baseline.gateway;
        self.last = Some(Comparison {
            engine_tokens,
            gateway_tokens,
            unaccounted_tokens: wide(engine_tokens).saturating_sub(wide(gateway_tokens)),
            blurred_by: baseline.blurred_by.max(blurred_by),
            at: now,
        });
        Entered::Compared
    }
}

impl Baseline {
    /// The same process counts on.
    fn is_of(&self, later: &Reading) -> bool {
        let starts = self.engine.started_ms.zip(later.started_ms);
        let is_restarted = starts.is_some_and(|(a, b)| a.abs_diff(b) > SAME_START_MS);
        !is_restarted && later.tokens >= self.engine.tokens
    }

    /// This engine was started after the one that tells now.
    fn is_younger(&self, later: &Reading) -> bool {
        let starts = self.engine.started_ms.zip(later.started_ms);
        starts.is_some_and(|(here, there)| here > there + SAME_START_MS)
    }
}

fn wide(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(started_ms: u64, tokens: u64) -> Reading {
        Reading {
            tokens,
            started_ms: Some(started_ms),
        }
    }

    fn unaccounted(account: &Account) -> Option<i64> {
        account.last().map(|last| last.unaccounted_tokens)
    }

    #[test]
    fn both_counts_are_compared_from_the_first_reading_on() {
        let mut account = Account::default();
        assert_eq!(account.enter(engine(1, 700), 50, 0), Entered::First);
        assert_eq!(unaccounted(&account), None);
        assert_eq!(account.enter(engine(1, 800), 150, 0), Entered::Compared);
        assert_eq!(unaccounted(&account), Some(0));
        account.enter(engine(1, 850), 160, 0);
        assert_eq!(unaccounted(&account), Some(40), "somebody else's");
        account.enter(engine(1, 850), 260, 0);
        let last = account.last().unwrap();
        assert_eq!((last.engine_tokens, last.gateway_tokens), (150, 210));
        assert_eq!(last.unaccounted_tokens, -60);
    }

    #[test]
    fn an_engine_that_was_started_anew_is_compared_anew() {
        let silent = Reading {
            tokens: 10,
            started_ms: None,
        };
        for restarted in [engine(90_000, 9_000), engine(90_000, 10), silent] {
            let mut account = Account::default();
            account.enter(engine(1, 700), 50, 0);
            account.enter(engine(1, 790), 60, 0);
            assert_eq!(account.enter(restarted, 70, 0), Entered::First);
            assert_eq!(unaccounted(&account), None);
            let grown = Reading {
                tokens: restarted.tokens + 5,
                ..restarted
            };
            account.enter(grown, 75, 0);
            assert_eq!(unaccounted(&account), Some(0));
        }
    }

    #[test]
    fn engines_that_take_turns_at_one_address_are_not_compared() {
        let mut account = Account::default();
        account.enter(engine(1, 700), 50, 0);
        assert_eq!(account.enter(engine(90_000, 10), 60, 0), Entered::First);
        assert_eq!(account.enter(engine(1, 710), 70, 0), Entered::Several);
        assert_eq!(account.enter(engine(1, 720), 80, 0), Entered::Ignored);
        assert_eq!((account.last(), account.since()), (None, None));
    }

    #[test]
    fn a_beginning_amid_calls_is_given_up_for_a_quiet_one() {
        let mut account = Account::default();
        account.enter(engine(1, 700), 50, 3);
        assert_eq!(account.enter(engine(1, 800), 150, 1), Entered::Compared);
        assert_eq!(account.last().unwrap().blurred_by, 3);
        assert_eq!(account.enter(engine(1, 900), 250, 0), Entered::First);
        account.enter(engine(1, 950), 290, 2);
        assert_eq!(account.last().unwrap().blurred_by, 2);
        account.enter(engine(1, 960), 310, 0);
        assert_eq!(account.last().unwrap().blurred_by, 0);
        assert_eq!(unaccounted(&account), Some(0));
    }
}
