//! One model server: what is known of it, how it stands, how busy it is. Every question of ours that
//! goes there starts here; calls of clients are sent by `forward`.

mod asking;
mod notes;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::Url;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::access::{Access, ApiKey, Credentials};
use super::bound::Lessons;
use super::client::Client;
use super::counters::Meter;
use super::failure::Rejected;
use super::models::Knowledge;
use super::options::Refused;
use super::state::{Standing, State};
use crate::google::Fault;

/// What the configuration says of a target.
pub(super) struct Setup {
    pub client: Client,
    pub api_key: Option<ApiKey>,
    pub access: Option<Access>,
    pub scales_to_zero: bool,
    pub max_concurrent: Option<usize>,
    pub max_model_len: Option<u64>,
    /// Silence in a stream, after which it is given up.
    pub idle: Duration,
    /// How long calls wait for it to come up.
    pub start_limit: Duration,
    /// Told when calls that wait should look again.
    pub changed: Arc<Notify>,
}

/// A model server behind one base URL.
pub struct Target {
    /// As configured, for people.
    url: String,
    base: Url,
    setup: Setup,
    standing: Mutex<Standing>,
    knowledge: Mutex<Arc<Knowledge>>,
    /// Held while the target is asked, so that it is asked once however many wait. When it last
    /// told nothing.
    asking: tokio::sync::Mutex<Option<Instant>>,
    /// The one place of who finds out whether it is up.
    turn: Arc<Semaphore>,
    health: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// The `system_fingerprint` that its streams show.
    fingerprint: Mutex<Option<Bytes>>,
    lessons: Lessons,
    meter: Meter,
    refused: Refused,
    in_flight: AtomicUsize,
    wakes: AtomicU64,
    last_wake: Mutex<Option<Wake>>,
}

/// Who started a target that slept.
#[derive(Clone, Debug)]
pub struct Wake {
    pub at: SystemTime,
    /// The name of the key or user.
    pub by: Arc<str>,
}

/// Counts a call as in flight until it is dropped.
pub struct Busy {
    target: Arc<Target>,
    has_answer: bool,
    /// Until when the call waits for the target, if it is not up.
    until: Instant,
}

impl Busy {
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The target has begun to answer the call.
    pub(super) fn answered(&mut self) {
        self.has_answer = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let target = &self.target;
        let now = Instant::now();
        {
            let mut standing = lock(&target.standing);
            standing.used(now);
            if self.has_answer && standing.state(now, true) == State::Ready {
                standing.answered(now);
            }
        }
        target.in_flight.fetch_sub(1, Ordering::Relaxed);
        if target.setup.max_concurrent.is_some() {
            target.setup.changed.notify_waiters();
        }
    }
}

/// The place of the one call that finds out whether a target is up.
pub(super) type Turn = OwnedSemaphorePermit;

/// What a target has for a call that comes.
pub(super) enum Entry {
    /// It takes the call. The turn is for one that is not ready.
    Go(Busy, Option<Turn>),
    /// Another call finds out whether it is up.
    Wait,
    /// It has as many calls as it may have.
    Full,
    /// It would have to be started, which the caller may not.
    Asleep,
}

impl Target {
    /// # Errors
    /// When the base URL is none.
    pub(super) fn new(url: String, setup: impl FnOnce(&Url) -> Setup) -> anyhow::Result<Self> {
        let base = Url::parse(&url)?;
        let setup = setup(&base);
        let knowledge = Knowledge {
            default_context: setup.max_model_len,
            ..Knowledge::default()
        };
        Ok(Self {
            url,
            base,
            standing: Mutex::new(Standing::new(setup.scales_to_zero, setup.start_limit)),
            knowledge: Mutex::new(Arc::new(knowledge)),
            setup,
            asking: tokio::sync::Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            health: tokio::sync::Mutex::default(),
            fingerprint: Mutex::default(),
            lessons: Lessons::default(),
            meter: Meter::default(),
            refused: Refused::default(),
            in_flight: AtomicUsize::new(0),
            wakes: AtomicU64::new(0),
            last_wake: Mutex::default(),
        })
    }

    /// Base URL, without `/v1`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of one of its routes, below the path that the base URL may have.
    pub(super) fn route(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        match self.base.path().trim_end_matches('/') {
            "" => url.set_path(path),
            below => url.set_path(&format!("{below}{path}")),
        }
        url
    }

    pub(super) fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip: Result<std::net::IpAddr, _> = bare.parse();
        bare == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// It starts on a request, and sleeps without; asking it for its list would start a GPU.
    pub(super) fn scales_to_zero(&self) -> bool {
        self.setup.scales_to_zero
    }

    pub(super) fn client(&self) -> &Client {
        &self.setup.client
    }

    /// What it asks of those who call, if it is private.
    pub(super) fn access(&self) -> Option<&Access> {
        self.setup.access.as_ref()
    }

    /// What to show to it.
    pub(super) async fn credentials(&self) -> Result<Credentials, Fault> {
        let token = match &self.setup.access {
            Some(access) => access.header().await?,
            None => None,
        };
        let key = self.setup.api_key.as_ref().and_then(ApiKey::shown);
        Ok(Credentials { key, token })
    }

    /// Silence in a stream, after which it is given up.
    #[must_use]
    pub fn idle_limit(&self) -> Duration {
        self.setup.idle
    }

