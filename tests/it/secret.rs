//! Keys from Secret Manager: the gateway as on Cloud Run, in front of a Secret Manager and a metadata
//! server that do what the tests order.

mod start;
mod trouble;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::calls::{chat, row_of, with};
use super::fakes::google::metadata::{self, Metadata};
use super::fakes::google::secret_manager::{Call, Kind, SecretManager};
use super::fakes::model_server::{ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{ADMIN, Gate, KEY, PATIENCE, command};

const PROJECT: &str = "keys-project";
const SECRET: &str = "vllm-api-keys";
const NEW_KEY: &str = "sk-new-0123456789abcdef";

/// The environment of Cloud Run, with both of Google's servers on loopback.
fn on_cloud_run(secrets: &SecretManager) -> Vec<(&'static str, String)> {
    vec![
        ("K_SERVICE", "gate".to_owned()),
        ("K_REVISION", "gate-00001-abc".to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("SECRET_MANAGER_ENDPOINT", secrets.url()),
        ("GCP_PROJECT", PROJECT.to_owned()),
    ]
}

/// A gateway on Cloud Run, with more settings; one of the same name wins, an empty one unsets.
pub async fn gate(upstream: &str, secrets: &SecretManager, settings: &[(&str, &str)]) -> Gate {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = command(folder.path(), upstream, &[("API_KEYS_FILE", "")]);
    command
        .envs(on_cloud_run(secrets))
        .envs(settings.iter().copied());
    Gate::run(folder, command).await
}

/// The key set of most tests.
pub fn two_keys() -> Value {
    json!({"test": KEY, "ops": {"key": ADMIN, "admin": true}})
}

async fn vault(keys: &Value) -> SecretManager {
    SecretManager::with(PROJECT, SECRET, &keys.to_string()).await
}

fn put(secrets: &SecretManager, keys: &Value) -> u64 {
    secrets.put(PROJECT, SECRET, &keys.to_string())
}

/// What a request with this key is answered; the model server has no part in it.
pub async fn knock(gate: &Gate, key: &str) -> Reply {
    gate.ask("GET /v1/models", &[("x-api-key", key)], b"").await
}

async fn reload(gate: &Gate) -> Reply {
    gate.ask("POST /admin/reload-keys", &[("x-api-key", ADMIN)], b"")
        .await
}

async fn status(gate: &Gate) -> Value {
    let reply = gate.admin("/admin/status").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["keys"].clone()
}

/// The value of one line of `/metrics`.
async fn metric(gate: &Gate, name: &str) -> f64 {
    let text = gate.admin("/metrics").await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .parse()
        .expect("a number")
}

/// Polls until `done`, within bounds.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < give_up_at, "never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn only_accesses(calls: &[Call]) {
    for call in calls {
        assert_eq!(call.kind, Some(Kind::Access), "{call:?}");
    }
}

#[tokio::test]
async fn on_cloud_run_keys_come_from_the_default_secret() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(
        &json!({"opencode-integration": KEY, "ops": {"key": ADMIN, "admin": true}, "short": "sk"}),
    )
    .await;
    let mut gate = gate(&server.url(), &secrets, &[]).await;
    let calls = secrets.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let path = format!("/v1/projects/{PROJECT}/secrets/{SECRET}/versions/latest:access");
    assert!(calls[0].target.starts_with(&path), "{calls:?}");
    let plain = with(chat(), "stream", json!(false));
    let reply = gate.post("/v1/chat/completions", &plain).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(
        row_of(&mut gate, &reply).await["key_name"],
        "opencode-integration"
    );
    let keys = status(&gate).await;
    assert_eq!(
        (&keys["version"], &keys["loaded"]),
        (&json!("1"), &json!(2))
    );
    assert_eq!(keys["source"], format!("the secret {SECRET}"));
    assert_eq!(
        (&keys["failure"], &keys["fetches_failed"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(keys["rejected"][0]["name"], "short");
    assert!(keys["age_seconds"].as_u64() < Some(20), "{keys}");
    assert_eq!(
        metric(&gate, r#"tollgate_key_set_info{version="1"}"#)
            .await
            .to_bits(),
        1_f64.to_bits()
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let confirmed = metric(&gate, "tollgate_key_set_confirmed_timestamp_seconds").await;
    assert!((now.expect("a time").as_secs_f64() - confirmed).abs() < 20.0);
    put(
        &secrets,
        &json!({"ops": {"key": ADMIN, "admin": true}, "ci": NEW_KEY}),
    );
    let reply = reload(&gate).await.json();
    assert_eq!(
        (
            &reply["version"],
            &reply["added"],
            &reply["removed"],
            &reply["revision"]
        ),
        (&json!("2"), &json!(1), &json!(1), &json!("gate-00001-abc"))
    );
    assert_eq!(status(&gate).await["version"], "2");
    assert_eq!(
        metric(&gate, r#"tollgate_key_set_info{version="2"}"#)
            .await
            .to_bits(),
        1_f64.to_bits()
    );
    only_accesses(&secrets.calls());
}

#[tokio::test]
async fn a_new_key_works_at_its_first_request() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let gate = gate(&server.url(), &secrets, &[]).await;
    assert_eq!(knock(&gate, NEW_KEY).await.status, 401);
    let began = Instant::now();
    // One that was refused a moment ago: its hash is remembered for five seconds at most.
    put(
        &secrets,
        &json!({"ops": {"key": ADMIN, "admin": true}, "ci": NEW_KEY}),
    );
    let other = "sk-other-0123456789abcdef";
    assert_eq!(knock(&gate, other).await.status, 401);
    assert_eq!(
        knock(&gate, NEW_KEY).await.status,
        200,
        "a newer set ends the memory"
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        knock(&gate, KEY).await.status,
        401,
        "the same set lost this one"
    );
    only_accesses(&secrets.calls());
}

#[tokio::test]
async fn a_removed_key_is_out_within_the_refresh_time() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    let gate = gate(&server.url(), &secrets, &[("KEY_REFRESH_SECONDS", "2")]).await;
    for round in 0..3 {
        put(&secrets, &json!({"ops": {"key": ADMIN, "admin": true}}));
        let began = Instant::now();
        until(async || (knock(&gate, KEY).await.status == 401).then_some(())).await;
        assert!(
            began.elapsed() < Duration::from_millis(2500),
            "{round}: {:?}",
            began.elapsed()
        );
        put(&secrets, &two_keys());
        assert_eq!(reload(&gate).await.status, 200);
    }
    // Refreshes come with requests alone: none of them, none of those.
    let calls = secrets.count(Kind::Access);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(secrets.count(Kind::Access), calls);
    only_accesses(&secrets.calls());
}

#[tokio::test]
async fn a_pinned_version_stays() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = SecretManager::with("other", "team_keys", &two_keys().to_string()).await;
    let pinned = "projects/other/secrets/team_keys/versions/1";
    let settings = [("API_KEYS_SECRET_NAME", pinned), ("K_SERVICE", "")];
    let gate = gate(&server.url(), &secrets, &settings).await;
    secrets.put(
        "other",
        "team_keys",
        &json!({"ops": {"key": ADMIN, "admin": true}}).to_string(),
    );
    let reply = reload(&gate).await.json();
    assert_eq!(
        (&reply["version"], &reply["removed"]),
        (&json!("1"), &json!(0))
    );
    assert_eq!(
        status(&gate).await["source"],
        format!("the secret {pinned}")
    );
    assert_eq!(knock(&gate, KEY).await.status, 200);
}

#[tokio::test]
async fn credentials_and_project_come_from_the_metadata_server_and_are_renewed() {
    let server = ModelServer::start(Settings::default()).await;
    let machine = Metadata::start().await;
    let secrets = SecretManager::with(metadata::PROJECT, SECRET, &two_keys().to_string()).await;
    secrets.require_tokens_of(&machine);
    let host = machine.host();
    let settings = [("GCP_PROJECT", ""), ("GCE_METADATA_HOST", host.as_str())];
    let mut gate = gate(&server.url(), &secrets, &settings).await;
    assert_eq!(reload(&gate).await.status, 200);
    assert_eq!(machine.count(metadata::TOKEN), 1, "one token for both");
    // Google takes back every token: the next fetch may fail, the one after it has a new one.
    machine.tokens().revoke();
    until(async || (reload(&gate).await.status == 200).then_some(())).await;
    assert_eq!(machine.count(metadata::TOKEN), 2);
    // Tokens that end soon: each is replaced when it is over.
    machine.set_life(Duration::from_secs(2));
    machine.tokens().revoke();
    until(async || (reload(&gate).await.status == 200).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    until(async || (reload(&gate).await.status == 200).then_some(())).await;
    // The metadata server goes for a while, for good as its answer has it.
    machine.trouble("", metadata::Trouble::Fails(404));
    machine.tokens().revoke();
    assert_eq!(reload(&gate).await.status, 502);
    assert_eq!(reload(&gate).await.status, 502);
    assert_eq!(knock(&gate, KEY).await.status, 200);
    machine.heal();
    until(async || (reload(&gate).await.status == 200).then_some(())).await;
    gate.stop().await;
    let log = format!("{:?}", gate.log());
    for token in machine.tokens().all() {
        assert!(!log.contains(&token));
    }
    only_accesses(&secrets.calls());
}

#[tokio::test]
async fn a_metadata_server_that_hangs_is_waited_for_no_longer_than_it_hangs() {
    let server = ModelServer::start(Settings::default()).await;
    let machine = Metadata::start().await;
    let secrets = vault(&two_keys()).await;
    secrets.require_tokens_of(&machine);
    machine.trouble("", metadata::Trouble::Hangs);
    let host = machine.host();
    let settings = [("GCE_METADATA_HOST", host.as_str())];
    let gate = gate(&server.url(), &secrets, &settings).await;
    assert_eq!(gate.ask("GET /ready", &[], b"").await.status, 503);
    let (reply, ()) = tokio::join!(knock(&gate, KEY), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        machine.heal();
    });
    assert_eq!(reply.status, 200, "{}", reply.text());
    machine.trouble("", metadata::Trouble::Hangs);
    machine.tokens().revoke();
    assert_eq!(reload(&gate).await.status, 502);
    assert_eq!(knock(&gate, KEY).await.status, 200);
    machine.heal();
    until(async || (reload(&gate).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn the_most_talkative_log_holds_no_payload_and_no_token() {
    let server = ModelServer::start(Settings::default()).await;
    let machine = Metadata::start().await;
    let secrets = vault(&two_keys()).await;
    secrets.require_tokens_of(&machine);
    let host = machine.host();
    let settings = [("LOG_LEVEL", "trace"), ("GCE_METADATA_HOST", host.as_str())];
    let mut gate = gate(&server.url(), &secrets, &settings).await;
    assert_eq!(reload(&gate).await.status, 200);
    secrets.spoil_checksums(true);
    put(&secrets, &json!({"ci": NEW_KEY}));
    assert_eq!(reload(&gate).await.status, 502);
    let shown = [
        status(&gate).await.to_string(),
        gate.admin("/metrics").await.text(),
    ];
    gate.stop().await;
    let log = gate.log();
    assert!(log.len() > 20, "it talks: {log:?}");
    let all = format!("{log:?}{shown:?}");
    let mut hidden = machine.tokens().all();
    for key in [KEY, ADMIN, NEW_KEY] {
        // Three ways to lie in the base64 of a payload.
        for before in ["", "x", "xy"] {
            let text = STANDARD.encode(format!("{before}{key}"));
            hidden.push(text[4..text.len() - 4].to_owned());
        }
        hidden.push(key.to_owned());
    }
    for hidden in hidden {
        assert!(!all.contains(&hidden), "{hidden}");
    }
}
