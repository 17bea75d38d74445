//! What of an expired lease the log proves to be unused. A lease that expired without word of its
//! owner was charged whole; the log has each call that was admitted on it, and the charge of each
//! that ended. Pure; what is doubtful stays charged.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;

use super::logged::integer;
use crate::store::ChargedLease;

/// What the log says of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The log knows all of its calls: this many tokens were not used, and `open` calls without an
    /// end keep what they had reserved.
    Unused { tokens: u64, open: usize },
    /// The log has no word of it.
    Unseen,
    /// The log contradicts itself or the store, or lacks something.
    Doubtful(Doubt),
}

/// Why a lease stays charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The number of a call that is not in the log, though a later one is.
    Gap(u64),
    /// The number of a call that the log tells of in two ways.
    Contradiction(u64),
    /// Tokens that the log accounts for: fewer than were settled.
    TooLittle(u64),
    /// Its last calls may be on their way into the log.
    Fresh,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap(number) => write!(f, "the log lacks its call {number}"),
            Self::Contradiction(number) => write!(f, "the log has two words on its call {number}"),
            Self::TooLittle(tokens) => write!(
                f,
                "the log accounts for {tokens} tokens only, more were settled"
            ),
            Self::Fresh => f.write_str(
                "it ended only now, lines of it may still come: run this again in some minutes",
            ),
        }
    }
}

/// The charged leases, and what a log tells of them.
#[derive(Default)]
pub(super) struct Leases {
    charged: Vec<ChargedLease>,
    /// By lease and number.
    calls: HashMap<String, BTreeMap<u64, Call>>,
    /// A lease's call that was told of in two ways.
    contradictions: HashMap<String, u64>,
}

/// A call that was admitted on a lease.
#[derive(Clone, Copy, Default)]
struct Call {
    reserved: Option<u64>,
    charged: Option<u64>,
}

impl Call {
    /// Takes over what another line says; false if the two do not agree.
    fn join(&mut self, other: Self) -> bool {
        let agree =
            |old: Option<u64>, new: Option<u64>| old.is_none() || new.is_none() || old == new;
        let agrees = agree(self.reserved, other.reserved) && agree(self.charged, other.charged);
        self.reserved = self.reserved.or(other.reserved);
        self.charged = self.charged.or(other.charged);
        agrees
    }

    /// The most that it may have used.
    fn tokens(&self) -> u64 {
        self.charged.or(self.reserved).unwrap_or_default()
    }
}

impl Leases {
    pub(super) fn of(charged: Vec<ChargedLease>) -> Self {
        let calls = charged.iter();
        Self {
            calls: calls
                .map(|charged| (charged.id.clone(), BTreeMap::new()))
                .collect(),
            charged,
            contradictions: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.charged.is_empty()
    }

    /// Notes what a line of the log says of a call on one of the leases; most lines say nothing.
    pub(super) fn note(&mut self, line: &Value) {
        let number_of =
            |name: &str| integer(&line["budget"][name]).and_then(|n| u64::try_from(n).ok());
        let call = match line["message"].as_str() {
            Some("reserved") => Call {
                reserved: number_of("tokens"),
                charged: None,
            },
            Some("usage" | "released") => Call {
                reserved: None,
                charged: number_of("charged"),
            },
            _ => return,
        };
        let lease = line["budget"]["lease"].as_str().unwrap_or_default();
        let Some(calls) = self.calls.get_mut(lease) else {
            return;
        };
        let Some(number) = number_of("number").filter(|number| *number > 0) else {
            return;
        };
        if !calls.entry(number).or_default().join(call) {
            self.contradictions.insert(lease.to_owned(), number);
        }
    }

    /// What was found, per lease. Of leases that ended after `whole_until_ms` the log may lack the
    /// last calls.
    pub(super) fn conclude(self, whole_until_ms: i64) -> Vec<(ChargedLease, Finding)> {
        let find = |charged: &ChargedLease| {
            let calls = &self.calls[&charged.id];
            match self.contradictions.get(&charged.id) {
                Some(number) => Finding::Doubtful(Doubt::Contradiction(*number)),
                None if !calls.is_empty() && charged.expired_at_ms > whole_until_ms => {
                    Finding::Doubtful(Doubt::Fresh)
                }
                None => judge(charged, calls),
            }
        };
        let findings: Vec<Finding> = self.charged.iter().map(find).collect();
        self.charged.into_iter().zip(findings).collect()
    }
}

fn judge(charged: &ChargedLease, calls: &BTreeMap<u64, Call>) -> Finding {
    if calls.is_empty() {
        return Finding::Unseen;
    }
    for (wanted, (number, call)) in (1..).zip(calls) {
        // A line without its figure is as good as none.
        if wanted != *number || call.charged.or(call.reserved).is_none() {
            return Finding::Doubtful(Doubt::Gap(wanted));
        }
    }
    let accounted: u64 = calls
        .values()
        .fold(0, |sum, call| sum.saturating_add(call.tokens()));
    let Some(untold) = accounted.checked_sub(charged.settled) else {
        return Finding::Doubtful(Doubt::TooLittle(accounted));
    };
    Finding::Unused {
        tokens: charged.left.saturating_sub(untold),
        open: calls.values().filter(|call| call.charged.is_none()).count(),
    }
}

#[cfg(test)]
mod tests;
