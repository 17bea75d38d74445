//! The asked output fits into the model's context, whatever the client asked for: the configuration
//! of the seed documents asks for 32000 tokens of a model with a context of 32768.

use serde_json::{Value, json};

use super::calls::row_of;
use super::fakes::golden::normal;
use super::fakes::model_server::{Answer, Behaviour, Call, Dialect, ModelServer, Settings};
use super::fakes::wire::{self, Reply};
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";
const CONTEXT: u64 = 32768;

async fn server(refuses_overflow: bool) -> ModelServer {
    ModelServer::start(Settings {
        max_model_len: CONTEXT,
        refuses_overflow,
        ..Settings::default()
    })
    .await
}

/// A prompt of some 3000 tokens, as an agent's first one.
fn agent(limit: &str) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "bash", "description": "run it ".repeat(500), "parameters": {"type": "object"}}}]);
    json!({"model": "opencode-llm", "messages": [{"role": "user", "content": "Hello there ".repeat(500)}], "tools": tools, limit: 32000})
}

/// Those of the calls that may have generated.
fn sent(server: &ModelServer) -> Vec<Call> {
    server
        .model_calls()
        .into_iter()
        .filter(|call| !call.path.ends_with("count_tokens"))
        .collect()
}

fn counted(server: &ModelServer) -> usize {
    let counts = |call: &&Call| call.path == "/tokenize" || call.path.ends_with("count_tokens");
    server.calls().iter().filter(counts).count()
}

#[tokio::test]
async fn thirty_two_thousand_tokens_of_a_32k_model_are_lowered_to_what_is_left() {
    let server = server(true).await;
    let mut gate = Gate::before(&server).await;
    let text = "Hello there ".repeat(500);
    let cases = [
        (CHAT, agent("max_tokens"), "max_tokens"),
        (
            CHAT,
            agent("max_completion_tokens"),
            "max_completion_tokens",
        ),
        (
            "/v1/completions",
            json!({"prompt": text, "max_tokens": 32000}),
            "max_tokens",
        ),
        (
            "/v1/messages",
            json!({"model": "tiny-chat", "messages": [{"role": "user", "content": text}], "max_tokens": 32000}),
            "max_tokens",
        ),
    ];
    for (path, body, limit) in cases {
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let call = sent(&server).pop().expect("a call");
        assert_eq!(call.json()[limit], CONTEXT - call.prompt_tokens, "{path}");
        let row = row_of(&mut gate, &reply).await;
        // Messages are counted only when they were refused.
        let attempts = if path == "/v1/messages" { 2 } else { 1 };
        assert_eq!(row["attempts"], attempts, "{path}");
        assert_eq!(row["outcome"], "complete", "{path}");
    }
    assert_eq!(sent(&server).len(), 5);
}

