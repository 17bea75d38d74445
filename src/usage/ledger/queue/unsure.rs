//! Rows that a new table acknowledged and may have swallowed all the same. They are sent once more
//! when it is old enough; what it did not swallow stands in it twice then, with the same id. Knows no
//! sink.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::QUEUE_ROWS;

/// The acknowledged rows of a new table, oldest first.
#[derive(Default)]
pub(super) struct Unsure {
    rows: VecDeque<String>,
    /// The table is new until then.
    until: Option<Instant>,
}

impl Unsure {
    /// The table will be new for so long.
    pub(super) fn expect(&mut self, new_for: Duration) {
        self.until = Some(Instant::now() + new_for);
    }

    /// Keeps acknowledged rows if the table is new; of too many the last ones, for all are in the log.
    pub(super) fn keep(&mut self, acknowledged: Vec<String>) {
        if self.until.is_some_and(|until| Instant::now() < until) {
            self.rows.extend(acknowledged);
            let beyond = self.rows.len().saturating_sub(QUEUE_ROWS);
            self.rows.drain(..beyond);
        }
    }

    /// When the kept rows are to be sent once more; `None` if there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until.filter(|_| !self.rows.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows_mut(&mut self) -> &mut VecDeque<String> {
        &mut self.rows
    }
}
