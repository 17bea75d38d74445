//! How one model server stands, learnt from the calls themselves: the states and what moves a
//! server from one to another. Pure: the time is given, nobody is asked.

use std::time::Duration;

use tokio::time::Instant;

/// A server that scales to zero and gave no answer for so long is taken to be asleep.
const ASLEEP_AFTER: Duration = Duration::from_mins(10);
/// After an answer, for so long, a refusal of the platform in front says nothing of the server.
const WARM_FOR: Duration = Duration::from_mins(1);
/// A server that could not be reached is tried again by one call after this time, while others
/// take the rest.
const AVOIDED: Duration = Duration::from_secs(10);
/// After it said that it takes nothing new, for so long nobody else is there in its place. Calls
/// that wait ask at least every second.
const ENDING_FOR: Duration = Duration::from_secs(2);
/// So many failures on end, and other servers are preferred for a while.
const FAILURES: u32 = 3;

/// How a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was tried yet.
    Unknown,
    /// It does not answer yet; calls wait for it.
    Starting,
    Ready,
    /// It has scaled to zero, as far as one can tell; a call starts it.
    Cold,
    /// It did not come up for as long as calls wait, or cannot be reached at all; each call tries
    /// once.
    Down,
}

impl State {
    /// The word shown in `/ready`, `/admin/status` and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Cold => "cold",
            Self::Down => "down",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Starting,
        Self::Ready,
        Self::Cold,
        Self::Down,
    ];
}

/// The state of one target with what it hangs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Calls start it, and silence lets it sleep.
    scales_to_zero: bool,
    /// How long it may be starting.
    start_limit: Duration,
    stage: Stage,
    /// When it last answered anything.
    answered_at: Option<Instant>,
    /// When a model call was last under way there.
    used_at: Option<Instant>,
    /// When it last could not be reached, or when that was last put to the test.
    unreached_at: Option<Instant>,
    /// Calls that it failed, one after another, and when the last did.
    failures: u32,
    failed_at: Option<Instant>,
    /// When it last said that it finishes what it has and takes nothing new.
    ended_at: Option<Instant>,
    /// Something speaks for it, or takes calls and is silent: it is more than a closed port.
    is_held_off: bool,
    /// From the first refusal to the first answer, as measured.
    learnt_start: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Unknown,
    Starting(Instant),
    Ready,
    Cold,
    Down,
}

impl Standing {
    pub fn new(scales_to_zero: bool, start_limit: Duration) -> Self {
        Self {
            scales_to_zero,
            start_limit,
            stage: Stage::Unknown,
            answered_at: None,
            used_at: None,
            unreached_at: None,
            failures: 0,
            failed_at: None,
            ended_at: None,
            is_held_off: false,
            learnt_start: None,
        }
    }

