//! Every sentence of the contract's paragraph on freshness, on paused time. Here: known keys, age,
//! and the time before the first set.

mod reload;
mod unknown;

use std::time::Duration;

use tokio::time::{Instant, advance};

use super::super::fetch::FIRST_WAIT;
use super::super::key::KeyHash;
use super::super::schedule::REFRESH_WAIT;
use super::super::source::script::Script;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(30);
const MAX_STALE: Duration = Duration::from_hours(24);
const OLD_KEY: &str = "sk-old-0123456789abcdef";
const NEW_KEY: &str = "sk-new-0123456789abcdef";
const OLD_SET: &str = r#"{"old":"sk-old-0123456789abcdef"}"#;
const NEW_SET: &str = r#"{"new":"sk-new-0123456789abcdef"}"#;

/// A ring over a script whose first set is not loaded yet.
fn empty_ring(max_stale: Duration) -> (Arc<KeyRing>, Arc<Script>) {
    let script = Arc::new(Script::new(OLD_SET));
    (
        Arc::new(KeyRing::over(
            Source::Script(Arc::clone(&script)),
            Current::new(REFRESH, max_stale, Vec::new(), true),
        )),
        script,
    )
}

async fn loaded_ring() -> (Arc<KeyRing>, Arc<Script>) {
    let (ring, script) = empty_ring(MAX_STALE);
    ring.load().await.unwrap();
    assert_eq!(script.fetches(), 1);
    (ring, script)
}

/// What a request with this key gets, and how long it waited.
async fn ask(ring: &KeyRing, key: &str) -> (Result<String, Code>, Duration) {
    let start = Instant::now();
    let answer = ring.identify(key).await;
    (
        answer
            .map(|principal| principal.key_name().unwrap().to_string())
            .map_err(|error| error.code()),
        start.elapsed(),
    )
}

async fn check(ring: &KeyRing, key: &str, answer: Result<&str, Code>, waited: Duration) {
    let (got, took) = ask(ring, key).await;
    assert_eq!(got.as_deref(), answer.as_ref().map(|name| *name), "{key}");
    // Tokio's timers count whole milliseconds.
    assert!(
        took >= waited && took < waited + Duration::from_millis(5),
        "{key}: waited {took:?}, not {waited:?}"
    );
}

/// Lets tasks that are ready run, without moving the clock.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

const UNKNOWN: Result<&str, Code> = Err(Code::InvalidApiKey);

