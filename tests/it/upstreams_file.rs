//! A gateway with an upstreams file: each model server is sent its own models and shown its own key.

use serde_json::{Value, json};

use super::calls::{chat, with};
use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{ADMIN, Gate, KEY, command};

async fn server(model: &str) -> ModelServer {
    let settings = Settings {
        model: model.to_owned(),
        ..Settings::default()
    };
    ModelServer::start(settings).await
}

/// What the server was shown by its calls so far, each once.
fn shown(server: &ModelServer) -> Vec<String> {
    let calls = server.calls();
    let mut shown: Vec<_> = calls
        .iter()
        .map(|call| call.header("authorization").to_owned())
        .collect();
    shown.sort();
    shown.dedup();
    shown
}

#[tokio::test]
async fn each_upstream_is_shown_its_own_key_and_none_a_clients() {
    let servers = [
        server("apart").await,
        server("clients").await,
        server("plain").await,
        server("keyless").await,
    ];
    let [apart, clients, plain, keyless] = &servers;
    let entry = |name: &str, server: &ModelServer, key: &str| {
        let url = server.url();
        format!(
            "[[upstream]]\nname = \"{name}\"\nurls = [\"{url}\"]\nmodels = [\"{name}\"]\n{key}\n"
        )
    };
    let file = [
        entry(
            "apart",
            apart,
            "api_key_env = \"APART_KEY\"\naliases = {best = \"apart\"}",
        ),
        entry("clients", clients, "api_key_env = \"CLIENTS_KEY\""),
        entry("plain", plain, ""),
        entry("keyless", keyless, "api_key_env = \"\""),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let keys = json!({"test": KEY, "ops": {"key": ADMIN, "admin": true}});
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).expect("a keys file");
    std::fs::write(folder.path().join("upstreams.toml"), file.concat()).expect("a file");
    let settings = [
        ("UPSTREAMS_FILE", "upstreams.toml"),
        ("APART_KEY", "sk-of-the-first-server"),
        ("CLIENTS_KEY", KEY),
        ("VLLM_API_KEY", "sk-of-all-other-servers"),
    ];
    // Port 1 of this machine is nobody's: the file takes its place.
    let command = command(folder.path(), "http://127.0.0.1:1", &settings);
    let gate = Gate::run(folder, command).await;
    for model in ["best", "clients", "plain", "keyless"] {
        let body = with(chat(), "model", json!(model));
        let reply = gate.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
    }
    let unknown = with(chat(), "model", json!("other"));
    let reply = gate.post("/v1/chat/completions", &unknown).await;
    assert_eq!(reply.status, 404, "{}", reply.text());
    assert_eq!(shown(apart), ["Bearer sk-of-the-first-server"]);
    assert_eq!(shown(clients), [""]);
    assert_eq!(shown(plain), ["Bearer sk-of-all-other-servers"]);
    assert_eq!(shown(keyless), [""]);
    // It was told before the gateway listened.
    let log = Value::from(gate.log()).to_string();
    let told = |words: &str| log.contains(words);
    assert!(
        told("CLIENTS_KEY is a client's key of this gateway"),
        "{log}"
    );
    for words in ["sk-of-", KEY, "APART_KEY is", "VLLM_API_KEY is"] {
        assert!(!told(words), "{log}");
    }
}
