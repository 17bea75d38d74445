//! Failed logins, counted per user and address and per address: whoever guesses is slowed down,
//! and nobody is locked out by somebody else's guesses. Knows no passwords.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Failures of one user and address without a pause.
const FREE_FAILURES: u32 = 5;
/// The pause after those; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After this long without a failure they are forgotten.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Failures of one address, whoever it says to be, and the time they count in.
const ADDRESS_FAILURES: u32 = 50;
const ADDRESS_WINDOW: Duration = Duration::from_secs(5 * 60);
/// Registrations of one address, and the time they count in.
const REGISTRATIONS: u32 = 20;
const REGISTRATION_WINDOW: Duration = Duration::from_secs(60 * 60);
/// Records of each kind; the least recently used goes.
const RECORDS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// A user's name as it was given, if it is one, and the address that gave it.
type Pair = (Box<str>, IpAddr);

/// What failed lately.
pub struct Throttle {
    records: Mutex<Records>,
}

struct Records {
    pairs: LruCache<Pair, Guesses>,
    failures: Windows,
    registrations: Windows,
}

#[derive(Clone, Copy)]
struct Guesses {
    failures: u32,
    /// Attempts whose outcome is not known.
    pending: u32,
    last: Instant,
}

/// An attempt that may go on. Dropped without word it counts as failed: leaving early must not
/// make guesses free.
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    pair: Option<Pair>,
}

/// Which bound an attempt passed with its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    Pair,
    Address,
}

impl Throttle {
    #[must_use]
    pub fn new() -> Self {
        Self {
            records: Mutex::new(Records {
                pairs: LruCache::new(RECORDS),
                failures: Windows::new(ADDRESS_FAILURES, ADDRESS_WINDOW),
                registrations: Windows::new(REGISTRATIONS, REGISTRATION_WINDOW),
            }),
        }
    }

    /// Lets an attempt to log in go on. `name` is bounded by the caller.
    ///
    /// # Errors
    /// How long to wait, at most a minute.
    pub fn begin(&self, name: &str, client: IpAddr) -> Result<Attempt<'_>, Duration> {
        let now = Instant::now();
        let address = group(client);
        let pair: Pair = (name.into(), address);
        let mut records = self.records();
        records.failures.room(address, now)?;
        let guesses = records.pairs.get_or_insert_mut(pair.clone(), || Guesses {
            failures: 0,
            pending: 0,
            last: now,
        });
        if now.duration_since(guesses.last) >= MEMORY {
            guesses.failures = 0;
        }
        if guesses.failures >= FREE_FAILURES {
            let ends = guesses.last + pause(guesses.failures);
            if ends > now {
                return Err(ends - now);
            }
            if guesses.pending > 0 {
                return Err(Duration::from_secs(1));
            }
        }
        guesses.pending += 1;
        Ok(Attempt {
            throttle: self,
            pair: Some(pair),
        })
    }

    /// Counts a registration.
    ///
    /// # Errors
    /// How long to wait, at most a minute.
    pub fn register(&self, client: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let address = group(client);
        let mut records = self.records();
        records.registrations.room(address, now)?;
        records.registrations.count(address, now);
        Ok(())
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, pair: Pair) -> Option<Burst> {
        let now = Instant::now();
        let mut records = self.records();
        let address_is_full = records.failures.count(pair.1, now);
        let guesses = records.pairs.get_or_insert_mut(pair, || Guesses {
            failures: 0,
            pending: 1,
            last: now,
        });
        guesses.pending = guesses.pending.saturating_sub(1);
        guesses.failures = guesses.failures.saturating_add(1);
        guesses.last = now;
        match (guesses.failures, address_is_full) {
            (FREE_FAILURES, _) => Some(Burst::Pair),
            (_, true) => Some(Burst::Address),
            _ => None,
        }
    }
}

impl Attempt<'_> {
    /// The password was right: what failed before is forgotten.
    pub fn succeed(mut self) {
        if let Some(pair) = self.pair.take()
            && let Some(guesses) = self.throttle.records().pairs.get_mut(&pair)
        {
            guesses.failures = 0;
            guesses.pending = guesses.pending.saturating_sub(1);
        }
    }

    /// Nothing was learnt from it.
    pub fn withdraw(mut self) {
        if let Some(pair) = self.pair.take()
            && let Some(guesses) = self.throttle.records().pairs.get_mut(&pair)
        {
            guesses.pending = guesses.pending.saturating_sub(1);
        }
    }

    /// The password was wrong, or there is no such user.
    pub fn fail(mut self) -> Option<Burst> {
        self.pair.take().and_then(|pair| self.throttle.fail(pair))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(pair) = self.pair.take() {
            self.throttle.fail(pair);
        }
    }
}

