//! Users: what they register, show, change and see, as a new user would try it.

mod admins;
mod docs;
mod forged;
mod input;
mod life;
mod open;
mod seeds;
mod shared;
mod slow;
mod usage;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fakes::model_server::{ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, PATIENCE};

const CHAT: &str = "/v1/chat/completions";
/// No credential at all.
const NOBODY: (&str, &str) = ("x-api-key", "");
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const PASSWORD: &str = "correct horse battery";

async fn start(settings: &[(&str, &str)]) -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with(&server.url(), settings).await;
    (server, gate)
}

/// Somebody who has registered and logged in.
struct Person {
    id: i64,
    name: String,
    key: String,
    token: String,
    refresh: String,
}

impl Person {
    /// Registers with a password of [`PASSWORD`] and logs in.
    async fn join(gate: &Gate, name: &str) -> Self {
        let reply = register(gate, &json!({"username": name, "password": PASSWORD})).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let user = reply.json();
        let tokens = log_in(gate, name, PASSWORD).await;
        assert_eq!(tokens.status, 200, "{}", tokens.text());
        Self {
            id: user["id"].as_i64().expect("an id"),
            name: name.to_owned(),
            key: text(&user["api_key"]),
            token: text(&tokens.json()["access_token"]),
            refresh: text(&tokens.json()["refresh_token"]),
        }
    }

    /// A request with the access token.
    async fn ask(&self, gate: &Gate, line: &str, body: &Value) -> Reply {
        with_token(gate, &self.token, line, body).await
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// A request with this token or key as Bearer; a body of null is none.
async fn with_token(gate: &Gate, token: &str, line: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let headers = [("authorization", bearer.as_str()), JSON];
    gate.ask(line, &headers, body.as_bytes()).await
}

async fn register(gate: &Gate, body: &Value) -> Reply {
    post(gate, "/auth/register", body).await
}

async fn log_in(gate: &Gate, name: &str, password: &str) -> Reply {
    let body = json!({"username": name, "password": password});
    post(gate, "/auth/token", &body).await
}

/// A JSON body without credentials.
async fn post(gate: &Gate, path: &str, body: &Value) -> Reply {
    let line = format!("POST {path}");
    gate.ask(&line, &[NOBODY, JSON], body.to_string().as_bytes())
        .await
}

/// A chat of one word.
async fn chat(gate: &Gate, token: &str) -> Reply {
    let body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]});
    with_token(gate, token, &format!("POST {CHAT}"), &body).await
}

/// The names of an object's members, in order.
fn members(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// The audit lines, as actor, action and subject, once there are `count`.
async fn audit(gate: &Gate, count: usize) -> Vec<(String, String, String)> {
    let read = || -> Vec<_> {
        let lines = gate.log();
        let audit = lines.iter().filter(|line| line["message"] == "audit");
        audit
            .map(|line| {
                (
                    text(&line["actor"]),
                    text(&line["action"]),
                    text(&line["subject"]),
                )
            })
            .collect()
    };
    let began = Instant::now();
    while read().len() < count && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    read()
}
