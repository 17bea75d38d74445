//! What one call has met on its way to a server: where it waits, what was tried in vain, and what
//! its client is told when there is nothing left to try. Sends nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::request::Payload;
use super::state::State;
use super::target::{Target, Turn};
use super::unserved;
use crate::error::{Code, Error};

/// Pause between attempts at a target that takes no calls.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// One call on its way.
pub struct Trip {
    began: Instant,
    /// The call's body as it came, for the next target; `None` where there is but one.
    original: Option<Payload>,
    has_choice: bool,
    /// How long it may wait.
    limit: Duration,
    pause: Duration,
    /// Its place among the calls that wait.
    place: Option<OwnedSemaphorePermit>,
    /// Since when it waits, or tries what is not up.
    held_up_since: Option<Instant>,
    /// Targets of which it is this call's turn to find out whether they are up.
    turns: Vec<(usize, Turn)>,
    /// Targets that need not be tried again for this call.
    spent: Vec<usize>,
    /// Targets that this call has waited for.
    awaited: Vec<usize>,
    /// Until when it is worth to wait; `None` if there is nothing to wait for.
    until: Option<Instant>,
    /// What to tell the client, the first that is there.
    overloaded: Option<Error>,
    asleep: Option<Error>,
    no_token: Option<Error>,
    not_here: Option<Error>,
    /// All targets have as many calls as they may have.
    is_full: bool,
    /// What is in the way may pass: a start, a drain.
    is_held_off: bool,
    /// How long a start takes.
    learnt: Option<Duration>,
    cause: Option<reqwest::Error>,
}

/// What keeps one target from taking the call.
pub enum Obstacle {
    /// Its queue is full.
    Overloaded(Error),
    /// It sleeps, and is not started for this call.
    Asleep(Error),
    /// There is nothing to show to it.
    NoToken(Error),
    /// It does not have the model, or not for this caller.
    NotHere(Error),
    /// There is no way to it.
    Unreachable(Option<reqwest::Error>),
}

/// Why one target brought no answer. But for `Final`, the engine has not begun.
pub enum Failure {
    /// The client is told; no other target is tried.
    Final(Error),
    /// It does not have the model, or not for this caller.
    NotHere(Error),
    /// There is nothing to show to the target, which is private.
    NoToken(Error),
    /// Its queue is full.
    Overloaded(Error),
    /// Nothing listens there.
    Refused(Option<reqwest::Error>),
    /// There is no way to it: no such name, no trust.
    Unreachable(Option<reqwest::Error>),
    /// What stands before it has nowhere to send the call, or it is loading.
    HeldOff,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It gave no sign of life for as long as calls wait for a start.
    Silent,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if is_about_model(&error) {
            Self::NotHere(error)
        } else {
            Self::Final(error)
        }
    }
}

impl Trip {
    pub fn new(limit: Duration, original: Option<Payload>) -> Self {
        Self {
            began: Instant::now(),
            original,
            has_choice: false,
            limit,
            pause: PAUSE_FIRST,
            place: None,
            held_up_since: None,
            turns: Vec::new(),
            spent: Vec::new(),
            awaited: Vec::new(),
            until: None,
            overloaded: None,
            asleep: None,
            no_token: None,
            not_here: None,
            is_full: false,
            is_held_off: false,
            learnt: None,
            cause: None,
        }
    }

    /// The call goes to a target: what was written into its body for another is taken out.
    pub fn restore(&mut self, payload: &mut Payload) {
        if let Some(original) = &self.original {
            payload.clone_from(original);
        }
    }

    pub fn take_turn(&mut self, target: &Arc<Target>) -> Option<Turn> {
        let at = self.turns.iter().position(|(of, _)| *of == id(target))?;
        Some(self.turns.swap_remove(at).1)
    }

    pub fn keep_turn(&mut self, target: &Arc<Target>, turn: Turn) {
        self.turns.push((id(target), turn));
    }

    /// The call goes on its way: others may find out about the rest.
    pub fn drop_turns(&mut self) {
        self.turns.clear();
    }

    /// Whether another target could take the call at once.
    pub fn note_choice(&mut self, has_choice: bool) {
        self.has_choice = has_choice;
    }

    pub fn has_choice(&self) -> bool {
        self.has_choice
    }

    /// When its patience ends.
    pub fn deadline(&self) -> Instant {
        self.began + self.limit
    }

    pub fn has_turn(&self, target: &Arc<Target>) -> bool {
        self.turns.iter().any(|(of, _)| *of == id(target))
    }

