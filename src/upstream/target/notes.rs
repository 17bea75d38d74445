//! What calls and questions have shown of a target, written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Target, Wake, lock};
use crate::upstream::alive::LIFE_LIMIT;
use crate::upstream::state::{Standing, State};

impl Target {
    /// A call of this key or user starts it. `false` if another did so a moment ago and left.
    pub(in crate::upstream) fn note_wake(&self, by: &Arc<str>) -> bool {
        {
            let mut last_wake = lock(&self.last_wake);
            let last = last_wake.as_ref().and_then(|wake| wake.at.elapsed().ok());
            if last.is_some_and(|since| since < LIFE_LIMIT) {
                return false;
            }
            *last_wake = Some(Wake {
                at: SystemTime::now(),
                by: by.clone(),
            });
        }
        self.wakes.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            upstream = self.url,
            by = &**by,
            "a call starts the upstream"
        );
        true
    }

    /// It answered something itself.
    pub(in crate::upstream) fn note_answer(&self) {
        self.change(Standing::answered);
    }

    /// It answered a call as it should, or failed it.
    pub(in crate::upstream) fn note_served(&self, served: bool) {
        let mut standing = lock(&self.standing);
        if served {
            standing.served();
        } else {
            standing.failed(Instant::now());
        }
    }

    /// It said a moment ago that it takes no new calls.
    pub(in crate::upstream) fn is_ending(&self) -> bool {
        lock(&self.standing).is_ending(Instant::now())
    }

    /// It takes no new calls, though it may still answer others.
    pub(in crate::upstream) fn note_ending(&self) {
        lock(&self.standing).ends(Instant::now());
    }

    /// Nothing listens there.
    pub(in crate::upstream) fn note_refusal(&self, began: Instant) {
        self.change(|standing, now| standing.refused(began, now));
    }

    /// What stands before it has nowhere to send the call, or it is loading.
    pub(in crate::upstream) fn note_held_off(&self, began: Instant) {
        self.change(|standing, now| {
            standing.held_off(began, now);
        });
    }

    /// It took a call and gave no sign of life for a while.
    pub(in crate::upstream) fn note_silence(&self, began: Instant) {
        self.change(|standing, _| standing.silent(began));
    }

    /// There is no way to it.
    pub(in crate::upstream) fn note_unreachable(&self) {
        self.change(Standing::unreachable);
    }

    /// Until when a call that began to try then goes on waiting for it.
    pub(in crate::upstream) fn patience(&self, began: Instant) -> Instant {
        let until = lock(&self.standing).starting_until();
        until.unwrap_or(began + self.setup.start_limit)
    }

    fn change(&self, change: impl FnOnce(&mut Standing, Instant)) {
        let now = Instant::now();
        let (was, is) = {
            let mut standing = lock(&self.standing);
            let was = standing.state(now, true);
            change(&mut standing, now);
            (was, standing.state(now, true))
        };
        if was == is {
            return;
        }
        let (upstream, was, state) = (self.url.as_str(), was.as_str(), is.as_str());
        match is {
            State::Ready => {
                let start_ms = (self.learnt_start())
                    .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                tracing::info!(upstream, was, start_ms, "upstream answers");
            }
            State::Starting | State::Down => {
                tracing::warn!(upstream, was, state, "upstream does not answer");
                // Another program may come up in its place: it is asked again, and until it
                // answers the old list is the last known one.
                Arc::make_mut(&mut lock(&self.knowledge)).asked_at = None;
                self.lessons.forget();
                self.refused.forget();
            }
            State::Unknown | State::Cold => {}
        }
        self.setup.changed.notify_waiters();
    }

    /// Remembers what a stream showed.
    pub fn note_fingerprint(&self, value: &Bytes) {
        let mut known = lock(&self.fingerprint);
        if known.as_ref() != Some(value) {
            // A copy: the slice would keep its whole network buffer alive.
            *known = Some(Bytes::copy_from_slice(value));
        }
    }

    pub(in crate::upstream) fn is_failing(&self) -> bool {
        lock(&self.standing).is_failing(Instant::now())
    }

    pub(in crate::upstream) fn claim_retry(&self) -> bool {
        lock(&self.standing).claim_retry(Instant::now())
    }
}
