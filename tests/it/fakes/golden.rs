//! What a client of the gateway must see for each recorded exchange, when the upstream answers as
//! recorded. One entry or rule for every recording, so that a new one without either fails a test.
//! It knows the contract, not the gateway.

use std::path::PathBuf;

use http::Method;
use serde_json::{Map, Value, json};

use super::model_server::Dialect;
use super::model_server::recording::{self, Recording};
use super::model_server::sse;

/// What the client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Status and body as recorded, ids and times aside; of a stream each event.
    Same,
    /// A stream's content as recorded, though pieces may come together in one event: the Rust front
    /// end joins them itself when it is asked for running usage.
    SameContent,
    /// An error object of the gateway with this code.
    Error { status: u16, code: &'static str },
    /// The same, with the upstream's text.
    ErrorWithItsText { status: u16, code: &'static str },
    /// An error object with this status, of the gateway or of the upstream, whoever looks first.
    AnyError { status: u16 },
    /// The asked output is lowered to what fits, and there is an answer.
    Lowered,
    /// The stream up to its error event, that one included, and nothing after it.
    UpToItsError,
    /// The gateway answers by itself; other tests say what.
    Own,
}

/// A recording and what the client sees of it.
pub struct Golden {
    pub recording: Recording,
    pub seen: Seen,
}

impl Golden {
    /// Whether its errors have Anthropic's shape.
    pub fn anthropic(&self) -> bool {
        self.recording.path.starts_with("/v1/messages")
    }
}

/// The folder of a server's recordings.
pub fn folder(dialect: Dialect) -> PathBuf {
    let name = match dialect {
        Dialect::Rust => "vllm-0.32.0-rust",
        Dialect::Python | Dialect::Foreign => "vllm-0.32.0",
    };
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Every recording of a server with what the client sees.
///
/// # Panics
/// When a recording has neither an entry nor a rule.
pub fn all(dialect: Dialect) -> Vec<Golden> {
    let recordings = recording::load_all(&folder(dialect)).into_iter();
    recordings
        .map(|recording| {
            let seen = seen(&recording, dialect);
            let seen = seen.unwrap_or_else(|| panic!("nothing is expected of {}", recording.name));
            Golden { recording, seen }
        })
        .collect()
}

const INVALID: Seen = Seen::Error {
    status: 400,
    code: "invalid_request",
};
const TOO_LONG: Seen = Seen::ErrorWithItsText {
    status: 400,
    code: "context_length_exceeded",
};
const NOT_FOUND: Seen = Seen::Error {
    status: 404,
    code: "not_found",
};
const NO_KEY_OF_OURS: Seen = Seen::Error {
    status: 502,
    code: "upstream_error",
};
const FULL: Seen = Seen::Error {
    status: 503,
    code: "overloaded",
};
const NO_JSON_TYPE: Seen = Seen::Error {
    status: 415,
    code: "unsupported_media_type",
};

/// Recordings that are not simply passed on, by name without folder.
const ENTRIES: [(&str, Seen); 47] = [
    ("audio-generate-model", Seen::Own),
    ("completions-context-length-400", TOO_LONG),
    ("completions-missing-prompt", Seen::AnyError { status: 400 }),
    ("completions-prompt-list", Seen::Same),
    (
        "completions-unknown-model-404",
        Seen::AnyError { status: 404 },
    ),
    ("embeddings-generate-model", Seen::AnyError { status: 404 }),
    ("error-context-length-400", TOO_LONG),
    ("error-context-length-stream-400", TOO_LONG),
    ("error-empty-body", INVALID),
    ("error-empty-messages", Seen::AnyError { status: 400 }),
    ("error-json-not-an-object", INVALID),
    ("error-malformed-json-400", INVALID),
    ("error-max-tokens-huge-400", Seen::Lowered),
    ("error-max-tokens-huge-stream-400", Seen::Lowered),
    ("error-max-tokens-wrong-type-400", INVALID),
    (
        "error-messages-not-a-list-400",
        Seen::AnyError { status: 400 },
    ),
    ("error-missing-messages-400", Seen::AnyError { status: 400 }),
    ("error-no-content-type", NO_JSON_TYPE),
    ("error-text-content-type", NO_JSON_TYPE),
    ("error-unknown-model-404", Seen::AnyError { status: 404 }),
    (
        "error-unknown-model-stream-404",
        Seen::AnyError { status: 404 },
    ),
    (
        "get-chat-405",
        Seen::Error {
            status: 405,
            code: "method_not_allowed",
        },
    ),
    ("get-load", NOT_FOUND),
    ("get-ping", NOT_FOUND),
    ("get-unknown-path-404", NOT_FOUND),
    ("get-version", NOT_FOUND),
    ("key-missing-invocations", NOT_FOUND),
    ("key-missing-load", NOT_FOUND),
    ("key-missing-ping", NOT_FOUND),
    ("key-missing-unknown-path", NOT_FOUND),
    ("key-missing-version", NOT_FOUND),
    ("messages-context-length", TOO_LONG),
    ("messages-malformed-json", INVALID),
    (
        "messages-missing-max-tokens",
        Seen::AnyError { status: 400 },
    ),
    ("messages-unknown-model-404", Seen::AnyError { status: 404 }),
    ("post-ping", NOT_FOUND),
    ("queue-full-chat-503", FULL),
    ("queue-full-chat-stream-503", FULL),
    ("queue-full-messages-503", FULL),
    (
        "request-id-in-body",
        Seen::Error {
            status: 403,
            code: "admin_required",
        },
    ),
    ("request-id-sent-error-404", Seen::AnyError { status: 404 }),
    ("rerank-generate-model", Seen::AnyError { status: 404 }),
    ("responses-get-unknown-404", NOT_FOUND),
    ("responses-missing-input", Seen::AnyError { status: 400 }),
    ("responses-previous-id-unknown", INVALID),
    (
        "responses-unknown-model-404",
        Seen::AnyError { status: 404 },
    ),
    ("score-generate-model", Seen::AnyError { status: 404 }),
];

fn seen(recording: &Recording, dialect: Dialect) -> Option<Seen> {
    let name = recording.name.rsplit('/').next().unwrap_or_default();
    let entry = ENTRIES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, seen)| *seen);
    let status = recording.status.as_u16();
    // The Rust front end lacks routes, and failed some calls that Python served.
    let by_answer = match status {
        401 if recording.path.starts_with("/v1/models") => Some(Seen::Own),
        401 if entry.is_none() => Some(NO_KEY_OF_OURS),
        404 if recording.body.is_empty() && entry.is_none() && is_model_route(recording) => {
            Some(Seen::AnyError { status: 404 })
        }
        500..=502 => Some(NO_KEY_OF_OURS),
        _ if failed_stream(recording) => Some(Seen::UpToItsError),
        _ => None,
    };
    by_answer.or(entry).or_else(|| by_route(recording, dialect))
}