    #[must_use]
    pub fn state(&self) -> State {
        lock(&self.standing).state(Instant::now(), self.in_flight() > 0)
    }

    #[must_use]
    pub fn knowledge(&self) -> Arc<Knowledge> {
        lock(&self.knowledge).clone()
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// It has as many calls as it may have.
    pub(super) fn is_full(&self) -> bool {
        let most = self.setup.max_concurrent;
        most.is_some_and(|most| self.in_flight() >= most)
    }

    /// How often calls have started it.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn last_wake(&self) -> Option<Wake> {
        lock(&self.last_wake).clone()
    }

    /// How long it takes to come up, as measured.
    #[must_use]
    pub fn learnt_start(&self) -> Option<Duration> {
        lock(&self.standing).learnt_start()
    }

    /// What it shows while it does not answer is a start, not just a closed port.
    pub(super) fn is_held_off(&self) -> bool {
        lock(&self.standing).is_held_off()
    }

    /// Asking it something keeps nothing awake that might sleep, and it is likely to answer.
    pub(super) fn is_warm(&self) -> bool {
        match self.state() {
            State::Ready => !self.scales_to_zero() || self.is_in_use(),
            State::Unknown => !self.scales_to_zero(),
            State::Starting | State::Cold | State::Down => false,
        }
    }

    /// Model calls keep it awake already.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_flight() > 0 || lock(&self.standing).is_in_use(Instant::now())
    }

    /// But for one call nothing has gone on there for so long.
    pub(super) fn is_quiet_for(&self, time: Duration) -> bool {
        self.in_flight() <= 1 && lock(&self.standing).is_quiet_for(time, Instant::now())
    }

    /// Whether an answer is none of its own, or says that it is loading. Of a server that is known
    /// to be up and stays up, a page in between is no sign of a start.
    pub(super) fn is_held_off_by(&self, answer: &Rejected) -> bool {
        let may_start = self.scales_to_zero() || self.state() != State::Ready;
        answer.is_loading() || (answer.is_front_end() && (may_start || answer.is_google()))
    }

    /// It may have to be started for a call.
    pub(super) fn may_sleep(&self) -> bool {
        self.scales_to_zero() && self.state() != State::Ready
    }

    /// A call is finding out whether it is up.
    pub(super) fn is_tried(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// A call comes. `turn` is what it has of an earlier try; `wakes` if it may start what sleeps.
    pub(super) fn enter(self: &Arc<Self>, turn: Option<Turn>, wakes: bool) -> Entry {
        let turn = match self.state() {
            State::Ready => None,
            State::Down if wakes || !self.scales_to_zero() => None,
            State::Down => return Entry::Asleep,
            State::Unknown | State::Starting | State::Cold => {
                let place = turn.or_else(|| self.turn.clone().try_acquire_owned().ok());
                let Some(place) = place else {
                    return Entry::Wait;
                };
                if self.scales_to_zero() && !wakes {
                    return Entry::Asleep;
                }
                Some(place)
            }
        };
        let most = self.setup.max_concurrent.unwrap_or(usize::MAX);
        let entered =
            (self.in_flight).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| {
                (calls < most).then_some(calls + 1)
            });
        if entered.is_err() {
            return Entry::Full;
        }
        lock(&self.standing).used(Instant::now());
        let busy = Busy {
            target: self.clone(),
            has_answer: false,
            until: self.patience(Instant::now()),
        };
        Entry::Go(busy, turn)
    }

    /// What was learnt of the models' templates.
    pub(super) fn lessons(&self) -> &Lessons {
        &self.lessons
    }

    /// What its calls came to.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Which members of a call it was found to refuse.
    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    pub fn fingerprint(&self) -> Option<Bytes> {
        lock(&self.fingerprint).clone()
    }
}

/// The data behind these locks is whole after every statement, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        let setup = |base: &Url| Setup {
            client: Client::new().expect("a client"),
            api_key: None,
            access: None,
            scales_to_zero: crate::upstream::access::is_cloud_run(base),
            max_concurrent: None,
            max_model_len: None,
            idle: Duration::from_secs(1),
            start_limit: Duration::from_secs(1),
            changed: Arc::default(),
        };
        Target::new(url.to_owned(), setup).expect("a base URL")
    }

    #[test]
    fn routes_lie_below_the_path_of_the_base_url() {
        for (base, route) in [
            ("http://h:1", "http://h:1/v1/models"),
            ("http://h:1/", "http://h:1/v1/models"),
            ("https://h/a%2Fb/c", "https://h/a%2Fb/c/v1/models"),
            ("http://[::1]:8000/a/", "http://[::1]:8000/a/v1/models"),
        ] {
            assert_eq!(target(base).route("/v1/models").as_str(), route);
        }
    }

    #[test]
    fn this_machine_and_what_scales_to_zero_are_told_by_the_host() {
        for url in ["http://127.0.0.9:1", "http://[::1]", "http://LOCALHOST/v"] {
            assert!(target(url).is_loopback(), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "http://localhost.example",
            "http://[::2]",
        ] {
            assert!(!target(url).is_loopback(), "{url}");
        }
        assert!(target("https://m-abc.a.run.app").scales_to_zero());
        for url in ["http://m.run.app", "https://run.app.example", "https://h"] {
            assert!(!target(url).scales_to_zero(), "{url}");
        }
    }
}