    /// The state now; `is_used` while a model call is under way.
    pub fn state(&mut self, now: Instant, is_used: bool) -> State {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now.duration_since(at));
        match self.stage {
            Stage::Ready | Stage::Starting(_) | Stage::Down
                if self.scales_to_zero
                    && !is_used
                    && since(self.answered_at.max(self.used_at)) >= ASLEEP_AFTER =>
            {
                self.stage = Stage::Cold;
            }
            Stage::Starting(began) if now.duration_since(began) >= self.start_limit => {
                self.stage = Stage::Down;
            }
            _ => {}
        }
        match self.stage {
            Stage::Unknown => State::Unknown,
            Stage::Starting(_) => State::Starting,
            Stage::Ready => State::Ready,
            Stage::Cold => State::Cold,
            Stage::Down => State::Down,
        }
    }

    /// A model call goes there, or has ended.
    pub fn used(&mut self, now: Instant) {
        self.used_at = Some(now);
    }

    /// It answered something: the server itself, not what stands before it.
    pub fn answered(&mut self, now: Instant) {
        if let Stage::Starting(since) = self.stage {
            let took = now.duration_since(since);
            let before = self.learnt_start.unwrap_or(took);
            self.learnt_start = Some((before + took) / 2);
        }
        self.stage = Stage::Ready;
        self.answered_at = Some(now);
        self.unreached_at = None;
    }

    /// Nothing listens there, for a call that began to try at `began`.
    pub fn refused(&mut self, began: Instant, now: Instant) {
        self.unreached_at = Some(now);
        self.is_held_off = false;
        self.ended_at = None;
        self.starts(began);
    }

    /// What stands before it has nowhere to send a call, or it says that it is not ready. Tells
    /// whether it is starting: one that answered a moment ago is not, and the call alone waits.
    pub fn held_off(&mut self, began: Instant, now: Instant) -> bool {
        let is_warm = |at: Instant| now.duration_since(at) < WARM_FOR;
        if matches!(self.stage, Stage::Ready) && self.answered_at.is_some_and(is_warm) {
            return false;
        }
        self.is_held_off = true;
        self.starts(began);
        true
    }

    /// It took a call and gave no sign of life for a while.
    pub fn silent(&mut self, began: Instant) {
        self.is_held_off = true;
        if matches!(self.stage, Stage::Unknown | Stage::Cold) {
            self.stage = Stage::Starting(began);
        }
    }

    /// There is no way to it: no such name, no trust. Waiting does not help.
    pub fn unreachable(&mut self, now: Instant) {
        self.unreached_at = Some(now);
        self.stage = Stage::Down;
    }

    /// It answered a call as it should.
    pub fn served(&mut self) {
        self.failures = 0;
        self.failed_at = None;
    }

    /// It failed a call that it had taken.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// It takes no more calls, though it may still answer some.
    pub fn ends(&mut self, now: Instant) {
        self.failures = FAILURES;
        self.failed_at = Some(now);
        self.ended_at = Some(now);
    }

    /// It begins nothing new, by what it said a moment ago.
    pub fn is_ending(&self, now: Instant) -> bool {
        self.ended_at
            .is_some_and(|at| now.duration_since(at) < ENDING_FOR)
    }

    /// When waiting for it ends; `None` unless it is starting.
    pub fn starting_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting(since) => Some(since + self.start_limit),
            _ => None,
        }
    }

    /// How long it takes to come up, as measured.
    pub fn learnt_start(&self) -> Option<Duration> {
        self.learnt_start
    }

    /// What it shows while it does not answer is a start, not just a closed port.
    pub fn is_held_off(&self) -> bool {
        self.is_held_off
    }

    /// Model calls keep it awake already, so a question of ours does not.
    pub fn is_in_use(&self, now: Instant) -> bool {
        self.used_at
            .is_some_and(|at| now.duration_since(at) < WARM_FOR)
    }

    /// It has answered nothing for so long.
    pub fn is_quiet_for(&self, time: Duration, now: Instant) -> bool {
        self.answered_at
            .is_some_and(|at| now.duration_since(at) >= time)
    }

    /// Calls of late all failed there: others are preferred.
    pub fn is_failing(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < AVOIDED;
        self.failures >= FAILURES && self.failed_at.is_some_and(is_recent)
    }

    /// Whether a call should find out if it can be reached again. One call alone is told so.
    pub fn claim_retry(&mut self, now: Instant) -> bool {
        match self.unreached_at {
            Some(at) if now.duration_since(at) >= AVOIDED => {
                self.unreached_at = Some(now);
                true
            }
            _ => false,
        }
    }

    fn starts(&mut self, began: Instant) {
        if matches!(self.stage, Stage::Unknown | Stage::Cold | Stage::Ready) {
            self.stage = Stage::Starting(began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(4);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_measured_and_ends_in_ready() {
        let t0 = Instant::now();
        let mut standing = Standing::new(true, LIMIT);
        assert_eq!(standing.state(t0, false), State::Unknown);
        standing.silent(t0);
        assert_eq!(standing.state(after(t0, 5), true), State::Starting);
        assert_eq!(standing.learnt_start(), None);
        assert!(standing.is_held_off());
        standing.answered(after(t0, 80));
        assert_eq!(standing.state(after(t0, 80), true), State::Ready);
        assert_eq!(standing.learnt_start(), Some(Duration::from_secs(80)));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_makes_cold_only_what_scales_to_zero_and_is_not_used() {
        let t0 = Instant::now();
        for scales in [true, false] {
            let mut standing = Standing::new(scales, LIMIT);
            standing.answered(t0);
            standing.used(t0);
            assert_eq!(standing.state(after(t0, 599), false), State::Ready);
            assert_eq!(standing.state(after(t0, 600), true), State::Ready);
            let asleep = if scales { State::Cold } else { State::Ready };
            assert_eq!(standing.state(after(t0, 600), false), asleep);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_platform_that_turns_a_call_away_says_nothing_of_a_server_that_just_answered() {
        let t0 = Instant::now();
        let mut standing = Standing::new(true, LIMIT);
        standing.answered(t0);
        assert!(!standing.held_off(after(t0, 59), after(t0, 59)));
        assert_eq!(standing.state(after(t0, 59), false), State::Ready);
        assert!(standing.held_off(after(t0, 61), after(t0, 61)));
        assert_eq!(standing.state(after(t0, 61), true), State::Starting);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_up_is_down_until_it_answers_or_is_forgotten() {
        let t0 = Instant::now();
        let mut standing = Standing::new(true, LIMIT);
        standing.used(t0);
        standing.refused(t0, t0);
        assert_eq!(standing.state(after(t0, 239), true), State::Starting);
        assert_eq!(standing.state(after(t0, 240), true), State::Down);
        standing.refused(after(t0, 250), after(t0, 250));
        assert_eq!(standing.state(after(t0, 250), true), State::Down);
        assert_eq!(standing.state(after(t0, 600), false), State::Cold);
        standing.refused(after(t0, 601), after(t0, 601));
        assert_eq!(standing.state(after(t0, 601), true), State::Starting);
        standing.unreachable(after(t0, 602));
        assert_eq!(standing.state(after(t0, 602), true), State::Down);
        standing.answered(after(t0, 603));
        assert_eq!(standing.state(after(t0, 603), true), State::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_alone_tries_again_what_could_not_be_reached() {
        let t0 = Instant::now();
        let mut standing = Standing::new(false, LIMIT);
        assert!(!standing.claim_retry(t0));
        standing.unreachable(t0);
        assert!(!standing.claim_retry(after(t0, 9)));
        assert!(standing.claim_retry(after(t0, 10)));
        assert!(!standing.claim_retry(after(t0, 10)));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_on_end_make_others_preferred_for_a_while() {
        let t0 = Instant::now();
        let mut standing = Standing::new(false, LIMIT);
        standing.failed(t0);
        standing.failed(t0);
        assert!(!standing.is_failing(t0));
        standing.failed(t0);
        assert!(standing.is_failing(after(t0, 9)));
        assert!(!standing.is_failing(after(t0, 10)));
        standing.served();
        assert!(!standing.is_failing(t0));
    }
}