#[tokio::test(start_paused = true)]
async fn from_half_age_a_set_is_refreshed_beside_a_request() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, NEW_SET);
    advance(Duration::from_millis(14_999)).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    settle().await;
    assert_eq!(
        script.fetches(),
        1,
        "below half of the interval nothing is asked"
    );
    advance(Duration::from_millis(1)).await;
    for _ in 0..10 {
        check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    }
    settle().await;
    assert_eq!(script.fetches(), 2, "one fetch for all");
    advance(2 * SECOND).await;
    settle().await;
    check(&ring, NEW_KEY, Ok("new"), Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_refresh_of_an_older_set_so_a_removed_key_is_out() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND / 2, NEW_SET);
    advance(REFRESH).await;
    let (removed, added) = tokio::join!(ask(&ring, OLD_KEY), ask(&ring, NEW_KEY));
    assert_eq!(added.0.as_deref(), Ok("new"));
    assert!(added.1 >= SECOND / 2 && added.1 < SECOND);
    assert_eq!(removed.0, Err(Code::InvalidApiKey));
    assert!(
        removed.1 < SECOND,
        "the refresh is the one fetch that its refusal needs"
    );
    assert_eq!(script.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_waits_two_seconds_at_most_then_nobody_waits_for_ten() {
    let (ring, script) = loaded_ring().await;
    script.answer(600 * SECOND, NEW_SET);
    advance(REFRESH).await;
    check(&ring, OLD_KEY, Ok("old"), REFRESH_WAIT).await;
    for _ in 0..99 {
        check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert!(script.fetches() >= 3, "fetches go on beside");
    // Each fetch that fails begins the ten seconds anew; the source gets well beside a request.
    script.answer(SECOND, NEW_SET);
    advance(20 * SECOND).await;
    settle().await;
    check(&ring, NEW_KEY, Ok("new"), SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_ten_seconds_a_request_waits_again() {
    let (ring, script) = loaded_ring().await;
    script.fail(SECOND);
    advance(REFRESH).await;
    check(&ring, OLD_KEY, Ok("old"), SECOND).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    advance(Duration::from_millis(9_990)).await;
    assert_eq!(script.fetches(), 2);
    advance(SECOND).await;
    check(&ring, OLD_KEY, Ok("old"), SECOND).await;
    assert_eq!(script.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_at_once_is_asked_once_a_second_and_the_old_set_stays() {
    let (ring, script) = loaded_ring().await;
    script.fail(Duration::ZERO);
    advance(REFRESH).await;
    for _ in 0..50 {
        check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
        settle().await;
    }
    assert_eq!(script.fetches(), 2);
    assert_eq!(ring.status().failure.as_deref(), Some("scripted fault"));
    advance(SECOND).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    settle().await;
    assert_eq!(script.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_set_beyond_the_maximal_age_serves_nobody_until_it_is_refreshed() {
    let (ring, script) = empty_ring(2 * REFRESH);
    ring.load().await.unwrap();
    script.fail(Duration::ZERO);
    advance(2 * REFRESH).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    advance(11 * SECOND).await;
    check(&ring, OLD_KEY, Err(Code::NotReady), Duration::ZERO).await;
    check(&ring, NEW_KEY, Err(Code::NotReady), Duration::ZERO).await;
    script.answer(Duration::ZERO, OLD_SET);
    advance(11 * SECOND).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn expiry_is_judged_at_each_request() {
    let (ring, script) = empty_ring(MAX_STALE);
    let set = format!(
        r#"{{"ci":{{"key":"{NEW_KEY}","expires_at":"2030-01-01T00:00:00Z","previous":[{{"key":"{OLD_KEY}","expires_at":"2029-01-01T00:00:00Z"}}]}}}}"#
    );
    script.answer(Duration::ZERO, &set);
    ring.load().await.unwrap();
    let look = |key: &str, year: u64| {
        let now = std::time::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600);
        ring.current()
            .look(&KeyHash::of(key), now)
            .1
            .unwrap()
            .map_err(|error| error.message().to_owned())
            .map(drop)
    };
    assert!(look(OLD_KEY, 2028).is_ok() && look(NEW_KEY, 2028).is_ok());
    assert!(look(OLD_KEY, 2030).unwrap_err().contains("expired"));
    assert!(look(NEW_KEY, 2032).unwrap_err().contains("expired"));
    assert_eq!(script.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_set_calls_wait_ten_seconds_and_are_never_refused() {
    let (ring, script) = empty_ring(MAX_STALE);
    script.fail(Duration::ZERO);
    ring.load().await.unwrap();
    assert!(!ring.is_loaded());
    let (known, unknown) = tokio::join!(ask(&ring, OLD_KEY), ask(&ring, NEW_KEY));
    for (answer, took) in [known, unknown] {
        assert_eq!(answer, Err(Code::NotReady));
        assert!(took >= FIRST_WAIT && took < FIRST_WAIT + SECOND, "{took:?}");
    }
    assert!(
        (10..=12).contains(&script.fetches()),
        "asked again each second, for both at once: {}",
        script.fetches()
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_the_first_set_go_on_when_it_comes() {
    let (ring, script) = empty_ring(MAX_STALE);
    script.fail(Duration::ZERO);
    let (waiting, ()) = tokio::join!(ask(&ring, OLD_KEY), async {
        tokio::time::sleep(3 * SECOND + SECOND / 2).await;
        script.answer(SECOND, OLD_SET);
    });
    assert_eq!(waiting.0.as_deref(), Ok("old"));
    assert!(
        waiting.1 >= 4 * SECOND && waiting.1 < 6 * SECOND,
        "{:?}",
        waiting.1
    );
    assert!(ring.is_loaded());
}
