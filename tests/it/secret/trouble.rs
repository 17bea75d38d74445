//! Secret Manager in trouble while the gateway serves: the last good set stays, loudly, for as long as
//! it may.

use super::super::fakes::google::secret_manager::Order;
use super::*;

const TOLD: &str = "keys could not be loaded";
const OVER: &str = "keys can be loaded again";

/// What goes wrong, how a test brings it about, and a word of the cause that administrators see.
type Trouble = (&'static str, fn(&SecretManager), &'static str);

const TROUBLES: [Trouble; 8] = [
    (
        "unavailable",
        |s| s.always(Kind::Access, Some(Order::Refuse(503))),
        "503",
    ),
    (
        "over quota",
        |s| s.always(Kind::Access, Some(Order::Refuse(429))),
        "429",
    ),
    (
        "a page",
        |s| s.always(Kind::Access, Some(Order::Html(200))),
        "cannot be read",
    ),
    (
        "cut off",
        |s| s.always(Kind::Access, Some(Order::Drop)),
        "cannot be reached",
    ),
    (
        "no right",
        |s| s.always(Kind::Access, Some(Order::Deny)),
        "secretAccessor",
    ),
    ("disabled", |s| s.disable(PROJECT, SECRET, 2), "disabled"),
    ("damaged", |s| s.spoil_checksums(true), "checksum"),
    (
        "no JSON",
        |s| {
            s.put(PROJECT, SECRET, "{\"ci\": oops");
        },
        "version 3",
    ),
];

/// The log says it, once.
async fn told_once(gate: &Gate, begin: &str) {
    // The log comes by a pipe and may be a moment behind.
    let count = until(async || {
        let log = gate.log();
        let messages = log.iter().filter_map(|line| line["message"].as_str());
        Some(messages.filter(|text| text.starts_with(begin)).count()).filter(|count| *count > 0)
    });
    assert_eq!(count.await, 1, "{begin}: {:#?}", gate.log());
}

/// A set that lacks the plain key.
fn without_key() -> Value {
    json!({"ops": {"key": ADMIN, "admin": true}, "ci": NEW_KEY})
}

#[tokio::test]
async fn trouble_keeps_the_last_good_set_and_is_told_of_once() {
    let server = ModelServer::start(Settings::default()).await;
    for (name, arrange, cause) in TROUBLES {
        let secrets = vault(&two_keys()).await;
        let gate = gate(&server.url(), &secrets, &[]).await;
        put(&secrets, &without_key());
        arrange(&secrets);
        for _ in 0..3 {
            let reply = reload(&gate).await;
            assert_eq!(reply.status, 502, "{name}: {}", reply.text());
            assert_eq!(reply.json()["error"]["code"], "reload_failed", "{name}");
        }
        assert_eq!(knock(&gate, KEY).await.status, 200, "{name}");
        assert_eq!(knock(&gate, NEW_KEY).await.status, 401, "{name}");
        let keys = status(&gate).await;
        assert_eq!(keys["version"], "1", "{name}");
        let failure = keys["failure"].as_str().expect("a cause");
        assert!(failure.contains(cause), "{name}: {failure}");
        assert!(!failure.contains("oops"), "{name}: {failure}");
        assert!(keys["fetches_failed"].as_u64() >= Some(3), "{name}: {keys}");
        assert!(metric(&gate, "tollgate_key_set_fetches_failed_total").await >= 3.0);
        told_once(&gate, TOLD).await;
        secrets.always(Kind::Access, None);
        secrets.spoil_checksums(false);
        put(&secrets, &without_key());
        assert_eq!(reload(&gate).await.status, 200, "{name}");
        assert_eq!(knock(&gate, KEY).await.status, 401, "{name}");
        assert_eq!(knock(&gate, NEW_KEY).await.status, 200, "{name}");
        told_once(&gate, OVER).await;
        assert_eq!(status(&gate).await["failure"], Value::Null, "{name}");
        only_accesses(&secrets.calls());
    }
}

#[tokio::test]
async fn a_single_hiccup_is_not_noticed() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let gate = gate(&server.url(), &secrets, &[]).await;
    for order in [
        Order::Refuse(503),
        Order::Html(502),
        Order::Drop,
        Order::Mute,
    ] {
        secrets.next(Kind::Access, order.clone());
        assert_eq!(reload(&gate).await.status, 200, "{order:?}");
    }
    assert_eq!(status(&gate).await["fetches_failed"], 0);
    assert_eq!(secrets.count(Kind::Access), 1 + 2 * 4);
}

#[tokio::test]
async fn keys_that_could_not_be_refreshed_for_too_long_serve_nobody() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let settings = [("KEY_REFRESH_SECONDS", "1"), ("KEY_MAX_STALE_SECONDS", "3")];
    let gate = gate(&server.url(), &secrets, &settings).await;
    secrets.always(Kind::Access, Some(Order::Refuse(503)));
    let began = Instant::now();
    let reply = until(async || {
        let reply = knock(&gate, KEY).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(2500) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "not_ready");
    assert_eq!(
        knock(&gate, NEW_KEY).await.status,
        503,
        "nor is any key called wrong"
    );
    secrets.always(Kind::Access, None);
    until(async || (knock(&gate, KEY).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_replica_that_lags_behind_brings_no_removed_key_back() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let settings = [("KEY_REFRESH_SECONDS", "1")];
    let gate = gate(&server.url(), &secrets, &settings).await;
    put(&secrets, &without_key());
    assert_eq!(reload(&gate).await.json()["version"], "2");
    secrets.serve_stale(Some(1));
    let reply = reload(&gate).await.json();
    assert_eq!(
        (&reply["version"], &reply["added"], &reply["removed"]),
        (&json!("2"), &json!(0), &json!(0))
    );
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(knock(&gate, KEY).await.status, 401);
        assert_eq!(knock(&gate, NEW_KEY).await.status, 200);
    }
    told_once(&gate, TOLD).await;
    assert!(status(&gate).await["age_seconds"].as_u64() >= Some(3));
    secrets.serve_stale(None);
    until(async || status(&gate).await["failure"].is_null().then_some(())).await;
}

#[tokio::test]
async fn a_silent_secret_manager_holds_a_known_key_up_for_two_seconds_once() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let gate = gate(&server.url(), &secrets, &[("KEY_REFRESH_SECONDS", "1")]).await;
    secrets.always(Kind::Access, Some(Order::Swallow));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let began = Instant::now();
    let mut waits = Vec::new();
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(9) {
        let asked_at = Instant::now();
        assert_eq!(knock(&gate, KEY).await.status, 200);
        calls += 1;
        if asked_at.elapsed() > Duration::from_millis(500) {
            waits.push(asked_at.elapsed());
        }
    }
    // The fetch gives up after some four seconds; only then do the ten seconds begin for those who
    // come later, but the wait of each ends two seconds after the fetch began.
    assert_eq!(waits.len(), 1, "{waits:?} of {calls}");
    assert!(waits[0] < Duration::from_millis(2500), "{waits:?}");
    let asked = secrets.count(Kind::Access);
    assert!(asked >= 4, "fetches go on beside: {asked}");
    secrets.always(Kind::Access, None);
    put(&secrets, &without_key());
    until(async || (knock(&gate, KEY).await.status == 401).then_some(())).await;
}
