//! Reloads, the drain, what outlives a reload, and the keys file at start and later.

use std::path::Path;

use futures_util::future::join_all;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{GoogleConfig, KeysSource};
use crate::google::Google;

#[tokio::test(start_paused = true)]
async fn closing_ends_the_fetch_under_way_and_begins_none() {
    let (ring, script) = loaded_ring().await;
    script.answer(600 * SECOND, NEW_SET);
    let tasks = TaskTracker::new();
    let waiting = tasks.spawn({
        let ring = Arc::clone(&ring);
        async move { ask(&ring, NEW_KEY).await }
    });
    settle().await;
    let start = Instant::now();
    ring.close().await;
    assert_eq!(waiting.await.unwrap().0, Err(Code::InvalidApiKey));
    assert_eq!(ring.reload().await.unwrap_err().code(), Code::ReloadFailed);
    advance(REFRESH).await;
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    assert_eq!(start.elapsed(), REFRESH);
    assert_eq!(script.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reload_tells_what_changed_and_a_failed_one_keeps_the_old_set() {
    let (ring, script) = loaded_ring().await;
    let before = ring.status().version;
    script.answer(
        SECOND,
        r#"{"a":"sk-a-0123456789abcdef","b":{"key":"sk-b-0123456789abcdef"},"bad":null}"#,
    );
    let reload = ring.reload().await.unwrap();
    assert_eq!(
        (reload.keys_loaded, reload.added, reload.removed),
        (2, 2, 1)
    );
    assert_eq!(
        reload.rejected,
        [Rejected {
            name: "bad".to_owned(),
            reason: "is null".to_owned()
        }]
    );
    assert_eq!(ring.status().version.as_ref(), Some(&reload.version));
    assert_ne!(Some(&reload.version), before.as_ref());
    for content in ["", "[]", "null", "{\"a\""] {
        script.answer(Duration::ZERO, content);
        let error = ring.reload().await.unwrap_err();
        assert_eq!(error.code(), Code::ReloadFailed);
        assert!(!error.message().contains(|c: char| c.is_ascii_digit()));
        check(&ring, "sk-a-0123456789abcdef", Ok("a"), Duration::ZERO).await;
    }
    script.answer(Duration::ZERO, "{}");
    let emptied = ring.reload().await.unwrap();
    assert_eq!(
        (emptied.keys_loaded, emptied.removed),
        (0, 2),
        "an empty object is a valid set"
    );
    check(&ring, "sk-a-0123456789abcdef", UNKNOWN, Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn reloads_share_fetches_but_none_that_began_before_them() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, OLD_SET);
    let first = ring.reload();
    let rest = async {
        settle().await;
        script.answer(SECOND, NEW_SET);
        join_all((0..20).map(|_| ring.reload())).await
    };
    let (first, rest) = tokio::join!(first, rest);
    assert_eq!(first.unwrap().added, 0);
    assert!(rest.into_iter().all(|reload| reload.unwrap().added == 1));
    assert_eq!(script.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn permits_and_last_use_outlive_a_reload() {
    let (ring, script) = empty_ring(MAX_STALE);
    let set = |maximum: usize, more: &str| {
        format!(r#"{{"a":{{"key":"{OLD_KEY}","max_concurrent":{maximum}}}{more}}}"#)
    };
    script.answer(Duration::ZERO, &set(2, ""));
    ring.load().await.unwrap();
    assert!(ring.entries()[0].last_used().is_none());
    let principal = ring.identify(OLD_KEY).await.unwrap();
    let _permit = principal
        .concurrency()
        .cloned()
        .unwrap()
        .try_acquire_owned()
        .unwrap();
    let free = || async {
        ring.identify(OLD_KEY)
            .await
            .unwrap()
            .concurrency()
            .cloned()
            .unwrap()
            .available_permits()
    };
    for (content, left) in [
        (set(2, r#","b":"sk-b-0123456789abcdef""#), 1),
        (set(3, ""), 3),
    ] {
        script.answer(Duration::ZERO, &content);
        ring.reload().await.unwrap();
        assert!(ring.entries()[0].last_used().is_some());
        assert_eq!(free().await, left);
    }
}

fn file_ring(path: &Path, explicit: bool) -> KeyRing {
    let google = Arc::new(Google::new(&GoogleConfig::default()));
    let config = KeysConfig {
        source: KeysSource::File {
            path: path.to_path_buf(),
            explicit,
        },
        refresh: REFRESH,
        max_stale: MAX_STALE,
    };
    KeyRing::new(&config, &google, Vec::new(), true)
}

#[tokio::test]
async fn a_missing_default_file_is_an_empty_set_and_a_missing_explicit_one_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let fault = file_ring(&path, true).load().await.unwrap_err().to_string();
    assert!(fault.contains("keys.json"), "{fault}");
    let ring = file_ring(&path, false);
    ring.load().await.unwrap();
    assert!(ring.is_loaded() && ring.status().keys_loaded == 0);
    std::fs::write(&path, NEW_SET).unwrap();
    assert_eq!(
        ask(&ring, NEW_KEY).await.0.as_deref(),
        Ok("new"),
        "the file may come later"
    );
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        ring.reload().await.unwrap_err().code(),
        Code::ReloadFailed,
        "but not go again"
    );
    assert_eq!(ask(&ring, NEW_KEY).await.0.as_deref(), Ok("new"));
}

#[tokio::test]
async fn a_file_that_is_no_key_set_is_a_fault_at_start() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        file_ring(dir.path(), true).load().await.is_err(),
        "a directory"
    );
    let path = dir.path().join("keys.json");
    for content in [
        "",
        "[]",
        "{\"a\": sk-secret-0123456789}",
        &" ".repeat(crate::auth::MAX_PAYLOAD_BYTES + 1),
    ] {
        std::fs::write(&path, content).unwrap();
        let fault = file_ring(&path, false)
            .load()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            fault.contains("keys.json") && !fault.contains("sk-secret"),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn the_ring_lists_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, OLD_SET).unwrap();
    let ring = file_ring(&path, true);
    ring.load().await.unwrap();
    let shown = format!(
        "{:?}{:?}{:?}",
        ring.entries(),
        ring.status(),
        ring.reload().await.unwrap()
    );
    let hash = KeyHash::of(OLD_KEY);
    assert!(shown.contains(&hash.key_id()));
    assert!(!shown.contains(OLD_KEY) && !shown.contains(&hash.to_hex()));
}

#[tokio::test(start_paused = true)]
async fn a_version_lower_than_the_loaded_one_is_ignored_and_confirms_nothing() {
    let (ring, script) = empty_ring(2 * REFRESH);
    script.answer_version(7, NEW_SET);
    ring.load().await.unwrap();
    assert_eq!(ring.status().version.as_deref(), Some("7"));
    script.answer_version(6, OLD_SET);
    let reload = ring.reload().await.unwrap();
    assert_eq!(
        (reload.version.as_str(), reload.added, reload.removed),
        ("7", 0, 0)
    );
    advance(REFRESH).await;
    check(&ring, NEW_KEY, Ok("new"), Duration::ZERO).await;
    check(&ring, OLD_KEY, UNKNOWN, Duration::ZERO).await;
    let status = ring.status();
    assert!(status.age >= Some(REFRESH), "{status:?}");
    let failure = status.failure.unwrap();
    assert!(failure.contains('6') && failure.contains('7'), "{failure}");
    assert!(status.fetches_failed >= 2);
    // It may be a new secret of the same name: then no key may work for ever.
    advance(2 * REFRESH).await;
    check(&ring, NEW_KEY, Err(Code::NotReady), Duration::ZERO).await;
    script.answer_version(8, OLD_SET);
    let reload = ring.reload().await.unwrap();
    assert_eq!(
        (reload.version.as_str(), reload.added, reload.removed),
        ("8", 1, 1)
    );
    assert_eq!(ring.status().failure, None);
}

#[tokio::test(start_paused = true)]
async fn the_same_version_again_confirms_the_set_unread() {
    let (ring, script) = empty_ring(MAX_STALE);
    script.answer_version(1, OLD_SET);
    ring.load().await.unwrap();
    advance(REFRESH).await;
    // A version never changes, so nothing is made of what stands there now.
    script.answer_version(1, "[]");
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    let status = ring.status();
    assert_eq!(status.age, Some(Duration::ZERO));
    assert_eq!((status.failure, status.fetches_failed), (None, 0));
    // The same content under a new number is a new version, and changes no key.
    script.answer_version(2, OLD_SET);
    let reload = ring.reload().await.unwrap();
    assert_eq!(
        (reload.version.as_str(), reload.added, reload.removed),
        ("2", 0, 0)
    );
    // What is no key set leaves the last good one; its version is named.
    script.answer_version(3, "[]");
    assert_eq!(ring.reload().await.unwrap_err().code(), Code::ReloadFailed);
    check(&ring, OLD_KEY, Ok("old"), Duration::ZERO).await;
    let failure = ring.status().failure.unwrap();
    assert!(failure.contains("version 3"), "{failure}");
}
