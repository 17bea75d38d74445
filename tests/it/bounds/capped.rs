//! What was granted to a call is the most that it may generate, however the upstream answers.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate::error::Code;
use tollgate::upstream::{Endpoint, Progress};

use super::super::fakes::model_server::{Call, Dialect, ModelServer, Settings};
use super::super::fakes::raw::Raw;
use super::bodies::Body;
use super::{request, upstream};

const CONTEXT: u64 = 2048;

fn chat(more: &Value) -> Body {
    let mut body = json!({"messages": [{"role": "user", "content": "Hello there"}]});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    Body {
        endpoint: Endpoint::ChatCompletions,
        text: body.to_string(),
    }
}

/// Sends a call that was granted so much; what arrived of it.
async fn arrived(server: &ModelServer, body: &Body, granted: u64) -> Vec<Value> {
    let before = server.model_calls().len();
    let upstream = upstream(&server.url());
    let mut request = request(body).expect("a request");
    upstream.learn_template(&request).await;
    request.cap_output(granted);
    // Also what was refused has arrived.
    let _ = upstream.forward(request, &Progress::default()).await;
    let calls = server.model_calls();
    calls[before..].iter().map(Call::json).collect()
}

#[tokio::test]
async fn the_maximum_is_written_where_the_client_has_its_own_and_never_raised() {
    let server = ModelServer::start(Settings::default()).await;
    let cases = [
        (json!({}), 50, json!({"max_tokens": 50})),
        (json!({"max_tokens": null}), 50, json!({"max_tokens": 50})),
        (json!({"max_tokens": 10}), 50, json!({"max_tokens": 10})),
        (json!({"max_tokens": 90}), 50, json!({"max_tokens": 50})),
        (json!({"max_tokens": 90.0}), 50, json!({"max_tokens": 50})),
        (
            json!({"max_completion_tokens": 90}),
            50,
            json!({"max_completion_tokens": 50}),
        ),
        (
            json!({"max_completion_tokens": 10, "max_tokens": 90}),
            50,
            json!({"max_completion_tokens": 10, "max_tokens": 50}),
        ),
        // The context itself is no more than that.
        (json!({}), CONTEXT, json!({})),
    ];
    for (more, granted, expected) in cases {
        let [sent] = &arrived(&server, &chat(&more), granted).await[..] else {
            panic!("{more}: not sent once");
        };
        for name in ["max_tokens", "max_completion_tokens"] {
            assert_eq!(sent[name], expected[name], "{more}: {name}");
        }
    }
}

#[tokio::test]
async fn a_granted_maximum_is_not_dropped_where_the_upstream_cannot_count() {
    let server = ModelServer::start(Settings {
        dialect: Dialect::Foreign,
        refuses_overflow: true,
        max_model_len: CONTEXT,
        ..Settings::default()
    })
    .await;
    let body = chat(&json!({"max_tokens": 32_000}));
    let sent = arrived(&server, &body, CONTEXT - 1).await;
    assert!(!sent.is_empty());
    for call in sent {
        let output = call["max_tokens"].as_u64().expect("a maximum");
        assert!(output < CONTEXT, "{call}");
    }
}

#[tokio::test]
async fn counting_tokens_starts_no_server_that_scales_to_zero() {
    let upstream = upstream("https://model-x.a.run.app");
    for endpoint in [Endpoint::Tokenize, Endpoint::Detokenize] {
        let body = Body {
            endpoint,
            text: json!({"prompt": "Hello there"}).to_string(),
        };
        let request = request(&body).expect("a request");
        let answer = upstream.forward(request, &Progress::default()).await;
        let Err(error) = answer else {
            panic!("it was sent");
        };
        assert_eq!(error.code(), Code::UpstreamStarting);
        assert_eq!(error.wait(), Some(Duration::from_secs(30)));
    }
}

#[tokio::test]
async fn an_answer_refused_for_its_form_was_made_and_other_refusals_cost_nothing() {
    let error = |kind: &str, param: Value, message: &str| json!({"error": {"message": message, "type": kind, "param": param, "code": 400}});
    let late = json!({"type": "error", "error": {"type": "BadRequestError", "message":
        "1 validation error for AnthropicContentBlock\ninput\n  Input should be a valid dictionary"}});
    let length = "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, which exceeds this limit even without any output tokens.";
    let tools = json!({"tools": [{"name": "f", "input_schema": {"type": "object"}}]});
    let streamed = json!({"tools": tools["tools"], "stream": true});
    let bad = || error("BadRequestError", Value::Null, "no");
    let cases = [
        (400, &tools, late.clone(), true),
        (400, &json!({}), late, false),
        (
            400,
            &json!({"response_format": {"type": "json_object"}}),
            bad(),
            true,
        ),
        (400, &streamed, bad(), false),
        (400, &tools, error("Bad Request", Value::Null, "no"), false),
        (
            400,
            &tools,
            error("BadRequestError", json!("max_tokens"), "no"),
            false,
        ),
        (
            400,
            &tools,
            error("BadRequestError", Value::Null, length),
            false,
        ),
        (404, &tools, bad(), false),
        (429, &tools, bad(), false),
        (503, &tools, bad(), false),
        (500, &json!({}), bad(), true),
        (502, &json!({}), bad(), true),
        (502, &json!({"stream": true}), bad(), true),
    ];
    for (status, more, answer, begun) in cases {
        let raw = Raw::start().await;
        let body = answer.to_string();
        raw.next(format!(
            "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        let request = request(&chat(more)).expect("a request");
        let progress = Progress::default();
        let _ = upstream(&raw.url()).forward(request, &progress).await;
        assert_eq!(progress.so_far().begun, begun, "{status} {more} {answer}");
    }
}