    pub fn is_spent(&self, target: &Arc<Target>) -> bool {
        self.spent.contains(&id(target))
    }

    pub fn has_awaited(&self, target: &Arc<Target>) -> bool {
        self.awaited.contains(&id(target))
    }

    /// The target will not take this call.
    pub fn rule_out(&mut self, target: &Arc<Target>, obstacle: Obstacle) {
        self.spent.push(id(target));
        let (place, error) = match obstacle {
            Obstacle::Overloaded(error) => (&mut self.overloaded, error),
            Obstacle::Asleep(error) => (&mut self.asleep, error),
            Obstacle::NoToken(error) => (&mut self.no_token, error),
            Obstacle::NotHere(error) => (&mut self.not_here, error),
            Obstacle::Unreachable(cause) => {
                self.cause = cause.or(self.cause.take());
                return;
            }
        };
        *place = Some(error);
    }

    /// The target may come up by then.
    pub fn wait_for_start(&mut self, target: &Arc<Target>, until: Instant) {
        if !self.has_awaited(target) {
            self.awaited.push(id(target));
        }
        self.learnt = target.learnt_start().or(self.learnt);
        self.is_held_off |= target.is_held_off();
        let until = until.min(self.deadline());
        if Instant::now() < until {
            self.until = self.until.max(Some(until));
        } else {
            // Whoever tries it has no answer yet: one that refuses would be known to.
            self.is_held_off |= target.state() == State::Unknown;
        }
    }

    /// The target was waited for and did not come up.
    pub fn note_vain_wait(&mut self, target: &Arc<Target>) {
        self.is_held_off |= target.is_held_off();
    }

    /// The target is up, but has nothing for this call at the moment.
    pub fn wait_for_room(&mut self, is_full: bool) {
        self.is_full |= is_full;
        self.is_held_off |= !is_full;
        let until = self.deadline();
        if Instant::now() < until {
            self.until = self.until.max(Some(until));
        }
    }

    /// Something else than the connection stood in the way.
    pub fn note_held_off(&mut self) {
        self.is_held_off = true;
    }

    pub fn note_cause(&mut self, cause: Option<reqwest::Error>) {
        self.cause = cause.or(self.cause.take());
    }

    /// It waits since then, if it did not before.
    pub fn note_held_up(&mut self, since: Instant) {
        self.held_up_since.get_or_insert(since);
    }

    /// How long it has waited for a server, in milliseconds.
    pub fn waited_ms(&self) -> u64 {
        let waited = self.held_up_since.map_or(Duration::ZERO, |at| at.elapsed());
        u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until `changed` or for a while. `false` if there is nothing to wait for.
    ///
    /// # Errors
    /// `upstream_starting` when too many wait already.
    pub async fn wait(
        &mut self,
        room: &Arc<Semaphore>,
        changed: impl Future<Output = ()>,
    ) -> Result<bool, Error> {
        let Some(until) = self.until.take() else {
            return Ok(false);
        };
        if self.place.is_none() {
            let Ok(place) = room.clone().try_acquire_owned() else {
                return Err(unserved::crowded(self.learnt));
            };
            self.place = Some(place);
            self.note_held_up(self.began);
        }
        let next = until.min(Instant::now() + self.pause);
        tokio::select! {
            () = changed => {}
            () = sleep_until(next) => {}
        }
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        Ok(true)
    }

    /// What the client is told. `ends_unreachable` if a server that does not come up is said to be
    /// out of reach.
    pub fn give_up(self, ends_unreachable: bool) -> Error {
        let known = self.overloaded.or(self.asleep).or(self.no_token);
        if let Some(error) = known.or(self.not_here) {
            return error;
        }
        if self.is_full {
            let text = "the model server has as many calls as it may have; try again in a moment";
            return Error::new(Code::Overloaded, text).retry_after(Duration::from_secs(2));
        }
        let has_waited = self.began.elapsed() >= self.limit / 2 && !self.awaited.is_empty();
        if self.is_held_off || (has_waited && !ends_unreachable) {
            return unserved::starting(self.learnt);
        }
        unserved::unreachable(self.cause)
    }
}

fn id(target: &Arc<Target>) -> usize {
    Arc::as_ptr(target).addr()
}

/// Another target may have the model, or one that the key may call.
fn is_about_model(error: &Error) -> bool {
    matches!(error.code(), Code::ModelNotFound | Code::ModelNotAllowed)
}
