//! Rows in their order, what became of the others, and when the next ones are due. Knows no sink.

mod unsure;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::unsure::Unsure;

/// Rows in memory at most, those on their way to the sink included.
pub(super) const QUEUE_ROWS: usize = 10_000;
/// Rows in one write at most.
pub(super) const BATCH_ROWS: usize = 500;
/// Bytes of rows in one write at most, unless one row alone has more: BigQuery takes ten million.
const BATCH_BYTES: usize = 8_000_000;
/// How long the first row of a batch waits for others.
pub(super) const GATHER: Duration = Duration::from_millis(200);
/// Pause after a failed write; doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The same where somebody must change something first.
const PAUSE_MAX_PERMANENT: Duration = Duration::from_mins(1);
/// The same while the process ends.
const PAUSE_MAX_DRAINING: Duration = Duration::from_secs(1);
/// Faults of one kind are told once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What became of the rows so far: settled = written + invalid + lost + waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerStats {
    /// Not yet acknowledged by the sink.
    pub waiting: usize,
    /// Acknowledged by the sink.
    pub written: u64,
    /// Refused by the sink for good; in the log alone.
    pub invalid: u64,
    /// In the log alone, because the queue was full.
    pub lost: u64,
    pub attempts: Attempts,
    /// When the sink last acknowledged a row.
    pub last_written: Option<SystemTime>,
    /// Why rows wait, or what else is wrong with the sink.
    pub failing: Option<String>,
}

/// Writes so far, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// All rows acknowledged.
    pub whole: u64,
    /// Some rows refused.
    pub partial: u64,
    /// Failed, and may succeed by itself.
    pub failed: u64,
    /// Refused until somebody changes something.
    pub refused: u64,
}

#[derive(Default)]
pub(super) struct Queue {
    rows: VecDeque<String>,
    in_flight: usize,
    /// When the oldest row in `rows` came.
    since: Option<Instant>,
    stats: LedgerStats,
    pause: Duration,
    resume_at: Option<Instant>,
    unsure: Unsure,
    /// The last failure was to make the sink ready.
    unprepared: bool,
    failing: Option<Failure>,
    note: Option<String>,
    draining: bool,
    told_lost: Option<Instant>,
    told_failing: Option<Instant>,
}

/// Why rows do not reach the sink, until some do.
struct Failure {
    text: String,
    /// It will fail until somebody changes something.
    permanent: bool,
    /// It was told, so that its end is worth telling.
    told: bool,
}

#[derive(Debug)]
pub(super) struct Pushed {
    pub first: bool,
    pub full: bool,
    /// Lost so far, if it is time to say so.
    pub tell_lost: Option<u64>,
}

/// What to do about the next batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Take,
    /// Until a batch is full, at most until then.
    WaitUntil(Instant),
    /// Until there are rows, at most until then.
    WaitForRows(Option<Instant>),
}

/// Rows on their way to the sink.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub rows: Vec<String>,
    /// They were acknowledged before, by a sink that may have swallowed them.
    pub once_more: bool,
}

impl Queue {
    pub(super) fn waiting(&self) -> usize {
        self.rows.len() + self.in_flight
    }

    pub(super) fn stats(&self) -> LedgerStats {
        let failing = self.failing.as_ref();
        LedgerStats {
            waiting: self.waiting(),
            failing: failing
                .map(|failure| &failure.text)
                .or(self.note.as_ref())
                .cloned(),
            ..self.stats.clone()
        }
    }

    /// Adds a row; the oldest one goes if there is no room.
    pub(super) fn push(&mut self, row: String) -> Pushed {
        let mut tell_lost = None;
        if self.waiting() >= QUEUE_ROWS {
            tell_lost = self.lose_oldest();
        }
        self.since.get_or_insert_with(Instant::now);
        self.rows.push_back(row);
        Pushed {
            first: self.rows.len() == 1,
            full: self.rows.len() == BATCH_ROWS,
            tell_lost,
        }
    }

    fn lose_oldest(&mut self) -> Option<u64> {
        // If all rows are in flight there is none to lose, and one more than the bound.
        self.rows.pop_front()?;
        self.stats.lost += 1;
        is_due(&mut self.told_lost).then_some(self.stats.lost)
    }

    /// A row that needs no sink is out.
    pub(super) fn write_unqueued(&mut self) {
        self.stats.written += 1;
    }

    /// A row that could not be made.
    pub(super) fn lose_unqueued(&mut self) {
        self.stats.lost += 1;
    }

    pub(super) fn next(&self) -> Next {
        let now = Instant::now();
        let resume_at = self.resume_at.unwrap_or(now);
        let unsure = self.unsure.due().filter(|_| !self.draining);
        let unsure = unsure.map(|due| due.max(resume_at));
        if unsure.is_some_and(|due| due <= now) {
            return Next::Take;
        }
        let Some(since) = self.since else {
            return Next::WaitForRows(unsure);
        };
        let full = self.rows.len() >= BATCH_ROWS;
        let due = if full { since } else { since + GATHER };
        let due = due.max(resume_at);
        if due <= now {
            Next::Take
        } else {
            Next::WaitUntil(due)
        }
    }