fn by_route(recording: &Recording, dialect: Dialect) -> Option<Seen> {
    let own = [
        "/",
        "/health",
        "/health/",
        "/metrics",
        "/v1/models",
        "/v1/models/tiny-chat",
    ];
    let joined = dialect == Dialect::Rust && recording.name.contains("tools-");
    match recording.method {
        Method::OPTIONS => Some(Seen::Own),
        Method::GET | Method::HEAD => own.contains(&recording.path.as_str()).then_some(Seen::Own),
        Method::POST if is_model_route(recording) => match recording.status.as_u16() {
            200 if joined && recording.is_stream() => Some(Seen::SameContent),
            200 => Some(Seen::Same),
            // Refusals of values, with a text of their own.
            400 if recording
                .json()
                .is_some_and(|body| body["error"]["message"].is_string()) =>
            {
                Some(Seen::Same)
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_model_route(recording: &Recording) -> bool {
    matches!(
        recording.path.as_str(),
        "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings"
            | "/v1/responses"
            | "/v1/messages"
            | "/v1/messages/count_tokens"
            | "/v1/rerank"
            | "/v1/score"
            | "/v1/audio/transcriptions"
            | "/tokenize"
            | "/detokenize"
    )
}

fn failed_stream(recording: &Recording) -> bool {
    recording.is_stream()
        && recording
            .body
            .windows(9)
            .any(|window| window == b"data: {\"e")
}

/// A JSON body with what differs from call to call blotted out: ids, times, the fingerprint's value.
pub fn normal(value: &Value) -> Value {
    const VOLATILE: [&str; 8] = [
        "id",
        "created",
        "created_at",
        "item_id",
        "call_id",
        "tool_call_id",
        "system_fingerprint",
        "request_id",
    ];
    match value {
        Value::Object(object) => {
            let pairs = object.iter().map(|(key, inner)| {
                let blot = VOLATILE.contains(&key.as_str()) && !inner.is_null();
                (key.clone(), if blot { json!("*") } else { normal(inner) })
            });
            Value::Object(pairs.collect::<Map<String, Value>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        other => other.clone(),
    }
}

/// The events of a stream: name and data, normal as above; data that is no JSON stays a text.
pub fn normal_events(body: &[u8]) -> Vec<(String, Value)> {
    let events = sse::split(body).into_iter();
    events
        .filter_map(|event| {
            let data = sse::data(&event)?;
            let text = String::from_utf8_lossy(&event).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("event: "));
            let value = serde_json::from_str(&data).map_or_else(|_| json!(data), |v| normal(&v));
            Some((name.unwrap_or_default().to_owned(), value))
        })
        .collect()
}

/// What a stream of chat completions says in all, choice by choice, however it is cut into events.
pub fn chat_content(body: &[u8]) -> Value {
    let mut choices: Vec<Value> = Vec::new();
    for (_, event) in normal_events(body) {
        for choice in event["choices"].as_array().into_iter().flatten() {
            let at = choice["index"]
                .as_u64()
                .and_then(|at| usize::try_from(at).ok())
                .unwrap_or(0);
            while choices.len() <= at {
                choices.push(json!({"text": "", "name": "", "arguments": "", "finish": null}));
            }
            let mut add = |key: &str, piece: &Value| {
                let joined = choices[at][key].as_str().unwrap_or_default().to_owned();
                choices[at][key] = json!(joined + piece.as_str().unwrap_or_default());
            };
            add("text", &choice["delta"]["content"]);
            for call in choice["delta"]["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
            {
                add("name", &call["function"]["name"]);
                add("arguments", &call["function"]["arguments"]);
            }
            if choice["finish_reason"].is_string() {
                choices[at]["finish"] = choice["finish_reason"].clone();
            }
        }
    }
    json!(choices)
}
