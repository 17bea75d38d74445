//! Fetches of the key set and those who wait for them: one fetch at a time, shared by all. Knows
//! when a fetch may begin and how long each kind of caller waits, and nothing of headers.
//! A fetch is a task of its own, so a caller that leaves ends none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::current::{Age, Brought, Current};
use super::key::KeyHash;
use super::schedule::{REFRESH_WAIT, Schedule};
use super::source::Source;
use crate::google::Fault;

/// The longest that one fetch may take; then it has failed.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// How long a call waits for the first key set.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(10);
/// How long an unknown key waits for its early refresh: its turn, and one fetch.
const UNKNOWN_WAIT: Duration = Duration::from_secs(10);

/// The fetches of one key ring.
pub(super) struct Fetches {
    core: Arc<Core>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What fetches share with the requests that wait for them.
struct Core {
    source: Source,
    current: Current,
    schedule: Mutex<Schedule>,
    ended: watch::Sender<Ended>,
}

/// The last fetch that ended.
struct Ended {
    number: u64,
    outcome: Result<(), Fault>,
}

/// What a waiting caller does next.
enum Step {
    /// What it waited for has happened, or never will.
    Done,
    /// Until a fetch ends.
    Wait,
    /// Until a fetch ends or may begin.
    WaitUntil(Instant),
}

impl Fetches {
    pub fn new(source: Source, current: Current) -> Self {
        let core = Core {
            source,
            current,
            schedule: Mutex::default(),
            ended: watch::Sender::new(Ended {
                number: 0,
                outcome: Ok(()),
            }),
        };
        Self {
            core: Arc::new(core),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The place that keys come from, in words.
    pub fn source(&self) -> String {
        self.core.source.describe()
    }

    /// The key set in force.
    pub fn current(&self) -> &Current {
        &self.core.current
    }

    /// How many fetches have begun so far.
    pub fn begun(&self) -> u64 {
        self.core.schedule().begun()
    }

    /// Begins a fetch if none is under way and the last one did not fail just now.
    pub fn refresh_beside(&self) {
        self.begin_due(&mut self.core.schedule(), Instant::now());
    }

    /// Ends the fetch that may be under way and waits for its task; none begins afterwards.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until a fetch has ended that began after this call.
    pub async fn fetch_anew(&self) -> Result<(), Fault> {
        let mut ended = self.core.ended.subscribe();
        let seen = self.core.schedule().begun();
        // One that was under way, one of its own.
        let wait = async {
            loop {
                match self.step_anew(seen) {
                    Step::Done => break,
                    Step::Wait | Step::WaitUntil(_) => drop(ended.changed().await),
                }
            }
        };
        let in_time = timeout(2 * FETCH_LIMIT, wait).await.is_ok();
        let last = self.core.ended.borrow();
        if in_time && last.number > seen {
            return last.outcome.clone();
        }
        Err(Fault::transient("no fetch of the keys came to an end"))
    }

    fn step_anew(&self, seen: u64) -> Step {
        let mut schedule = self.core.schedule();
        if schedule.has_ended_beyond(seen) {
            return Step::Done;
        }
        if schedule.running().is_some() || self.begin(&mut schedule, Instant::now()) {
            Step::Wait
        } else {
            Step::Done
        }
    }

    /// The set is too old: waits for its refresh, unless the source failed or was late a moment ago.
    pub async fn await_refresh(&self) {
        let (number, begun_at) = {
            let now = Instant::now();
            let mut schedule = self.core.schedule();
            match self.begin_due(&mut schedule, now) {
                Some(running) if !schedule.is_quiet(now) => running,
                _ => return,
            }
        };
        let mut ended = self.core.ended.subscribe();
        let wait = ended.wait_for(|ended| ended.number >= number);
        // Nobody waits for a fetch that is late; its end begins the quiet time.
        drop(timeout_at(begun_at + REFRESH_WAIT, wait).await);
    }

    /// Waits for the first set, asking again for as long as fetches fail.
    pub async fn await_first(&self) {
        let mut ended = self.core.ended.subscribe();
        let wait = async {
            loop {
                match self.step_first() {
                    Step::Done => break,
                    Step::Wait => drop(ended.changed().await),
                    Step::WaitUntil(at) => drop(timeout_at(at, ended.changed()).await),
                }
            }
        };
        // The caller finds out whether there is a set.
        drop(timeout(FIRST_WAIT, wait).await);
    }

    fn step_first(&self) -> Step {
        let mut schedule = self.core.schedule();
        if self.core.current.age() != Age::Absent || self.stop.is_cancelled() {
            return Step::Done;
        }
        match (
            self.begin_due(&mut schedule, Instant::now()),
            schedule.retry_at(),
        ) {
            (None, Some(at)) => Step::WaitUntil(at),
            _ => Step::Wait,
        }
    }

    /// An unknown key: waits until a fetch that began after its request has ended, or until the
    /// key is known. All unknown keys wait for the same fetch.
    pub async fn await_early_refresh(&self, hash: &KeyHash, seen: u64) {
        let mut ended = self.core.ended.subscribe();
        let wait = async {
            loop {
                match self.step_early(seen) {
                    Step::Done => break,
                    Step::Wait => drop(ended.changed().await),
                    Step::WaitUntil(at) => tokio::select! {
                        () = sleep_until(at) => {}
                        _ = ended.changed() => {}
                    },
                }
                if self.core.current.look(hash, SystemTime::now()).1.is_some() {
                    break;
                }
            }
        };
        drop(timeout(UNKNOWN_WAIT, wait).await);
    }

    fn step_early(&self, seen: u64) -> Step {
        let now = Instant::now();
        let mut schedule = self.core.schedule();
        if schedule.has_ended_beyond(seen) || self.stop.is_cancelled() {
            return Step::Done;
        }
        if schedule.running().is_some() {
            return Step::Wait;
        }
        // A refresh that is due anyway takes none of the early ones.
        if self.core.current.age() != Age::Fresh && self.begin_due(&mut schedule, now).is_some() {
            return Step::Wait;
        }
        match schedule.take_early(now) {
            Ok(()) if self.begin(&mut schedule, now) => Step::Wait,
            Ok(()) => Step::Done,
            Err(at) => Step::WaitUntil(at),
        }
    }

    /// The fetch under way, or a new one unless the last one failed just now.
    fn begin_due(&self, schedule: &mut Schedule, now: Instant) -> Option<(u64, Instant)> {
        if schedule.running().is_none() && schedule.may_retry(now) {
            self.begin(schedule, now);
        }
        schedule.running()
    }

    /// Starts a fetch as a task; false if the ring is closed.
    fn begin(&self, schedule: &mut Schedule, now: Instant) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        let fetch = Fetch {
            core: Arc::clone(&self.core),
            number: schedule.begin(now),
            begun_at: now,
            outcome: None,
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = fetch.run() => {}
            }
        });
        true
    }
}

impl Core {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fetch under way. However it ends, also by being dropped, those who wait are told.
struct Fetch {
    core: Arc<Core>,
    number: u64,
    begun_at: Instant,
    outcome: Option<Result<Brought, Fault>>,
}

impl Fetch {
    async fn run(mut self) {
        let place = self.core.source.describe();
        let fetched = timeout(FETCH_LIMIT, self.core.source.fetch())
            .await
            .unwrap_or_else(|_| Err(Fault::transient(format!("{place} did not answer in time"))));
        self.outcome = Some(
            fetched.and_then(|fetched| self.core.current.install(&fetched, self.begun_at, &place)),
        );
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let given_up = || Err(Fault::transient("the fetch of the keys was given up"));
        let outcome = self.outcome.take().unwrap_or_else(given_up);
        self.core.current.note_end(&outcome);
        // Under the schedule's lock, so that nobody sees an end that is not announced yet.
        let mut schedule = self.core.schedule();
        schedule.end(Instant::now(), matches!(outcome, Ok(Brought::Newest)));
        self.core.ended.send_replace(Ended {
            number: self.number,
            outcome: outcome.map(drop),
        });
    }
}