/// Events per address within fixed windows.
struct Windows {
    most: u32,
    length: Duration,
    counts: LruCache<IpAddr, (Instant, u32)>,
}

impl Windows {
    fn new(most: u32, length: Duration) -> Self {
        Self {
            most,
            length,
            counts: LruCache::new(RECORDS),
        }
    }

    fn room(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        match self.counts.get(&address) {
            Some((began, count)) if *count >= self.most && now < *began + self.length => {
                Err((*began + self.length - now).min(LONGEST_PAUSE))
            }
            _ => Ok(()),
        }
    }

    /// Counts one; whether it was the last that there is room for.
    fn count(&mut self, address: IpAddr, now: Instant) -> bool {
        let (began, count) = self.counts.get_or_insert_mut(address, || (now, 0));
        if now >= *began + self.length {
            (*began, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count == self.most
    }
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(FREE_FAILURES).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Who has one address of a /64 network has them all.
fn group(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(throttle: &Throttle, name: &str, client: &str) -> Option<Burst> {
        let attempt = throttle.begin(name, ip(client));
        attempt.ok().expect("there is room").fail()
    }

    fn wait(throttle: &Throttle, name: &str, client: &str) -> Option<u64> {
        let attempt = throttle.begin(name, ip(client));
        match attempt {
            Ok(attempt) => {
                attempt.withdraw();
                None
            }
            Err(wait) => Some(wait.as_secs()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_minute_and_a_good_login_ends_them() {
        let throttle = Throttle::new();
        let bursts: Vec<_> = (0..5).map(|_| fail(&throttle, "ann", "10.0.0.1")).collect();
        assert_eq!(bursts, [None, None, None, None, Some(Burst::Pair)]);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(wait(&throttle, "ann", "10.0.0.1"), Some(expected));
            tokio::time::advance(Duration::from_secs(expected)).await;
            assert_eq!(fail(&throttle, "ann", "10.0.0.1"), None);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        throttle
            .begin("ann", ip("10.0.0.1"))
            .ok()
            .unwrap()
            .succeed();
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), None);
        assert_eq!(fail(&throttle, "ann", "10.0.0.1"), None);
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_locked_out_by_another() {
        let throttle = Throttle::new();
        for _ in 0..5 {
            fail(&throttle, "ann", "10.0.0.1");
        }
        assert!(wait(&throttle, "ann", "10.0.0.1").is_some());
        assert_eq!(wait(&throttle, "ann", "10.0.0.2"), None, "ann elsewhere");
        assert_eq!(wait(&throttle, "bob", "10.0.0.1"), None, "bob beside");
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_cannot_try_many_names() {
        let throttle = Throttle::new();
        let mut bursts = Vec::new();
        for guess in 0..50 {
            let address = format!("2001:db8:0:1::{guess:x}");
            bursts.extend(fail(&throttle, &format!("user{guess}"), &address));
        }
        assert_eq!(bursts, [Burst::Address]);
        assert_eq!(wait(&throttle, "ann", "2001:db8:0:1::ffff"), Some(60));
        assert_eq!(wait(&throttle, "ann", "2001:db8:0:2::1"), None);
        tokio::time::advance(ADDRESS_WINDOW).await;
        assert_eq!(wait(&throttle, "ann", "2001:db8:0:1::ffff"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_early_counts_and_guesses_do_not_run_beside_each_other() {
        let throttle = Throttle::new();
        for _ in 0..5 {
            drop(throttle.begin("ann", ip("10.0.0.1")));
        }
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), Some(2));
        tokio::time::advance(Duration::from_secs(2)).await;
        let first = throttle.begin("ann", ip("10.0.0.1")).ok().unwrap();
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), Some(1));
        first.withdraw();
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_good_logins_at_once_are_no_guesses() {
        let throttle = Throttle::new();
        let attempts: Vec<_> = (0..40)
            .map(|_| throttle.begin("ann", ip("10.0.0.1")).ok().unwrap())
            .collect();
        attempts.into_iter().for_each(Attempt::succeed);
        assert_eq!(wait(&throttle, "ann", "10.0.0.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn registrations_are_counted_per_address() {
        let throttle = Throttle::new();
        for _ in 0..20 {
            assert_eq!(throttle.register(ip("10.0.0.1")), Ok(()));
        }
        assert_eq!(
            throttle.register(ip("::ffff:10.0.0.1")),
            Err(Duration::from_secs(60))
        );
        assert_eq!(throttle.register(ip("10.0.0.2")), Ok(()));
        tokio::time::advance(REGISTRATION_WINDOW).await;
        assert_eq!(throttle.register(ip("10.0.0.1")), Ok(()));
    }
}
