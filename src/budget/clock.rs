//! Time as budgets need it: what has passed here, also while the machine slept, and what the
//! database's clock says. Asks the system for the time in one place; the rest is pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, OffsetDateTime};
use tokio::time::Instant;

use super::Period;

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// A point in time of this instance, by two clocks: one of them may stop while the machine is
/// suspended, the other may be set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The longer of what the two clocks saw pass.
    pub fn since(&self, earlier: &Self) -> Duration {
        let steady = self.steady.saturating_duration_since(earlier.steady);
        let wall = self.wall.duration_since(earlier.wall);
        steady.max(wall.unwrap_or_default())
    }

    #[cfg(test)]
    pub fn of(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    fn wall_ms(&self) -> i64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since)
    }
}

/// One period of a budget, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start_ms: i64,
    /// The next period's start; `None` for a total.
    pub end_ms: Option<i64>,
}

impl Span {
    pub fn of(period: Period, now_ms: i64) -> Self {
        match period {
            Period::Total => Self {
                start_ms: 0,
                end_ms: None,
            },
            Period::Day => {
                let start_ms = day_ms(now_ms);
                Self {
                    start_ms,
                    end_ms: Some(start_ms + DAY_MS),
                }
            }
            Period::Month => {
                let today = OffsetDateTime::from_unix_timestamp(now_ms.div_euclid(1_000))
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH)
                    .date();
                let (start, next) = months_around(today);
                Self {
                    start_ms: midnight_ms(start),
                    end_ms: Some(midnight_ms(next)),
                }
            }
        }
    }

    pub fn holds(&self, now_ms: i64) -> bool {
        now_ms >= self.start_ms && self.end_ms.is_none_or(|end_ms| now_ms < end_ms)
    }
}

/// The first of this month and of the next.
fn months_around(today: Date) -> (Date, Date) {
    let start = today.replace_day(1).unwrap_or(today);
    let month = start.month().next();
    let year = start.year() + i32::from(month == time::Month::January);
    let next = Date::from_calendar_date(year, month, 1).unwrap_or(Date::MAX);
    (start, next)
}

fn midnight_ms(date: Date) -> i64 {
    date.midnight().assume_utc().unix_timestamp() * 1_000
}

/// Start of the UTC day.
pub(super) fn day_ms(now_ms: i64) -> i64 {
    now_ms - now_ms.rem_euclid(DAY_MS)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The database's clock, as far as its last answer tells; before the first, this machine's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock(Option<Answer>);

#[derive(Clone, Copy, Debug)]
struct Answer {
    now_ms: i64,
    asked: Moment,
    came: Moment,
}

impl Clock {
    /// An exchange that was sent at `asked` has told the time.
    pub fn learn(&mut self, now_ms: i64, asked: Moment, came: Moment) {
        // Answers may overtake one another.
        if self.0.is_none_or(|last| last.asked.steady <= asked.steady) {
            self.0 = Some(Answer {
                now_ms,
                asked,
                came,
            });
        }
    }

    pub fn read(&self, at: Moment) -> Reading {
        let Some(answer) = self.0 else {
            let now_ms = at.wall_ms();
            return Reading {
                at,
                earliest_ms: now_ms,
                latest_ms: now_ms,
            };
        };
        Reading {
            at,
            earliest_ms: answer.now_ms + millis(at.since(&answer.came)),
            latest_ms: answer.now_ms + millis(at.since(&answer.asked)),
        }
    }
}

/// What time it is: here, and between which two times at the database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub at: Moment,
    pub earliest_ms: i64,
    pub latest_ms: i64,
}

impl Reading {
    /// The period that is on for certain, or was a moment ago.
    pub fn span(&self, period: Period) -> Span {
        Span::of(period, self.earliest_ms)
    }

    pub fn day_ms(&self) -> i64 {
        day_ms(self.earliest_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        let format = &time::format_description::well_known::Rfc3339;
        OffsetDateTime::parse(text, format)
            .unwrap()
            .unix_timestamp()
            * 1_000
    }

    #[test]
    fn periods_begin_and_end_with_the_calendar_in_utc() {
        let cases = [
            (
                Period::Day,
                "2026-02-28T23:59:59Z",
                "2026-02-28T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ),
            (
                Period::Month,
                "2028-02-29T12:00:00Z",
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
            ),
            (
                Period::Month,
                "2026-12-31T23:59:59Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                Period::Month,
                "2027-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
                "2027-02-01T00:00:00Z",
            ),
        ];
        for (period, now, start, end) in cases {
            let span = Span::of(period, ms(now));
            assert_eq!(
                (span.start_ms, span.end_ms),
                (ms(start), Some(ms(end))),
                "{now}"
            );
            assert!(span.holds(ms(now)) && !span.holds(ms(end)) && !span.holds(ms(start) - 1));
        }
        let total = Span::of(Period::Total, ms("2026-12-31T23:59:59Z"));
        assert_eq!((total.start_ms, total.end_ms), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_stood_still_does_not_hide_time() {
        let steady = Instant::now();
        let wall = UNIX_EPOCH + Duration::from_secs(1_000);
        let before = Moment::of(steady, wall);
        let second = Duration::from_secs(1);
        // The machine slept for an hour; or its clock was set back by one.
        let slept = Moment::of(steady + second, wall + 3_600 * second);
        let set_back = Moment::of(steady + 3_600 * second, wall - second);
        assert_eq!(slept.since(&before), 3_600 * second);
        assert_eq!(set_back.since(&before), 3_600 * second);
        assert_eq!(before.since(&slept), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_databases_time_lies_between_question_and_answer() {
        let second = Duration::from_secs(1);
        let at = |seconds: u32| {
            Moment::of(
                Instant::now() + seconds * second,
                UNIX_EPOCH + seconds * second,
            )
        };
        let mut clock = Clock::default();
        assert_eq!(clock.read(at(7)).earliest_ms, 7_000);
        clock.learn(1_000_000, at(10), at(12));
        let reading = clock.read(at(20));
        assert_eq!(
            (reading.earliest_ms, reading.latest_ms),
            (1_008_000, 1_010_000)
        );
        clock.learn(5, at(9), at(13));
        assert_eq!(
            clock.read(at(20)).earliest_ms,
            1_008_000,
            "an older question"
        );
    }
}
