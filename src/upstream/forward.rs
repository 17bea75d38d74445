//! A call on its way to a server: who may take it is tried, the best first; what is not up is waited
//! for, by all calls together; and nothing is sent twice that may have begun.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Upstreams;
use super::failure;
use super::models::unknown_model;
use super::progress::Progress;
use super::request::Request;
use super::routing::Rank;
use super::send::{Answer, Failure};
use super::state::State;
use super::target::{Entry, Target};
use super::trip::{Obstacle, Trip};
use crate::error::{Code, Error};

/// A list that lacks what a call needs is asked anew when it is older than this.
const LIST_AGE: Duration = Duration::from_secs(10);
const LIST_LIMIT: Duration = Duration::from_secs(2);

impl Upstreams {
    /// Brings a call to a model server.
    ///
    /// # Errors
    /// What the client is told when no server took the call.
    pub async fn forward(
        &self,
        mut request: Request,
        progress: &Progress,
    ) -> Result<Answer, Error> {
        if let Some(name) = request.model.as_deref()
            && let Some(ids) = self.foreseen(name)
        {
            // No server need be asked, nor woken, for what is refused anyway.
            request.check_allowed(ids)?;
        }
        let original = (self.targets.len() > 1).then(|| request.payload.clone());
        let mut trip = Trip::new(self.limits.cold_start_wait, original);
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let ranks = self.routes(request.model.as_deref()).await?;
            for mut rank in ranks {
                self.sort(&mut rank, request.affinity);
                let tried = self.try_each(&rank, &mut request, &mut trip, progress);
                match tried.await? {
                    Tried::Answered(answer) => return Ok(answer),
                    Tried::Hopeful => break,
                    Tried::InVain => {}
                }
            }
            let waited = trip.wait(&self.room, changed).await?;
            progress.note(|passage| passage.wait_ms = trip.waited_ms());
            if !waited {
                return Err(trip.give_up(self.ends_unreachable()));
            }
        }
    }

    /// Who may take a call of this model. A list that lacks it is asked again where that starts
    /// nothing, for another program may have come up.
    async fn routes(&self, model: Option<&str>) -> Result<Vec<Rank>, Error> {
        let ranks = self.ranks(model);
        if !ranks.is_empty() {
            return Ok(ranks);
        }
        let warm = self.targets.iter().filter(|target| target.is_warm());
        let asked = warm.map(|target| target.learn_older(LIST_LIMIT, LIST_AGE));
        futures_util::future::join_all(asked).await;
        let ranks = self.ranks(model);
        if ranks.is_empty() {
            return Err(unknown_model().param("model"));
        }
        Ok(ranks)
    }

    /// Tries the targets of a rank in their order.
    async fn try_each(
        &self,
        rank: &Rank,
        request: &mut Request,
        trip: &mut Trip,
        progress: &Progress,
    ) -> Result<Tried, Error> {
        let mut is_hopeful = false;
        for candidate in rank {
            let target = &candidate.target;
            let was = target.state();
            // It has been waited for in vain, or one of its kind is being started already.
            let is_over = was == State::Down && trip.has_awaited(target);
            let is_needless = is_hopeful && target.may_sleep() && !trip.has_turn(target);
            if trip.is_spent(target) || is_over || is_needless {
                continue;
            }
            if !request.endpoint.wakes() && target.may_sleep() {
                trip.rule_out(target, Obstacle::Asleep(failure::asleep()));
                continue;
            }
            let began = Instant::now();
            let (busy, turn) = match target.enter(trip.take_turn(target), request.may_wake) {
                Entry::Go(busy, turn) => (busy, turn),
                Entry::Full => {
                    trip.wait_for_room(true);
                    continue;
                }
                Entry::Wait => {
                    is_hopeful |= was == State::Unknown || target.scales_to_zero();
                    trip.wait_for_start(target, target.patience(began));
                    continue;
                }
                Entry::Asleep => {
                    trip.rule_out(target, Obstacle::Asleep(failure::may_not_wake()));
                    continue;
                }
            };
            if turn.is_some() && target.may_sleep() {
                trip.note_held_up(began);
                if was != State::Starting {
                    target.note_wake(&request.by);
                    progress.note(|passage| passage.woke = true);
                }
            }
            progress.note(|passage| {
                passage.target = Some(target.clone());
                passage.wait_ms = trip.waited_ms();
            });
            trip.restore(&mut request.payload);
            let failure = match self.attempt(request, candidate, busy, progress).await {
                Ok(answer) => {
                    self.note_home(request.affinity, target);
                    return Ok(Tried::Answered(answer));
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => failure,
            };
            meet(failure, target, began, trip);
            if target.state() == State::Starting {
                is_hopeful |= target.scales_to_zero();
                trip.wait_for_start(target, target.patience(began));
            }
            if let Some(turn) = turn {
                trip.keep_turn(target, turn);
            }
        }
        Ok(if is_hopeful {
            Tried::Hopeful
        } else {
            Tried::InVain
        })
    }

    /// On a developer's machine nothing starts by itself: what does not come up cannot be reached.
    fn ends_unreachable(&self) -> bool {
        let is_plain = |target: &Arc<Target>| target.is_loopback() && !target.scales_to_zero();
        !self.on_cloud_run && self.targets.iter().all(is_plain)
    }
}

/// What came of trying a rank.
enum Tried {
    Answered(Answer),
    /// It is worth to wait for one of them before others are tried.
    Hopeful,
    InVain,
}

/// What a failure says of the target, and of this call's chances there.
fn meet(failure: Failure, target: &Arc<Target>, began: Instant, trip: &mut Trip) {
    match failure {
        Failure::Final(_) => {}
        Failure::NotHere(error) => trip.rule_out(target, Obstacle::NotHere(error)),
        Failure::NoToken(error) => trip.rule_out(target, Obstacle::NoToken(error)),
        Failure::Overloaded(error) => trip.rule_out(target, Obstacle::Overloaded(error)),
        Failure::Unreachable(cause) => {
            target.note_unreachable();
            trip.rule_out(target, Obstacle::Unreachable(cause));
        }
        Failure::Refused(cause) => {
            target.note_refusal(began);
            trip.note_cause(cause);
            if target.state() == State::Down {
                trip.rule_out(target, Obstacle::Unreachable(None));
            }
        }
        Failure::HeldOff => {
            target.note_held_off(began);
            trip.note_held_off();
            match target.state() {
                State::Ready => trip.wait_for_room(false),
                State::Down => trip.rule_out(target, Obstacle::Unreachable(None)),
                State::Unknown | State::Starting | State::Cold => {}
            }
        }
        Failure::Draining => {
            target.note_ending();
            trip.wait_for_room(false);
        }
        Failure::Silent => {
            trip.note_held_off();
            trip.rule_out(target, Obstacle::Unreachable(None));
        }
    }
}

/// Another target may have the model, or one that the key may call.
pub(super) fn is_about_model(error: &Error) -> bool {
    matches!(error.code(), Code::ModelNotFound | Code::ModelNotAllowed)
}
