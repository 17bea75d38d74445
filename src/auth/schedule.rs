//! When the key set may be fetched and who waits for it. Pure: is told the time, starts nothing.

use std::time::Duration;

use tokio::time::Instant;

/// How long a request waits for the refresh of a set that is too old; a fetch that takes longer
/// is late.
pub(super) const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// After a failed or late fetch no request with a known key waits for so long.
const QUIET: Duration = Duration::from_secs(10);
/// The least time between a failed fetch and the next one that is due.
const RETRY_GAP: Duration = Duration::from_secs(1);
/// Early refreshes: so many at once, then one per interval.
const EARLY_BURST: u32 = 3;
const EARLY_INTERVAL: Duration = Duration::from_secs(5);

/// The fetches of one key ring: at most one runs at a time, and they are numbered from one.
#[derive(Default)]
pub(super) struct Schedule {
    begun: u64,
    ended: u64,
    running_since: Option<Instant>,
    failed_at: Option<Instant>,
    quiet_until: Option<Instant>,
    /// The time up to which early refreshes are used up; it may lie a burst ahead of the clock.
    early_used_until: Option<Instant>,
}

impl Schedule {
    /// How many fetches have begun.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether a fetch that began after the first `seen` ones has ended.
    pub fn has_ended_beyond(&self, seen: u64) -> bool {
        self.ended > seen
    }

    /// Number and begin of the fetch that is under way.
    pub fn running(&self) -> Option<(u64, Instant)> {
        self.running_since.map(|since| (self.begun, since))
    }

    pub fn begin(&mut self, now: Instant) -> u64 {
        self.begun += 1;
        self.running_since = Some(now);
        self.begun
    }

    /// Notes the end of the running fetch. Success in time ends the quiet; a late one, which may
    /// be late again, does not.
    pub fn end(&mut self, now: Instant, good: bool) {
        let took = self
            .running_since
            .take()
            .map(|since| now.duration_since(since));
        self.ended = self.begun;
        self.failed_at = (!good).then_some(now);
        if good && took.is_some_and(|took| took <= REFRESH_WAIT) {
            self.quiet_until = None;
        } else {
            self.quiet_until = Some(now + QUIET);
        }
    }

    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    /// When a fetch that is due may begin: a source that fails at once is not asked by each request.
    pub fn retry_at(&self) -> Option<Instant> {
        self.failed_at.map(|failed_at| failed_at + RETRY_GAP)
    }

    pub fn may_retry(&self, now: Instant) -> bool {
        self.retry_at().is_none_or(|at| at <= now)
    }

    /// Takes the permit for one early refresh.
    ///
    /// # Errors
    /// When the next one may begin.
    pub fn take_early(&mut self, now: Instant) -> Result<(), Instant> {
        let used_until = self.early_used_until.map_or(now, |until| until.max(now));
        let ahead = EARLY_INTERVAL * (EARLY_BURST - 1);
        if used_until > now + ahead {
            return Err(used_until - ahead);
        }
        self.early_used_until = Some(used_until + EARLY_INTERVAL);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn early_refreshes_come_three_at_once_then_one_per_five_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        for _ in 0..3 {
            assert_eq!(schedule.take_early(start), Ok(()));
        }
        assert_eq!(schedule.take_early(start), Err(start + 5 * SECOND));
        assert_eq!(
            schedule.take_early(start + 4 * SECOND),
            Err(start + 5 * SECOND)
        );
        assert_eq!(schedule.take_early(start + 5 * SECOND), Ok(()));
        assert_eq!(
            schedule.take_early(start + 5 * SECOND),
            Err(start + 10 * SECOND)
        );
        let later = start + 1_000 * SECOND;
        for _ in 0..3 {
            assert_eq!(
                schedule.take_early(later),
                Ok(()),
                "the burst comes back and no more"
            );
        }
        assert_eq!(schedule.take_early(later), Err(later + 5 * SECOND));
    }

    #[test]
    fn quiet_follows_failed_and_late_fetches_only() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begin(start);
        schedule.end(start + SECOND, true);
        assert!(!schedule.is_quiet(start + SECOND));
        schedule.begin(start + SECOND);
        schedule.end(start + 2 * SECOND, false);
        assert!(schedule.is_quiet(start + 11 * SECOND) && !schedule.is_quiet(start + 12 * SECOND));
        assert!(!schedule.may_retry(start + 2 * SECOND) && schedule.may_retry(start + 3 * SECOND));
        schedule.begin(start + 3 * SECOND);
        schedule.end(start + 4 * SECOND, true);
        assert!(!schedule.is_quiet(start + 4 * SECOND), "good again");
        schedule.begin(start + 20 * SECOND);
        schedule.end(start + 23 * SECOND, true);
        assert!(schedule.is_quiet(start + 24 * SECOND), "good but late");
    }
}
