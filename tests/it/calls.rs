//! Model calls and their rows, as several tests need them.

use serde_json::{Value, json};

use super::fakes::golden::normal_events;
use super::fakes::wire::Reply;
use super::harness::Gate;

/// The APIs that stream: path, and a request.
pub fn streaming() -> [(&'static str, Value); 4] {
    [
        ("/v1/chat/completions", chat()),
        ("/v1/completions", completion()),
        ("/v1/responses", responses()),
        ("/v1/messages", messages()),
    ]
}

pub fn chat() -> Value {
    json!({"model": "tiny-chat", "stream": true, "messages": [{"role": "user", "content": "Hello there"}]})
}

pub fn completion() -> Value {
    json!({"model": "tiny-chat", "stream": true, "prompt": "The quick brown", "max_tokens": 40})
}

pub fn responses() -> Value {
    json!({"model": "tiny-chat", "stream": true, "input": "Hello there"})
}

pub fn messages() -> Value {
    json!({"model": "tiny-chat", "stream": true, "max_tokens": 40, "messages": [{"role": "user", "content": "Hello there"}]})
}

/// The body with one more member.
pub fn with(mut body: Value, key: &str, value: Value) -> Value {
    body[key] = value;
    body
}

/// The row of an answered call, once it is written.
pub async fn row_of(gate: &mut Gate, reply: &Reply) -> Value {
    let id = reply.header("x-request-id").to_owned();
    let mut wanted = 1;
    loop {
        let rows = gate.rows(wanted).await;
        if let Some(row) = rows.iter().find(|row| row["request_id"] == id.as_str()) {
            return row.clone();
        }
        wanted = rows.len() + 1;
    }
}

/// The events of an answer that ends with an error event of its API's shape: those before it.
/// `code` is the number that the APIs with a code in their shape show.
pub fn before_error(path: &str, reply: &Reply, code: u16) -> Vec<(String, Value)> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.complete, "the answer broke off: {}", reply.text());
    let mut events = normal_events(&reply.body);
    let (name, error) = events.pop().expect("an event");
    let object = match path {
        "/v1/responses" | "/v1/messages" => {
            assert_eq!((name.as_str(), &error["type"]), ("error", &json!("error")));
            if path == "/v1/messages" {
                &error["error"]
            } else {
                &error
            }
        }
        _ => {
            assert_eq!(name, "");
            assert_eq!(error["error"]["code"], code, "{error}");
            assert_eq!(error["error"]["type"], "server_error");
            &error["error"]
        }
    };
    let text = object["message"].as_str().expect("a text");
    assert!(
        !text.is_empty() && !text.contains(|c: char| c.is_ascii_digit()),
        "{text}"
    );
    assert!(!reply.text().contains("[DONE]"), "{}", reply.text());
    events
}
