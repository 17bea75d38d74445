//! How a budget stands as far as this instance knows.

use std::time::Duration;

use super::super::clock::Reading;
use super::super::{Allowance, Standing};
use super::Account;

impl Account {
    /// Tokens leased here, reserved of them, and used but not known to be told.
    pub fn sums(&self) -> [u64; 3] {
        self.leases()
            .fold([0; 3], |[leased, reserved, untold], lease| {
                [
                    leased + lease.tokens(),
                    reserved + lease.reserved(),
                    untold.saturating_add(lease.untold()),
                ]
            })
    }

    pub fn standing(&self, allowance: &Allowance, now: &Reading) -> Standing {
        let span = now.span(allowance.period);
        let known = self.known.filter(|known| known.span == span);
        let remaining = allowance.limit.map_or(0, |limit| {
            if allowance.dry_run {
                let used = known.map_or(0, |known| known.used);
                return limit.saturating_sub(used.saturating_add(self.uncounted(span)));
            }
            let room = known.map_or(limit, |known| known.room(limit));
            room.saturating_add(self.free_in(span)).min(limit)
        });
        let left_ms = |end_ms: i64| u64::try_from(end_ms - now.earliest_ms).unwrap_or(0);
        Standing {
            limit: allowance.limit,
            remaining,
            reset: span.end_ms.map(left_ms).map(Duration::from_millis),
        }
    }
}
