//! The process stands still between requests, as one does on Cloud Run that has no work: nothing may
//! hang on its timers.

use std::time::{Duration, Instant};

use serde_json::json;

use super::fakes::google::metadata::{self, Metadata};
use super::fakes::google::secret_manager::SecretManager;
use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{ADMIN, Gate, KEY};
use super::secret::{gate, knock, two_keys};

const NEW_KEY: &str = "sk-new-0123456789abcdef";
/// Longer than the refresh time and the life of a token.
const PAUSE: Duration = Duration::from_millis(2500);

async fn freeze(gate: &Gate, during: impl FnOnce()) {
    gate.signal("STOP");
    during();
    // The pause is what is tested: there is nothing to poll for in a process that stands still.
    tokio::time::sleep(PAUSE).await;
    gate.signal("CONT");
}

#[tokio::test]
async fn after_a_pause_the_next_request_works_and_the_keys_are_fresh() {
    let server = ModelServer::start(Settings::default()).await;
    let machine = Metadata::start().await;
    machine.set_life(Duration::from_secs(2));
    let project = metadata::PROJECT;
    let keys = two_keys().to_string();
    let secrets = SecretManager::with(project, "vllm-api-keys", &keys).await;
    secrets.require_tokens_of(&machine);
    let host = machine.host();
    let settings = [
        ("GCP_PROJECT", ""),
        ("GCE_METADATA_HOST", host.as_str()),
        ("KEY_REFRESH_SECONDS", "1"),
    ];
    let gate = gate(&server.url(), &secrets, &settings).await;
    for round in 0..2 {
        assert_eq!(knock(&gate, KEY).await.status, 200, "{round}");
        freeze(&gate, || {
            let revoked = json!({"ops": {"key": ADMIN, "admin": true}, "ci": NEW_KEY});
            secrets.put(project, "vllm-api-keys", &revoked.to_string());
        })
        .await;
        // The revoked key is the very first that comes.
        let began = Instant::now();
        let reply = knock(&gate, KEY).await;
        assert_eq!(reply.status, 401, "{round}: {}", reply.text());
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(knock(&gate, NEW_KEY).await.status, 200, "{round}");
        freeze(&gate, || {
            secrets.put(project, "vllm-api-keys", &keys);
        })
        .await;
        assert_eq!(knock(&gate, ADMIN).await.status, 200, "{round}");
        assert_eq!(knock(&gate, NEW_KEY).await.status, 401, "{round}");
    }
    let status = gate.admin("/admin/status").await.json();
    assert_eq!(status["keys"]["fetches_failed"], 0, "{status}");
}
