//! The engine's own counters held against what was counted here. The difference are tokens that no row
//! accounts for. Knows no calls, only what they came to; nothing hangs on it.

mod account;
mod reading;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use account::{Account, Entered};
use reading::Reading;

use super::Upstreams;
use super::target::{Target, lock};

pub use account::Comparison;

/// An engine notices within a fraction of this that a client has gone, and its counters follow its
/// last chunk.
const LAG: Duration = Duration::from_secs(1);
/// A page costs the engine's front end some milliseconds.
const PAUSE: Duration = Duration::from_secs(5);
/// After a page that could not be had or understood.
const LONG_PAUSE: Duration = Duration::from_mins(5);
/// Under load that never ends for so long, what is under way is tolerated.
const PATIENCE: Duration = Duration::from_mins(2);
/// A target without calls for longer is not asked, whatever held us up: it may sleep by then.
const RECENT: Duration = Duration::from_secs(30);
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Pages are some 100 KB.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What the calls of one target came to, and how that compares with the engine's own count.
#[derive(Default)]
pub struct Meter {
    tally: Mutex<Tally>,
    account: Mutex<Account>,
    /// A call has left.
    left: Notify,
}

/// The calls of one target so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Calls that are there and have not settled.
    open: usize,
    /// Calls that were there and have settled.
    closed: u64,
    /// When the last one did, by two clocks: one may stop while the machine is suspended, the other
    /// may be set.
    closed_at: Option<(Instant, SystemTime)>,
    /// All that settled calls used, as an engine counts.
    tokens: u64,
}

/// A call's stay at a target, from its choice until the call has settled.
pub(super) struct Stay(Arc<Target>);

impl Meter {
    /// A call has settled that used so many tokens, as an engine counts.
    pub fn note_settled(&self, tokens: u64) {
        let mut tally = lock(&self.tally);
        tally.tokens = tally.tokens.saturating_add(tokens);
    }

    /// The last comparison; `None` before there was one, since the engine was started anew, and where
    /// there is nothing to compare with.
    #[must_use]
    pub fn comparison(&self) -> Option<Comparison> {
        lock(&self.account).last()
    }

    /// Since when tokens are compared, if they are.
    #[must_use]
    pub fn compared_since(&self) -> Option<SystemTime> {
        lock(&self.account).since()
    }

    fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    fn open(&self) {
        lock(&self.tally).open += 1;
    }

    fn close(&self) {
        let mut tally = lock(&self.tally);
        tally.open -= 1;
        tally.closed += 1;
        tally.closed_at = Some((Instant::now(), SystemTime::now()));
        drop(tally);
        self.left.notify_one();
    }
}

impl Stay {
    pub(super) fn begin(target: Arc<Target>) -> Self {
        target.meter().open();
        Self(target)
    }

    pub(super) fn is_at(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(&self.0, target)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.meter().close();
    }
}

impl Tally {
    fn is_recent(&self) -> bool {
        self.closed_at.is_some_and(|(steady, wall)| {
            let by_wall = wall.elapsed().unwrap_or_default();
            steady.elapsed().max(by_wall) < RECENT
        })
    }

    /// Calls of which the engine may have counted more or less than was counted here, for they were
    /// there between this tally and a later one.
    fn blurred_by(&self, later: &Self) -> u64 {
        let open = u64::try_from(self.open.max(later.open)).unwrap_or(u64::MAX);
        open.saturating_add(later.closed - self.closed)
    }
}

impl Upstreams {
    /// Compares for ever: after calls, never on its own account.
    pub async fn watch_counters(&self) {
        let watches = self.targets.iter().map(|target| {
            let ask = || ask(target);
            watch(target.url(), target.meter(), ask)
        });
        futures_util::future::join_all(watches).await;
    }
}

async fn watch<F: Future<Output = Option<Reading>>>(
    upstream: &str,
    meter: &Meter,
    ask: impl Fn() -> F,
) {
    let mut busy_since = None;
    loop {
        meter.left.notified().await;
        sleep(LAG).await;
        let before = meter.tally();
        if !before.is_recent() {
            continue;
        }
        let is_endless = busy_since.is_some_and(|since: Instant| since.elapsed() >= PATIENCE);
        if before.open > 0 && !is_endless {
            busy_since.get_or_insert_with(Instant::now);
            continue;
        }
        let Some(reading) = ask().await else {
            sleep(LONG_PAUSE).await;
            continue;
        };
        let after = meter.tally();
        let blurred = before.blurred_by(&after);
        if blurred == 0 || is_endless {
            busy_since = None;
            let entered = lock(&meter.account).enter(reading, after.tokens, blurred);
            if entered == Entered::Several {
                tracing::warn!(
                    upstream,
                    "several engines answer at one address: their counters are not compared with what was counted here"
                );
            }
        }
        sleep(PAUSE).await;
    }
}

