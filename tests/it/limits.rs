//! Token budgets, minute limits and concurrency in the life of a call, seen from outside.

mod ended;
mod held;
mod lowered;
mod minute;
mod refused;
mod standing;

use std::time::Duration;

use serde_json::{Value, json};

use super::calls::row_of;
use super::fakes::model_server::{Call, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{ADMIN, Gate, KEY, PATIENCE};

const CHAT: &str = "/v1/chat/completions";
/// A key without limits.
const FREE: &str = "sk-free-0123456789abcdef";

/// A gateway whose plain key has these limits.
async fn limited(server: &ModelServer, limits: Value) -> Gate {
    limited_with(server, limits, &[]).await
}

async fn limited_with(server: &ModelServer, limits: Value, settings: &[(&str, &str)]) -> Gate {
    Gate::with_keys(&server.url(), settings, &keys(limits)).await
}

/// The key set with these limits on the plain key.
fn keys(limits: Value) -> Value {
    let mut test = limits;
    test["key"] = json!(KEY);
    json!({"test": test, "free": FREE, "ops": {"key": ADMIN, "admin": true}})
}

/// A call of every route, short.
fn every_route() -> Vec<(&'static str, Value)> {
    let said = json!([{"role": "user", "content": "Hello"}]);
    vec![
        (CHAT, json!({"messages": said, "max_tokens": 8})),
        (
            "/v1/completions",
            json!({"prompt": "Hello", "max_tokens": 8}),
        ),
        ("/v1/embeddings", json!({"input": "Hello"})),
        (
            "/v1/responses",
            json!({"input": "Hello", "max_output_tokens": 8}),
        ),
        ("/v1/messages", json!({"messages": said, "max_tokens": 8})),
        ("/v1/messages/count_tokens", json!({"messages": said})),
        (
            "/v1/rerank",
            json!({"query": "Hello", "documents": ["Hello"]}),
        ),
        ("/v1/score", json!({"text_1": "Hello", "text_2": "Hello"})),
        ("/tokenize", json!({"prompt": "Hello"})),
        ("/detokenize", json!({"tokens": [104]})),
    ]
}

/// A server of every route.
async fn every_route_served() -> ModelServer {
    ModelServer::start(Settings {
        pooling: true,
        ..Settings::default()
    })
    .await
}

fn hello(max_tokens: u64) -> Value {
    json!({"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": max_tokens})
}

/// What a call cost its budget, once that is written, and what had been reserved for it.
async fn cost_of(gate: &mut Gate, reply: &Reply) -> Cost {
    row_of(gate, reply).await;
    Cost::of(gate, reply.header("x-request-id"))
}

/// What the log says of a call on a lease.
#[derive(Debug)]
struct Cost {
    reserved: u64,
    charged: u64,
}

impl Cost {
    fn of(gate: &Gate, request_id: &str) -> Self {
        let log = gate.log();
        let line = |message: &str, id: fn(&Value) -> &Value| {
            let mut found = log
                .iter()
                .filter(|line| line["message"] == message && *id(line) == request_id);
            let line = found.next().unwrap_or_else(|| panic!("no line {message}"));
            assert!(found.next().is_none(), "one line {message}");
            line["budget"].clone()
        };
        let reserved = line("reserved", |line| &line["request_id"]);
        let charged = line("usage", |line| &line["usage"]["request_id"]);
        assert_eq!(
            (&reserved["lease"], &reserved["number"]),
            (&charged["lease"], &charged["number"])
        );
        Self {
            reserved: reserved["tokens"].as_u64().expect("tokens"),
            charged: charged["charged"].as_u64().expect("tokens"),
        }
    }
}

/// Somebody who has registered; the key.
async fn user(gate: &Gate, name: &str, token_limit: u64) -> String {
    let body = json!({"username": name, "password": "a-long-password", "token_limit": token_limit});
    let headers = [("content-type", "application/json"), ("x-api-key", ADMIN)];
    let reply = gate
        .ask("POST /auth/register", &headers, body.to_string().as_bytes())
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["api_key"].as_str().expect("a key").to_owned()
}

/// What the engine made of a call.
fn worked(call: &Call) -> u64 {
    call.prompt_tokens + call.completion_tokens
}

/// Tokens used as the key itself is told, once they are `expected`.
async fn used(gate: &Gate, expected: u64) {
    let asked = async {
        loop {
            let reply = gate.ask("GET /users/me", &[], b"").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            if reply.json()["tokens_used"] == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, asked).await.is_ok();
    let reply = gate.ask("GET /users/me", &[], b"").await;
    assert!(in_time, "{expected} used: {}", reply.text());
}
