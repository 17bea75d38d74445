//! What may have begun is sent once, whoever else could take it; and what is known of a server is
//! doubted when the server says otherwise.

use std::time::Duration;

use serde_json::{Value, json};

use super::calls::row_of;
use super::expect::refusal;
use super::fakes::model_server::{Answer, Behaviour, Fault, ModelServer, Settings};
use super::harness::{Gate, KEY, command};

const CHAT: &str = "/v1/chat/completions";
const NARROW: &str = "sk-narrow-0123456789abcdef";

async fn gate(file: &str, settings: &[(&str, &str)]) -> Gate {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = json!({"test": KEY, "narrow": {"key": NARROW, "models": ["small"]}});
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).expect("keys");
    std::fs::write(folder.path().join("upstreams.toml"), file).expect("a file");
    let mut command = command(folder.path(), "", settings);
    command
        .env_remove("VLLM_ENDPOINT")
        .env("UPSTREAMS_FILE", "upstreams.toml");
    Gate::run(folder, command).await
}

async fn server_of(model: &str) -> ModelServer {
    let model = model.to_owned();
    ModelServer::start(Settings {
        model,
        ..Settings::default()
    })
    .await
}

fn entry(name: &str, server: &ModelServer, more: &str) -> String {
    let url = server.url();
    format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{url}\"]\n{more}\n")
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
}

fn list(model: &str) -> Behaviour {
    let list = json!({"object": "list", "data": [{"id": model, "object": "model"}]});
    Behaviour::answer(Answer::json(200, list.to_string()))
}

#[tokio::test]
async fn a_call_that_was_sent_to_a_silent_server_goes_nowhere_else() {
    let (silent, other) = (server_of("tiny-chat").await, server_of("other").await);
    let mute = || Behaviour::fault(Fault::MuteBeforeHead);
    silent.on("/v1/models", mute());
    silent.on("/version", mute());
    silent.always(mute());
    let models = "models = [\"tiny-chat\"]\nfallback = [\"b\"]";
    let file = entry("a", &silent, models) + &entry("b", &other, "models = [\"other\"]");
    let mut gate = gate(&file, &[("COLD_START_WAIT_SECONDS", "7")]).await;
    // The other one is known to be up.
    assert_eq!(gate.post(CHAT, &chat("other")).await.status, 200);
    let reply = gate.post(CHAT, &chat("tiny-chat")).await;
    refusal(&reply, 503, "upstream_starting");
    assert_eq!(other.model_calls().len(), 1, "it may have begun");
    assert_eq!(silent.model_calls().len(), 1);
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(row["attempts"], 1, "{row}");
}

#[tokio::test]
async fn a_fallback_is_held_against_the_list_of_models_by_its_own_name() {
    let (small, large) = (server_of("small").await, server_of("large").await);
    small.always(Behaviour::answer(Answer::queue_full()));
    let file = entry("a", &small, "models = [\"small\"]\nfallback = [\"b\"]")
        + &entry("b", &large, "models = [\"large\"]");
    let gate = gate(&file, &[]).await;
    let ask = async |key: &str| {
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let body = chat("small").to_string();
        let line = format!("POST {CHAT}");
        gate.ask(&line, &headers, body.as_bytes()).await
    };
    assert_eq!(ask(KEY).await.status, 200, "the fallback takes it");
    refusal(&ask(NARROW).await, 503, "overloaded");
    assert_eq!(large.model_calls().len(), 1);
}

#[tokio::test]
async fn an_alias_follows_a_server_that_serves_another_model_now() {
    let server = server_of("new").await;
    server.on("/v1/models", list("old"));
    let gate = Gate::with(&server.url(), &[]).await;
    refusal_of_model(&gate.post(CHAT, &chat("opencode-llm")).await.json());
    server.on("/v1/models", list("new"));
    // Lists are not asked again before this time.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let reply = gate.post(CHAT, &chat("opencode-llm")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let calls = server.model_calls();
    assert_eq!(calls.last().expect("a call").json()["model"], "new");
}

fn refusal_of_model(body: &Value) {
    let text = body["error"]["message"].as_str().expect("a text");
    assert!(text.contains("old"), "{text}");
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_model_is_asked_for_it() {
    let mut server = server_of("new").await;
    server.on("/v1/models", list("old"));
    let gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "1")]).await;
    assert_eq!(gate.post(CHAT, &chat("old")).await.status, 404);
    server.stop().await;
    refusal(
        &gate.post(CHAT, &chat("old")).await,
        502,
        "upstream_unreachable",
    );
    server.on("/v1/models", list("new"));
    server.resume().await;
    let reply = gate.post(CHAT, &chat("new")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_call_waits_once_however_many_addresses_sleep() {
    let servers: Vec<ModelServer> = (0..3)
        .map(|_| ModelServer::refusing(Settings::default()))
        .collect();
    let urls: Vec<String> = servers.iter().map(ModelServer::url).collect();
    let file = format!("[[upstream]]\nname = \"gpu\"\nurls = {urls:?}\nscale_to_zero = true\n");
    let mut gate = gate(&file, &[("COLD_START_WAIT_SECONDS", "4")]).await;
    let reply = gate.post(CHAT, &chat("tiny-chat")).await;
    assert!(reply.status >= 502, "{}", reply.text());
    let row = row_of(&mut gate, &reply).await;
    let waited_ms = row["wait_ms"].as_u64().expect("a time");
    assert!(waited_ms < 8_000, "once, not three times: {waited_ms} ms");
}
