//! Unknown keys: early refreshes, refused hashes, and callers that leave.

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unknown_key_waits_for_an_early_refresh() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, NEW_SET);
    check(&ring, NEW_KEY, Ok("new"), SECOND).await;
    assert_eq!(script.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn early_refreshes_come_in_a_burst_of_three_then_one_per_five_seconds() {
    let (ring, script) = loaded_ring().await;
    let key = |n: usize| format!("sk-unknown-key-number-{n}");
    for n in 0..3 {
        check(&ring, &key(n), UNKNOWN, Duration::ZERO).await;
    }
    assert_eq!(script.fetches(), 4);
    check(&ring, &key(3), UNKNOWN, 5 * SECOND).await;
    check(&ring, &key(4), UNKNOWN, 5 * SECOND).await;
    assert_eq!(script.fetches(), 6);
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_share_refreshes() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, OLD_SET);
    let keys: Vec<String> = (0..200)
        .map(|n| format!("sk-unknown-key-number-{n}"))
        .collect();
    for (answer, _) in join_all(keys.iter().map(|key| ask(&ring, key))).await {
        assert_eq!(answer, Err(Code::InvalidApiKey));
    }
    assert_eq!(
        script.fetches(),
        3,
        "one for the first, one for all that came while it ran"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_began_before_the_request_does_not_refuse_its_key() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, OLD_SET);
    let (wrong, right) = tokio::join!(ask(&ring, "sk-unknown-0123456789"), async {
        settle().await;
        script.answer(SECOND, NEW_SET);
        ask(&ring, NEW_KEY).await
    });
    assert_eq!(wrong.0, Err(Code::InvalidApiKey));
    assert_eq!(right.0.as_deref(), Ok("new"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_hash_is_remembered_for_five_seconds() {
    let (ring, script) = loaded_ring().await;
    check(&ring, NEW_KEY, UNKNOWN, Duration::ZERO).await;
    assert_eq!(script.fetches(), 2);
    script.answer(SECOND, NEW_SET);
    advance(4 * SECOND).await;
    check(&ring, NEW_KEY, UNKNOWN, Duration::ZERO).await;
    assert_eq!(script.fetches(), 2);
    advance(SECOND).await;
    check(&ring, NEW_KEY, Ok("new"), SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_set_ends_the_memory_of_refused_hashes() {
    let (ring, script) = loaded_ring().await;
    let wrong = "sk-unknown-0123456789";
    check(&ring, wrong, UNKNOWN, Duration::ZERO).await;
    ring.reload().await.unwrap();
    check(&ring, wrong, UNKNOWN, Duration::ZERO).await;
    assert_eq!(script.fetches(), 3, "the same set is no newer one");
    script.answer(Duration::ZERO, NEW_SET);
    ring.reload().await.unwrap();
    check(&ring, wrong, UNKNOWN, Duration::ZERO).await;
    assert_eq!(script.fetches(), 5);
}

#[tokio::test(start_paused = true)]
async fn strings_under_sixteen_characters_are_refused_at_once() {
    let (ring, script) = loaded_ring().await;
    check(&ring, "fifteen-letters", UNKNOWN, Duration::ZERO).await;
    let fifteen = "ü".repeat(15);
    assert_eq!(
        ring.identify(&fifteen).await.err().unwrap().code(),
        Code::InvalidApiKey
    );
    assert_eq!(script.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_works_within_ten_seconds_even_beside_a_flood_of_wrong_ones() {
    let (ring, script) = loaded_ring().await;
    let tasks = TaskTracker::new();
    let flood = async {
        for n in 0.. {
            let (ring, key) = (Arc::clone(&ring), format!("sk-unknown-key-number-{n}"));
            tasks.spawn(async move { ask(&ring, &key).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let newcomer = async {
        tokio::time::sleep(8 * SECOND).await;
        script.answer(SECOND, NEW_SET);
        ask(&ring, NEW_KEY).await
    };
    tokio::select! {
        () = flood => {}
        (answer, took) = newcomer => {
            assert_eq!(answer.as_deref(), Ok("new"));
            assert!(took <= 10 * SECOND, "{took:?}");
        }
    }
    assert!(script.fetches() <= 7, "{}", script.fetches());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_refused_when_the_source_fails_and_a_set_is_there() {
    let (ring, script) = loaded_ring().await;
    script.fail(SECOND);
    check(&ring, NEW_KEY, UNKNOWN, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_ends_no_fetch() {
    let (ring, script) = loaded_ring().await;
    script.answer(SECOND, NEW_SET);
    assert!(timeout(SECOND / 2, ask(&ring, NEW_KEY)).await.is_err());
    tokio::time::sleep(SECOND).await;
    assert_eq!(script.fetches(), 2);
    check(&ring, NEW_KEY, Ok("new"), Duration::ZERO).await;
}