    /// The oldest rows, as many as one write takes; those to be sent once more come first.
    pub(super) fn take(&mut self) -> Taken {
        let due = self.unsure.due().filter(|_| !self.draining);
        if due.is_some_and(|due| due <= Instant::now()) {
            return Taken {
                rows: one_write(self.unsure.rows_mut()),
                once_more: true,
            };
        }
        let rows = one_write(&mut self.rows);
        self.in_flight += rows.len();
        if self.rows.is_empty() {
            self.since = None;
        }
        Taken {
            rows,
            once_more: false,
        }
    }

    /// Rows that were taken and not written are the oldest again.
    pub(super) fn give_back(&mut self, taken: Taken) {
        let rows = if taken.once_more {
            self.unsure.rows_mut()
        } else {
            self.in_flight -= taken.rows.len();
            if !taken.rows.is_empty() {
                // They have waited already.
                let now = Instant::now();
                self.since = Some(now.checked_sub(GATHER).unwrap_or(now));
            }
            &mut self.rows
        };
        for row in taken.rows.into_iter().rev() {
            rows.push_front(row);
        }
    }

    /// Rows that were taken and reached the sink, and how many it refused for good.
    pub(super) fn settle(&mut self, written: Vec<String>, invalid: usize) {
        self.in_flight -= written.len() + invalid;
        self.stats.written += written.len() as u64;
        self.stats.invalid += invalid as u64;
        if !written.is_empty() {
            self.stats.last_written = Some(SystemTime::now());
        }
        self.unsure.keep(written);
    }

    /// A write ended well for all rows, or for all but some; true if it is time to say so.
    pub(super) fn succeed(&mut self, whole: bool) -> bool {
        if whole {
            self.stats.attempts.whole += 1;
        } else {
            self.stats.attempts.partial += 1;
        }
        self.pause = Duration::ZERO;
        self.resume_at = None;
        self.recover()
    }

    fn recover(&mut self) -> bool {
        self.failing.take().is_some_and(|failure| failure.told)
    }

    /// The sink may have rows, and for so long swallow them. True if it was not ready before and it is
    /// time to say so.
    pub(super) fn prepared(&mut self, new_for: Option<Duration>, note: Option<String>) -> bool {
        self.note = note;
        if let Some(new_for) = new_for {
            self.unsure.expect(new_for);
        }
        if !std::mem::take(&mut self.unprepared) {
            return false;
        }
        self.pause = Duration::ZERO;
        self.recover()
    }

    /// Acknowledged rows that are to be sent once more.
    pub(super) fn unsure(&self) -> usize {
        self.unsure.len()
    }

    /// The sink cannot be made ready; [`Queue::fail`] follows.
    pub(super) fn unprepared(&mut self) {
        self.unprepared = true;
    }

    /// Notes a failed write and pauses; true if it is time to say so.
    pub(super) fn fail(&mut self, text: String, permanent: bool) -> bool {
        if permanent {
            self.stats.attempts.refused += 1;
        } else {
            self.stats.attempts.failed += 1;
        }
        let now = Instant::now();
        // Writes that fail side by side are one failure.
        if self.resume_at.is_none_or(|at| at <= now) {
            let longest = match (self.draining, permanent) {
                (true, _) => PAUSE_MAX_DRAINING,
                (false, true) => PAUSE_MAX_PERMANENT,
                (false, false) => PAUSE_MAX,
            };
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, longest);
            self.resume_at = Some(now + self.pause);
        }
        let tell = is_due(&mut self.told_failing);
        let told = tell || self.failing.take().is_some_and(|before| before.told);
        self.failing = Some(Failure {
            text,
            permanent,
            told,
        });
        tell
    }

    pub(super) fn is_refused(&self) -> bool {
        self.failing
            .as_ref()
            .is_some_and(|failure| failure.permanent)
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.resume_at
    }

    /// The process ends: pauses so far are over and the next are short.
    pub(super) fn hurry(&mut self) {
        self.draining = true;
        self.pause = Duration::ZERO;
        self.resume_at = None;
    }
}

/// Takes as many rows as one write may have.
fn one_write(rows: &mut VecDeque<String>) -> Vec<String> {
    let mut bytes = 0;
    let fitting = rows.iter().take(BATCH_ROWS).take_while(|row| {
        bytes += row.len();
        bytes <= BATCH_BYTES
    });
    let count = fitting.count().max(1).min(rows.len());
    rows.drain(..count).collect()
}

fn is_due(told: &mut Option<Instant>) -> bool {
    let due = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
    if due {
        *told = Some(Instant::now());
    }
    due
}
