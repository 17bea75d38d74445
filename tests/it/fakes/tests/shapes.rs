//! The scripted engine speaks as the recorded servers do: the same keys, in the same order.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fakes::golden;
use crate::fakes::model_server::recording::{self, Recording};
use crate::fakes::model_server::{Behaviour, Dialect, ModelServer, Settings, sse};
use crate::fakes::wire;

async fn scripted(dialect: Dialect) -> ModelServer {
    ModelServer::start(Settings {
        dialect,
        ..Settings::default()
    })
    .await
}

/// Keys and kinds of values, whatever the values are. Of a list: what its items look like.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(shape).collect();
            format!("{shapes:?}")
        }
        Value::Object(object) => {
            let pairs: Vec<String> = object
                .iter()
                .map(|(key, inner)| format!("{key}: {}", shape(inner)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// The distinct shapes of an answer's parts.
fn shapes(body: &[u8], stream: bool) -> BTreeSet<String> {
    let mut shapes = BTreeSet::new();
    if !stream {
        let value = serde_json::from_slice(body).unwrap_or_else(|_| json!("no JSON"));
        return BTreeSet::from([shape(&value)]);
    }
    for event in sse::split(body) {
        let data = sse::data(&event).expect("every event has data");
        let found = serde_json::from_str(&data).map_or(data, |value| shape(&value));
        shapes.insert(found);
    }
    shapes
}

fn recorded(dialect: Dialect, name: &str) -> Recording {
    let mut all = recording::load_all(&golden::folder(dialect)).into_iter();
    all.find(|found| found.name == name)
        .unwrap_or_else(|| panic!("no recording {name}"))
}

async fn check_shape(server: &ModelServer, dialect: Dialect, name: &str) {
    let recording = recorded(dialect, name);
    let body = recording.request_json().expect("a JSON body");
    let call_tool = name.contains("tool").then(String::new);
    server.always(Behaviour {
        call_tool,
        ..Behaviour::default()
    });
    let reply = wire::post(server.addr(), &recording.path, &body).await;
    assert_eq!(
        reply.status,
        recording.status.as_u16(),
        "{name}: {}",
        reply.text()
    );
    assert_eq!(
        reply.header("content-type"),
        recording.headers["content-type"],
        "{name}"
    );
    let (ours, theirs) = (
        shapes(&reply.body, recording.is_stream()),
        shapes(&recording.body, recording.is_stream()),
    );
    assert_eq!(ours, theirs, "{name}");
}

#[tokio::test]
async fn answers_have_the_shape_of_the_python_servers() {
    let server = scripted(Dialect::Python).await;
    for name in [
        "chat",
        "chat-n2",
        "tools-auto",
        "tools-named",
        "completions",
        "completions-prompt-list",
        "completions-echo",
        "responses",
        "responses-length",
        "responses-stream",
        "responses-tools-auto-stream",
        "messages",
        "messages-length",
        "messages-stream",
        "messages-tool-auto",
        "messages-tool-auto-stream",
        "messages-count-tokens",
        "tokenize-messages",
        "tokenize-with-strings",
        "detokenize",
        "streams/chat-stream.plain",
        "streams/chat-stream.usage",
        "streams/chat-stream.continuous",
        "streams/chat-stream-length.plain",
        "streams/chat-stream-length.usage",
        "streams/chat-stream-length.continuous",
        "streams/chat-n2-stream.continuous",
        "streams/tools-auto-stream.plain",
        "streams/tools-auto-stream.continuous",
        "streams/completions-stream.plain",
        "streams/completions-stream.usage",
        "streams/completions-stream.continuous",
        "streams/completions-echo-stream.continuous",
        "streams/completions-prompt-list-n2-stream.plain",
    ] {
        check_shape(&server, Dialect::Python, name).await;
    }
}

#[tokio::test]
async fn answers_have_the_shape_of_the_rust_front_ends() {
    let server = scripted(Dialect::Rust).await;
    for name in [
        "chat",
        "completions",
        "tokenize-messages",
        "streams/chat-stream.plain",
        "streams/chat-stream.usage",
        "streams/chat-stream.continuous",
        "streams/chat-stream-length.continuous",
        "streams/completions-stream.plain",
        "streams/completions-stream.usage",
        "streams/completions-stream.continuous",
    ] {
        check_shape(&server, Dialect::Rust, name).await;
    }
}

#[tokio::test]
async fn refusals_are_worded_as_the_python_server_words_them() {
    let server = scripted(Dialect::Python).await;
    for name in [
        "chat-n2-temperature0",
        "chat-stream-options-without-stream-400",
        "completions-missing-prompt",
        "completions-unknown-model-404",
        "embeddings-generate-model",
        "error-empty-body",
        "error-empty-messages",
        "error-max-tokens-0",
        "error-max-tokens-huge-400",
        "error-max-tokens-huge-stream-400",
        "error-max-tokens-negative",
        "error-max-tokens-wrong-type-400",
        "error-messages-not-a-list-400",
        "error-missing-messages-400",
        "error-n-0",
        "error-unknown-model-404",
        "error-unknown-model-stream-404",
        "messages-missing-max-tokens",
        "messages-unknown-model-404",
        "responses-missing-input",
        "responses-previous-id-unknown",
        "responses-unknown-model-404",
        "tools-choice-without-tools-400",
        "tools-named-unknown-400",
        "get-unknown-path-404",
        "get-chat-405",
        "get-version",
    ] {
        let recording = recorded(Dialect::Python, name);
        let line = format!("{} {}", recording.method, recording.path);
        let headers = [("content-type", "application/json")];
        let reply = wire::exchange(server.addr(), &line, &headers, &recording.request_body).await;
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, recording.status.as_u16(), "{name}");
        assert_eq!(reply.json(), recording.json().unwrap_or_default(), "{name}");
    }
}