#[tokio::test]
async fn what_fits_is_neither_counted_nor_changed() {
    let server = ModelServer::start(Settings {
        max_model_len: 131_072,
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    let body = agent("max_tokens");
    assert_eq!(gate.post(CHAT, &body).await.status, 200);
    assert_eq!(counted(&server), 0);
    assert_eq!(sent(&server)[0].json()["max_tokens"], 32000);
}

#[tokio::test]
async fn what_fits_after_all_is_not_changed() {
    let server = server(true).await;
    let gate = Gate::before(&server).await;
    let mut body = agent("max_tokens");
    body["max_tokens"] = json!(20_000);
    assert_eq!(gate.post(CHAT, &body).await.status, 200);
    assert_eq!(counted(&server), 1, "bytes could not tell");
    assert_eq!(sent(&server)[0].json()["max_tokens"], 20_000);
}

#[tokio::test]
async fn a_refusal_of_prompt_and_output_together_is_sent_once_more_lowered() {
    let server = server(true).await;
    let list = r#"{"object":"list","data":[{"id":"tiny-chat","object":"model"}]}"#;
    server.on("/v1/models", Behaviour::answer(Answer::json(200, list)));
    let mut gate = Gate::before(&server).await;
    let reply = gate.post(CHAT, &agent("max_tokens")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let calls = sent(&server);
    assert_eq!(calls.len(), 2);
    assert_eq!(
        calls[1].json()["max_tokens"],
        CONTEXT - calls[1].prompt_tokens
    );
    assert_eq!(calls[0].request_id(), calls[1].request_id());
    assert_eq!(row_of(&mut gate, &reply).await["attempts"], 2);
}

#[tokio::test]
async fn without_a_way_to_count_a_chat_goes_once_more_without_a_maximum() {
    let server = server(true).await;
    server.on(
        "/tokenize",
        Behaviour::answer(Answer::json(404, "{\"detail\":\"Not Found\"}")),
    );
    let mut gate = Gate::before(&server).await;
    let mut body = agent("max_tokens");
    body["max_completion_tokens"] = json!(32000);
    let reply = gate.post(CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let calls = sent(&server);
    assert_eq!(calls.len(), 2);
    assert!(calls[1].json().get("max_tokens").is_none());
    assert!(calls[1].json().get("max_completion_tokens").is_none());
    assert_eq!(row_of(&mut gate, &reply).await["attempts"], 2);
    // Another route cannot do without; the upstream's words tell why it is refused.
    let body = json!({"prompt": "Hello there ".repeat(500), "max_tokens": 32000});
    let direct = wire::post(server.addr(), "/v1/completions", &body).await;
    let reply = gate.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 400);
    assert_eq!(normal(&reply.json()), normal(&direct.json()));
    assert_eq!(sent(&server).len(), 4);
}

fn is_too_long(path: &str, reply: &Reply, direct: &Value) {
    assert_eq!(reply.status, 400, "{path}: {}", reply.text());
    let body = reply.json();
    assert_eq!(
        body["error"]["message"], direct["error"]["message"],
        "{path}"
    );
    if path == "/v1/messages" {
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    } else {
        assert_eq!(body["error"]["code"], "context_length_exceeded", "{path}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_said_to_be_and_sent_once() {
    for dialect in [Dialect::Python, Dialect::Rust] {
        let server = ModelServer::start(Settings {
            dialect,
            ..Settings::default()
        })
        .await;
        let mut gate = Gate::before(&server).await;
        let text = "Hello there ".repeat(1000);
        let message = json!([{"role": "user", "content": text}]);
        for (path, body) in [
            (CHAT, json!({"messages": message})),
            (CHAT, json!({"messages": message, "max_tokens": 32000})),
            (CHAT, json!({"messages": message, "stream": true})),
            ("/v1/completions", json!({"prompt": text, "max_tokens": 5})),
            (
                "/v1/messages",
                json!({"messages": message, "max_tokens": 32000, "model": "tiny-chat"}),
            ),
            ("/v1/responses", json!({"input": text})),
        ] {
            if dialect == Dialect::Rust && !path.ends_with("/completions") {
                continue;
            }
            let direct = wire::post(server.addr(), path, &body).await.json();
            let before = sent(&server).len();
            let counts = counted(&server);
            let reply = gate.post(path, &body).await;
            assert!(counted(&server) <= counts + 1, "{path}: counted once");
            let is_prompt = direct["error"]["message"]
                .as_str()
                .is_some_and(|text| text.contains("prompt"));
            if is_prompt {
                is_too_long(path, &reply, &direct);
            }
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["error_code"], "context_length_exceeded", "{path}");
            assert_eq!(row["attempts"], 1, "{path}");
            assert_eq!(sent(&server).len(), before + 1, "{path}: sent once");
        }
    }
}

#[tokio::test]
async fn a_server_that_lowers_by_itself_is_left_to_it() {
    let server = ModelServer::start(Settings {
        dialect: Dialect::Rust,
        ..Settings::default()
    })
    .await;
    server.on("/tokenize", Behaviour::answer(Answer::empty(404)));
    let gate = Gate::before(&server).await;
    let body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32000});
    assert_eq!(gate.post(CHAT, &body).await.status, 200);
    assert_eq!(sent(&server).len(), 1);
}

#[tokio::test]
async fn other_servers_words_for_length_are_understood() {
    let server = ModelServer::start(Settings {
        dialect: Dialect::Foreign,
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    let body = json!({"messages": [{"role": "user", "content": "Hello"}]});
    for text in [
        "the request exceeds the available context size, try increasing it",
        "This model's maximum context length is 8192 tokens, however the messages resulted in 9000 tokens",
        "Trying to keep the first 9000 tokens when context overflows. However, the model is loaded with context length of only 4096 tokens",
    ] {
        let error =
            json!({"error": {"message": text, "type": "exceed_context_size_error", "code": 400}});
        server.next(Behaviour::answer(Answer::json(400, error.to_string())));
        let reply = gate.post(CHAT, &body).await;
        assert_eq!(
            reply.json()["error"]["code"],
            "context_length_exceeded",
            "{text}"
        );
        assert_eq!(reply.json()["error"]["message"], text);
    }
    // A bad value is not about length.
    let error = r#"{"error":{"message":"max_tokens must be at least 1","type":"BadRequestError","param":null,"code":400}}"#;
    server.next(Behaviour::answer(Answer::json(400, error)));
    assert_eq!(gate.post(CHAT, &body).await.text(), error);
}
