//! What is known of the database, from what became of the operations on it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::StoreError;

/// Between two questions to a database that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// An operation that was left unfinished after so long was left because nobody answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has not answered yet.
    #[default]
    Unknown,
    Ready,
    /// It has answered, but not the last time.
    Down,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

#[derive(Default)]
pub(super) struct Standing {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    state: State,
    /// It was told that it is away.
    is_told: bool,
    asked_at: Option<Instant>,
}

impl Standing {
    pub(super) fn state(&self) -> State {
        self.lock().state
    }

    /// Whether it is to be asked again, now: true once a second at most, and never while it
    /// answers.
    pub(super) fn may_ask(&self) -> bool {
        let mut known = self.lock();
        let is_due = known.asked_at.is_none_or(|at| at.elapsed() >= PAUSE);
        let may = is_due && known.state != State::Ready;
        if may {
            known.asked_at = Some(Instant::now());
        }
        may
    }

    /// Begins to watch an operation.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch {
            standing: self,
            began: Instant::now(),
            is_over: false,
        }
    }

    /// Notes what became of an operation, and tells of changes.
    fn note<T>(&self, outcome: &Result<T, StoreError>) {
        let mut known = self.lock();
        let was_told = known.is_told;
        match outcome {
            Ok(_) => {
                known.state = State::Ready;
                known.is_told = false;
                drop(known);
                if was_told {
                    tracing::info!("the database of users and budgets answers");
                }
            }
            Err(cause) if cause.is_outage() => {
                if known.state == State::Ready {
                    known.state = State::Down;
                }
                known.is_told = true;
                drop(known);
                if !was_told {
                    let cause = chain(cause);
                    tracing::error!(cause, "the database of users and budgets does not answer");
                }
            }
            Err(_) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation under way, whose caller may leave it.
pub(super) struct Watch<'s> {
    standing: &'s Standing,
    began: Instant,
    is_over: bool,
}

impl Watch<'_> {
    pub(super) fn end<T>(mut self, outcome: &Result<T, StoreError>) {
        self.is_over = true;
        self.standing.note(outcome);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.began.elapsed() >= PATIENCE {
            let late = StoreError::late("the database did not answer before its caller left");
            self.standing.note::<()>(&Err(late));
        }
    }
}

/// The causes of an error in one line.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
