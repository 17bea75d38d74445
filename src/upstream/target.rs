//! One model server: what is known of it, how it stands, how busy it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::access::{self, Access};
use super::bound::Lessons;
use super::models::{Knowledge, Silence, ask};
use super::options::Refused;
use crate::google::Fault;

/// How long the list and the version may take before a call goes on without them.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// A list that lacks what a call needs is asked anew at most this often.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A target that could not be reached is tried again by one call after this time, while others take
/// the rest.
const AVOIDED: Duration = Duration::from_secs(10);

/// Whether a call should go to a target before it goes to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// It could not be reached a while ago, and this call finds out whether it can now.
    Retry,
    Usual,
    /// It could not be reached a moment ago.
    Last,
}

/// How a target stands, learnt from the calls themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was tried yet.
    Unknown,
    /// It refuses connections since then; calls wait for it.
    Starting(Instant),
    Ready,
    /// It refused connections for longer than calls wait; each call tries once.
    Down,
}

impl State {
    /// The word shown in `/ready` and `/admin/status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting(_) => "starting",
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

/// A model server behind one base URL.
pub struct Target {
    /// As configured, for people.
    url: String,
    base: Url,
    access: Option<Access>,
    state: Mutex<State>,
    /// When it could not be reached, or when that was last put to the test.
    unreached: Mutex<Option<Instant>>,
    knowledge: Mutex<Arc<Knowledge>>,
    /// Held while the target is asked, so that it is asked once however many wait. When it last
    /// refused to be asked.
    asking: tokio::sync::Mutex<Option<Instant>>,
    /// The `system_fingerprint` that its streams show.
    fingerprint: Mutex<Option<Bytes>>,
    lessons: Lessons,
    refused: Refused,
    in_flight: AtomicUsize,
}

/// Counts a call as in flight until it is dropped.
pub struct Busy(Arc<Target>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    /// # Errors
    /// When the base URL is none.
    pub(super) fn new(
        url: String,
        access: impl FnOnce(&Url) -> Option<Access>,
    ) -> anyhow::Result<Self> {
        let base = Url::parse(&url)?;
        Ok(Self {
            url,
            access: access(&base),
            base,
            state: Mutex::new(State::Unknown),
            unreached: Mutex::default(),
            knowledge: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            fingerprint: Mutex::default(),
            lessons: Lessons::default(),
            refused: Refused::default(),
            in_flight: AtomicUsize::new(0),
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

    /// Cloud Run services start on a request; asking one for its list would start a GPU.
    pub(super) fn scales_to_zero(&self) -> bool {
        access::is_cloud_run(&self.base)
    }

    /// What it asks of those who call, if it is private.
    pub(super) fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }

    /// The token to send; `None` where nothing is.
    pub(super) async fn token(&self) -> Result<Option<HeaderValue>, Fault> {
        match &self.access {
            Some(access) => access.header().await,
            None => Ok(None),
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        *lock(&self.state)
    }

    #[must_use]
    pub fn knowledge(&self) -> Arc<Knowledge> {
        lock(&self.knowledge).clone()
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Asking it something starts nothing, and it is likely to answer.
    pub(super) fn is_warm(&self) -> bool {
        match self.state() {
            State::Ready => true,
            State::Unknown => !self.scales_to_zero(),
            State::Starting(_) | State::Down => false,
        }
    }

    /// It may have to be started for a call.
    pub(super) fn may_sleep(&self) -> bool {
        self.scales_to_zero() && self.state() != State::Ready
    }

    /// What was learnt of the models' templates.
    pub(super) fn lessons(&self) -> &Lessons {
        &self.lessons
    }

    /// Which members of a call it was found to refuse.
    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    pub fn fingerprint(&self) -> Option<Bytes> {
        lock(&self.fingerprint).clone()
    }

    /// Remembers what a stream showed.
    pub fn note_fingerprint(&self, value: &Bytes) {
        let mut known = lock(&self.fingerprint);
        if known.as_ref() != Some(value) {
            // A copy: the slice would keep its whole network buffer alive.
            *known = Some(Bytes::copy_from_slice(value));
        }
    }

    /// When a call's turn comes to try this target. One call alone gets the retry.
    pub(super) fn claim_turn(&self) -> Turn {
        let mut unreached = lock(&self.unreached);
        match *unreached {
            None => Turn::Usual,
            Some(at) if at.elapsed() < AVOIDED => Turn::Last,
            Some(_) => {
                *unreached = Some(Instant::now());
                Turn::Retry
            }
        }
    }

    /// It cannot be reached, and waiting does not help: no such name, no trust.
    pub(super) fn note_unreachable(&self) {
        *lock(&self.unreached) = Some(Instant::now());
    }

    /// It answered something.
    pub(super) fn note_answer(&self) {
        *lock(&self.unreached) = None;
        let mut state = lock(&self.state);
        if *state != State::Ready {
            tracing::info!(
                upstream = self.url,
                was = state.as_str(),
                "upstream answers"
            );
            *state = State::Ready;
        }
    }

    /// It refused a connection. Tells whether the call may wait for it.
    pub(super) fn note_refusal(&self, limit: Duration) -> bool {
        self.note_unreachable();
        let mut state = lock(&self.state);
        let since = match *state {
            State::Down => return false,
            State::Starting(since) => since,
            State::Unknown | State::Ready => {
                tracing::warn!(
                    upstream = self.url,
                    "upstream refuses connections; calls wait for it"
                );
                let now = Instant::now();
                *state = State::Starting(now);
                // Another program may come up in its place: it is asked again, and until it
                // answers the old list is the last known one.
                let mut knowledge = lock(&self.knowledge);
                Arc::make_mut(&mut knowledge).asked_at = None;
                self.lessons.forget();
                self.refused.forget();
                now
            }
        };
        if since.elapsed() < limit {
            return true;
        }
        tracing::error!(
            upstream = self.url,
            waited_s = limit.as_secs(),
            "upstream does not come up"
        );
        *state = State::Down;
        false
    }

    /// Asks what the target serves, unless that is known; one asks, the others wait for it.
    pub(super) async fn learn(&self, client: &Client) -> Result<Arc<Knowledge>, Silence> {
        self.learn_if(client, ASK_LIMIT, |known| known.asked_at.is_none())
            .await
    }

    /// Asks again for a model that the known list lacks.
    pub(super) async fn learn_again(&self, client: &Client) -> Result<Arc<Knowledge>, Silence> {
        self.learn_older(client, ASK_LIMIT, ASK_AGAIN).await
    }

    /// Asks again what is older than `age`, waiting at most `limit`.
    pub(super) async fn learn_older(
        &self,
        client: &Client,
        limit: Duration,
        age: Duration,
    ) -> Result<Arc<Knowledge>, Silence> {
        self.learn_if(client, limit, |known| {
            known.asked_at.is_none_or(|at| at.elapsed() >= age)
        })
        .await
    }

    /// Takes `limit` at most, the wait for others that ask included.
    async fn learn_if(
        &self,
        client: &Client,
        limit: Duration,
        wanted: impl Fn(&Knowledge) -> bool,
    ) -> Result<Arc<Knowledge>, Silence> {
        let known = self.knowledge();
        if !wanted(&known) {
            return Ok(known);
        }
        let began = Instant::now();
        let deadline = began + limit;
        let Ok(mut refused_at) = timeout_at(deadline, self.asking.lock()).await else {
            return Ok(self.knowledge());
        };
        let known = self.knowledge();
        if !wanted(&known) {
            return Ok(known);
        }
        if refused_at.is_some_and(|at| at >= began) {
            // Who asked meanwhile found out for all that wait.
            return Err(Silence::Refused);
        }
        let learnt = match ask(client, self, deadline).await {
            Ok(learnt) => learnt,
            Err(Silence::Refused) => {
                *refused_at = Some(Instant::now());
                return Err(Silence::Refused);
            }
            // Nothing was learnt of it: the next call asks.
            Err(Silence::Denied) => return Err(Silence::Denied),
            // It listens but does not tell: calls go on without, and do not ask each time.
            Err(Silence::Other) => Knowledge {
                asked_at: Some(Instant::now()),
                ..(*known).clone()
            },
        };
        let merged = Arc::new(Knowledge {
            models: learnt.models.or_else(|| known.models.clone()),
            is_vllm: learnt.is_vllm.or(known.is_vllm),
            asked_at: learnt.asked_at,
        });
        *lock(&self.knowledge) = merged.clone();
        Ok(merged)
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
        Target::new(url.to_owned(), |_| None).expect("a base URL")
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

    #[tokio::test(start_paused = true)]
    async fn one_call_alone_tries_again_what_could_not_be_reached() {
        let target = target("http://h");
        assert_eq!(target.claim_turn(), Turn::Usual);
        target.note_unreachable();
        assert_eq!(target.claim_turn(), Turn::Last);
        tokio::time::advance(AVOIDED).await;
        assert_eq!(target.claim_turn(), Turn::Retry);
        assert_eq!(target.claim_turn(), Turn::Last);
    }
}
