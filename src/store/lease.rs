//! The sums of one exchange: a budget, a lease on it, and what moves between them. Pure. No sum
//! leaves what a column can hold.

/// The highest number of a column.
const MOST: u64 = i64::MAX as u64;
/// Shares of a limit in percent that are told of when `used` passes them, the highest first.
const SHARES: [u8; 2] = [100, 80];

/// A budget in one period, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) used: u64,
    pub(super) leased: u64,
    /// The share of `alerted_limit` that was told of last.
    pub(super) alerted: u8,
    pub(super) alerted_limit: u64,
}

/// A lease in tokens; see the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) tokens: u64,
    pub(super) settled: u64,
    pub(super) is_charged: bool,
    pub(super) number: i64,
    /// What the exchange of this number was granted, and told to have passed.
    pub(super) granted: u64,
    pub(super) passed: u8,
    pub(super) expires_at_ms: i64,
}

/// Tokens that are wanted: `most`, or less, but nothing below `least`.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Budget {
    pub(super) fn add_use(&mut self, tokens: u64) {
        self.used = self.used.saturating_add(tokens).min(MOST);
    }

    /// Ends a lease: all that it holds counts as used.
    pub(super) fn charge(&mut self, lease: &mut Lease) {
        self.leased = self.leased.saturating_sub(lease.tokens);
        self.add_use(lease.tokens);
        lease.is_charged = true;
    }

    /// Takes what was `spent` and what goes back out of a lease. More than the lease holds can be
    /// spent, and is counted; more cannot go back.
    pub(super) fn settle(&mut self, lease: &mut Lease, spent: u64, returned: u64) {
        let covered = spent.min(lease.tokens);
        let returned = returned.min(lease.tokens - covered);
        let gone = covered + returned;
        lease.tokens -= gone;
        lease.settled = lease.settled.saturating_add(spent).min(MOST);
        if lease.is_charged {
            // What is covered was counted with the charge.
            self.add_use(spent - covered);
            self.used = self.used.saturating_sub(returned);
        } else {
            self.add_use(spent);
            self.leased = self.leased.saturating_sub(gone);
        }
    }

    /// Leases as much of what is wanted as is left of the limit, or nothing.
    pub(super) fn grant(&mut self, lease: &mut Lease, limit: u64, wanted: Range) -> u64 {
        let taken = self.used.saturating_add(self.leased);
        let room = limit.min(MOST).saturating_sub(taken);
        let tokens = wanted.most.min(room);
        if tokens < wanted.least || lease.is_charged {
            return 0;
        }
        self.leased += tokens;
        lease.tokens = lease.tokens.saturating_add(tokens);
        tokens
    }

    /// The share of the limit that is passed now and was not told of; a higher limit begins anew,
    /// with what was `used_before`.
    pub(super) fn pass(&mut self, limit: u64, used_before: u64) -> Option<u8> {
        let limit = limit.min(MOST);
        let passed = share(self.used, limit);
        if limit > self.alerted_limit {
            self.alerted = self.alerted.min(share(used_before, limit));
            self.alerted_limit = limit;
        }
        if passed <= self.alerted {
            return None;
        }
        self.alerted = passed;
        self.alerted_limit = limit;
        Some(passed)
    }
}

/// The highest of the shares that is used of a limit.
fn share(used: u64, limit: u64) -> u8 {
    let reaches =
        |share: u8| limit > 0 && u128::from(used) * 100 >= u128::from(limit) * u128::from(share);
    let passed = SHARES.into_iter().find(|share| reaches(*share));
    passed.unwrap_or(0)
}