/// The counters; `None` if there are none to be had. Whoever is not known to be vLLM has others, or
/// none, and is not asked.
async fn ask(target: &Target) -> Option<Reading> {
    if target.knowledge().is_vllm != Some(true) {
        return None;
    }
    let asked = async {
        let headers = target.credentials().await.ok()?.headers();
        let url = target.route("/metrics");
        target.client().get(url, headers, PAGE_BYTES).await.ok()
    };
    let (status, page) = timeout(ASK_LIMIT, asked).await.ok()??;
    if status != StatusCode::OK || page.len() >= PAGE_BYTES {
        return None;
    }
    Reading::parse(std::str::from_utf8(&page).ok()?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Watches an engine that counts what the meter does, while `calls` go on; when it was asked, in
    /// seconds.
    async fn watched(meter: &Meter, calls: impl Future<Output = ()>) -> Vec<u64> {
        let asked = RefCell::new(Vec::new());
        let began = Instant::now();
        let ask = || async {
            asked.borrow_mut().push(began.elapsed().as_secs());
            Some(Reading {
                tokens: meter.tally().tokens,
                started_ms: Some(1),
            })
        };
        tokio::select! {
            () = watch("http://h", meter, ask) => {}
            () = calls => {}
        }
        asked.into_inner()
    }

    async fn call(meter: &Meter, lasts: Duration) {
        meter.open();
        sleep(lasts).await;
        meter.note_settled(10);
        meter.close();
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_is_asked_after_calls_and_then_left_alone() {
        let meter = Meter::default();
        let asked = watched(&meter, async {
            for _ in 0..4 {
                call(&meter, Duration::from_millis(1500)).await;
                sleep(Duration::from_millis(1500)).await;
            }
            sleep(Duration::from_hours(1)).await;
        });
        // Calls ended at 1.5, 4.5, 7.5 and 10.5.
        assert_eq!(asked.await, [2, 8, 14]);
        let last = meter.comparison().unwrap();
        assert_eq!((last.engine_tokens, last.unaccounted_tokens), (30, 0));
        assert_eq!(last.blurred_by, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_without_end_what_is_under_way_is_tolerated_and_told() {
        let meter = Meter::default();
        let one = async {
            loop {
                call(&meter, Duration::from_secs(3)).await;
            }
        };
        let other = async {
            sleep(Duration::from_secs(1)).await;
            loop {
                call(&meter, Duration::from_secs(3)).await;
            }
        };
        let asked = watched(&meter, async {
            tokio::select! {
                () = one => {}
                () = other => {}
                () = sleep(Duration::from_mins(5)) => {}
            }
        });
        let asked = asked.await;
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked[0] >= 120 && asked[1] >= asked[0] + 120, "{asked:?}");
        assert!(meter.comparison().unwrap().blurred_by >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_target_that_was_just_in_use_is_asked() {
        let mut tally = Tally::default();
        assert!(!tally.is_recent());
        tally.closed_at = Some((Instant::now(), SystemTime::now()));
        assert!(tally.is_recent());
        tokio::time::advance(RECENT).await;
        assert!(!tally.is_recent(), "time has passed");
        // The machine slept, and its steady clock with it.
        tally.closed_at = Some((Instant::now(), SystemTime::now() - RECENT));
        assert!(!tally.is_recent());
    }

    #[test]
    fn a_call_between_two_tallies_blurs_them_even_if_it_came_and_went() {
        let quiet = Tally::default();
        assert_eq!(quiet.blurred_by(&quiet), 0);
        let came = Tally { open: 2, ..quiet };
        assert_eq!(quiet.blurred_by(&came), 2);
        assert_eq!(came.blurred_by(&Tally { closed: 2, ..quiet }), 4);
        assert_eq!(quiet.blurred_by(&Tally { closed: 1, ..quiet }), 1);
    }
}
