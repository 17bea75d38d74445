//! A call on its way to a server: who may take it is tried, the best first; what is not up is waited
//! for, by all calls together; and nothing is sent twice that may have begun.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Upstreams;
use super::alive::{LIFE_LIMIT, learn};
use super::models::{Silence, unknown_model};
use super::progress::Progress;
use super::request::Request;
use super::routing::{Candidate, Rank};
use super::send::Answer;
use super::state::State;
use super::target::{Entry, Target};
use super::trip::{Failure, Obstacle, Trip};
use super::unserved;
use crate::error::Error;

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
        self.check_foreseen(&request, request.model.as_deref())?;
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

    /// No server need be asked, nor woken, for what is refused anyway.
    fn check_foreseen(&self, request: &Request, name: Option<&str>) -> Result<(), Error> {
        let ids = name.and_then(|name| self.foreseen(name));
        match ids {
            Some(ids) => request.check_allowed(ids.into_iter().chain(name)),
            None => Ok(()),
        }
    }

    /// Who may take a call of this model. A list that lacks it is asked again where that starts
    /// nothing, for another program may have come up.
    async fn routes(&self, model: Option<&str>) -> Result<Vec<Rank>, Error> {
        self.learn_unasked(model).await;
        let ranks = self.ranks(model);
        if !ranks.is_empty() {
            return Ok(ranks);
        }
        let targets = self.targets.iter();
        let awake = targets.filter(|target| !target.scales_to_zero() || target.is_warm());
        let asked = awake.map(|target| target.learn_older(LIST_LIMIT, LIST_AGE));
        futures_util::future::join_all(asked).await;
        let ranks = self.ranks(model);
        if ranks.is_empty() {
            return Err(unknown_model().param("model"));
        }
        Ok(ranks)
    }

    /// Several upstreams share a model's calls only when it is known that they have it: those that
    /// nobody asked yet are asked, where that starts nothing. One that cannot be reached is left to
    /// the calls that try it.
    async fn learn_unasked(&self, model: Option<&str>) {
        let is_placed = |name| self.groups.iter().any(|group| group.places(name));
        if self.groups.len() < 2 || model.is_some_and(is_placed) {
            return;
        }
        let lists = self.groups.iter().filter(|group| group.models.is_empty());
        let unasked = lists.flat_map(|group| &group.targets).filter(|target| {
            target.state() == State::Unknown
                && !target.scales_to_zero()
                && target.knowledge().asked_at.is_none()
        });
        let asked = unasked.map(|target| async {
            let began = Instant::now();
            match target.learn_older(LIST_LIMIT, LIST_AGE).await {
                Err(Silence::Refused) => target.note_refusal(began),
                Err(Silence::Unreachable(_)) => target.note_unreachable(),
                Err(Silence::HeldOff) => target.note_held_off(began),
                Ok(_) | Err(Silence::Denied | Silence::Other) => {}
            }
        });
        futures_util::future::join_all(asked).await;
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
            // It has been waited for in vain, or one of its kind is being started already.
            let is_over = target.state() == State::Down && trip.has_awaited(target);
            let is_needless = is_hopeful && target.may_sleep() && !trip.has_turn(target);
            if is_over {
                trip.note_vain_wait(target);
            }
            if trip.is_spent(target) || is_over || is_needless {
                continue;
            }
            if let Err(error) = self.check_foreseen(request, candidate.name.as_deref()) {
                trip.rule_out(target, Obstacle::NotHere(error));
                continue;
            }
            if !request.endpoint.wakes() && target.may_sleep() {
                trip.rule_out(target, Obstacle::Asleep(unserved::asleep()));
                continue;
            }
            let is_other = |one: &Candidate| !Arc::ptr_eq(&one.target, target);
            let others = rank
                .iter()
                .filter(|one| is_other(one) && !trip.is_spent(&one.target));
            let has_choice = others
                .map(|one| one.target.state())
                .any(|state| state == State::Ready);
            trip.note_choice(has_choice);
            match self.visit(candidate, request, trip, progress).await? {
                Tried::Answered(answer) => return Ok(Tried::Answered(answer)),
                Tried::Hopeful => is_hopeful = true,
                Tried::InVain => {}
            }
        }
        Ok(Tried::hopeful_if(is_hopeful))
    }

    /// Tries one target, if it has room for the call and it is the call's turn.
    async fn visit(
        &self,
        candidate: &Candidate,
        request: &mut Request,
        trip: &mut Trip,
        progress: &Progress,
    ) -> Result<Tried, Error> {
        let target = &candidate.target;
        let (began, was) = (Instant::now(), target.state());
        let (busy, mut turn) = match target.enter(trip.take_turn(target), request.may_wake) {
            Entry::Go(busy, turn) => (busy, turn),
            Entry::Full => {
                trip.wait_for_room(true);
                return Ok(Tried::InVain);
            }
            Entry::Wait => {
                trip.wait_for_start(target, target.patience(began));
                let is_hopeful = was == State::Unknown || target.scales_to_zero();
                return Ok(Tried::hopeful_if(is_hopeful));
            }
            Entry::Asleep => {
                trip.rule_out(target, Obstacle::Asleep(unserved::may_not_wake()));
                return Ok(Tried::InVain);
            }
        };
        let is_start = turn.is_some() && target.scales_to_zero();
        let woke = is_start && was != State::Starting && target.note_wake(&request.by);
        progress.note(|passage| {
            passage.target = Some(target.clone());
            passage.woke |= woke;
        });
        let tried = async {
            let learnt = learn(target, busy.until().min(trip.deadline())).await;
            let is_silent = matches!(learnt, Err(Failure::Silent));
            if is_start || is_silent || began.elapsed() >= LIFE_LIMIT {
                // It was held until the server was up: that was its wait.
                trip.note_held_up(began);
            }
            progress.note(|passage| passage.wait_ms = trip.waited_ms());
            let known = learnt?;
            if target.state() == State::Ready {
                // Others need not wait for this call's end, here or elsewhere.
                turn = None;
                trip.drop_turns();
            } else if trip.has_choice() {
                // Another one is up: it is not tried out with a call.
                return Err(Failure::Silent);
            }
            trip.restore(&mut request.payload);
            self.attempt(request, candidate, (known, busy), progress)
                .await
        };
        match tried.await {
            Ok(answer) => return Ok(Tried::Answered(answer)),
            Err(Failure::Final(error)) => return Err(error),
            Err(failure) => meet(failure, target, began, trip),
        }
        if let Some(turn) = turn {
            trip.keep_turn(target, turn);
        }
        if !trip.is_spent(target) {
            // Whatever it is by now: it is tried again.
            trip.wait_for_start(target, target.patience(began));
        }
        let is_starting = target.state() == State::Starting;
        Ok(Tried::hopeful_if(is_starting && target.scales_to_zero()))
    }

    /// On a developer's machine nothing starts by itself: what does not come up cannot be reached.
    fn ends_unreachable(&self) -> bool {
        let is_plain = |target: &Arc<Target>| target.is_loopback() && !target.scales_to_zero();
        !self.on_cloud_run && self.targets.iter().all(is_plain)
    }
}

/// What came of trying a target, or a rank.
enum Tried {
    Answered(Answer),
    /// It is worth to wait for one of them before others are tried.
    Hopeful,
    InVain,
}

impl Tried {
    const fn hopeful_if(is_hopeful: bool) -> Self {
        if is_hopeful {
            Self::Hopeful
        } else {
            Self::InVain
        }
    }
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
