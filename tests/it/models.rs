//! The list of models: what is known, at once, without waking anybody or making anything up.

use std::time::{Duration, Instant};

use serde_json::json;

use super::expect::refusal;
use super::fakes::model_server::{Answer, Behaviour, Call, Fault, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::Gate;

const NOBODY: (&str, &str) = ("x-api-key", "");
const WRONG: (&str, &str) = ("x-api-key", "sk-wrong-0123456789abcdef");

async fn start(model: &str, settings: &[(&str, &str)]) -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings {
        model: model.to_owned(),
        ..Settings::default()
    })
    .await;
    let gate = Gate::with(&server.url(), settings).await;
    (server, gate)
}

async fn get(gate: &Gate, path: &str) -> Reply {
    gate.ask(&format!("GET {path}"), &[NOBODY], b"").await
}

fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let list = reply.json();
    assert_eq!(list["object"], "list");
    let cards = list["data"].as_array().expect("a list");
    for card in cards {
        assert_eq!(card["object"], "model");
        assert!(
            card["created"].is_u64() && card["owned_by"].is_string(),
            "{card}"
        );
    }
    cards
        .iter()
        .filter_map(|card| Some(card["id"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test]
async fn models_are_listed_with_their_context_and_aliases() {
    let model = "org/tiny-chat";
    let (_server, gate) = start(
        model,
        &[("MODEL_ALIASES", "small=org/tiny-chat,any=*,gone=nobody")],
    )
    .await;
    let list = get(&gate, "/v1/models").await;
    assert_eq!(ids(&list), [model, "any", "small"]);
    assert!(
        list.json()["data"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|card| card["max_model_len"] == 2048)
    );
    assert_eq!(ids(&get(&gate, "/models").await).len(), 3);
    for path in [
        "/v1/models/org/tiny-chat",
        "/v1/models/org%2Ftiny-chat",
        "/models/org%2ftiny-chat/",
    ] {
        let reply = get(&gate, path).await;
        assert_eq!(
            (reply.status, &reply.json()["id"]),
            (200, &json!(model)),
            "{path}"
        );
    }
    assert_eq!(get(&gate, "/v1/models/small").await.json()["id"], "small");
    for path in [
        "/v1/models/nobody",
        "/v1/models/gone",
        "/v1/models/tiny-chat",
        "/v1/models/org",
    ] {
        refusal(&get(&gate, path).await, 404, "model_not_found");
    }
    refusal(
        &gate.ask("GET /v1/models", &[WRONG], b"").await,
        401,
        "invalid_api_key",
    );
    refusal(
        &gate.ask("GET /v1/models/small", &[WRONG], b"").await,
        401,
        "invalid_api_key",
    );
    assert_eq!(gate.ask("GET /v1/models", &[], b"").await.status, 200);
    refusal(
        &gate.ask("POST /v1/models", &[], b"").await,
        405,
        "method_not_allowed",
    );
}

#[tokio::test]
async fn private_models_need_a_key() {
    let (_server, gate) = start("tiny-chat", &[("PUBLIC_MODELS", "false")]).await;
    for path in ["/v1/models", "/v1/models/tiny-chat"] {
        refusal(&get(&gate, path).await, 401, "missing_api_key");
        let line = format!("GET {path}");
        refusal(
            &gate.ask(&line, &[WRONG], b"").await,
            401,
            "invalid_api_key",
        );
        assert_eq!(gate.ask(&line, &[], b"").await.status, 200);
    }
}

#[tokio::test]
async fn models_of_an_upstream_that_does_not_answer_come_within_a_second() {
    let aliases = ["llm-user-managed", "opencode-llm"];
    let mut server = ModelServer::refusing(Settings::default());
    let gate = Gate::with(&server.url(), &[]).await;
    let list = async |gate: &Gate| {
        let started = Instant::now();
        let reply = get(gate, "/v1/models").await;
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
        ids(&reply)
    };
    assert_eq!(list(&gate).await, aliases);
    let alias = get(&gate, "/v1/models/opencode-llm").await;
    assert_eq!(alias.status, 200);
    assert_eq!(alias.json().get("root"), None, "nothing is made up");
    refusal(
        &get(&gate, "/v1/models/tiny-chat").await,
        404,
        "model_not_found",
    );
    server.resume().await;
    assert_eq!(
        list(&gate).await,
        ["tiny-chat", "llm-user-managed", "opencode-llm"]
    );
    // What was learnt stays when the upstream goes, and while a call waits for it.
    server.stop().await;
    let hello = serde_json::json!({"messages": [{"role": "user", "content": "Hello"}]});
    let waiting = gate.post("/v1/chat/completions", &hello);
    let _ = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert_eq!(
        list(&gate).await,
        ["tiny-chat", "llm-user-managed", "opencode-llm"]
    );

    for fault in [
        Behaviour::fault(Fault::MuteBeforeHead),
        Behaviour::answer(Answer::html(500, "<p>")),
    ] {
        let server = ModelServer::start(Settings::default()).await;
        server.on("/v1/models", fault);
        let gate = Gate::before(&server).await;
        assert_eq!(list(&gate).await, aliases);
    }

    // Nor does it wait for a call that asks.
    let server = ModelServer::start(Settings::default()).await;
    server.on("/v1/models", Behaviour::fault(Fault::MuteBeforeHead));
    let gate = Gate::before(&server).await;
    let body = json!({"max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]});
    let listed = async {
        let asks = |call: &Call| call.path == "/v1/models";
        server.wait_for(|calls| calls.iter().any(asks)).await;
        list(&gate).await
    };
    tokio::select! {
        reply = gate.post("/v1/chat/completions", &body) => panic!("{}", reply.text()),
        listed = listed => assert_eq!(listed, aliases),
    }
}
