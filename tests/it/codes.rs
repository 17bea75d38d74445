//! Every code of an error that this version has, provoked from outside, in the dialect of the route
//! that it happens on.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::expect::{anthropic_refusal, refusal};
use super::fakes::model_server::{Behaviour, Fault, ModelServer, Settings};
use super::harness::{ADMIN, Gate, KEY, PATIENCE};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const JSON: (&str, &str) = ("content-type", "application/json");

fn ask() -> Value {
    json!({"max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]})
}

const NARROW: &str = "sk-narrow-0123456789abcdef";
const UNKNOWN: &str =
    r#"{"model":"nobody","max_tokens":1,"messages":[{"role":"user","content":"Hello"}]}"#;

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];
/// Status, `code`, and Anthropic's `type`.
type Expected = (u16, &'static str, &'static str);

const fn key(value: &str) -> (&str, &str) {
    ("x-api-key", value)
}

/// A call of a route with these headers and this body, on chat and on messages.
async fn on_both(gate: &Gate, headers: Headers<'_>, body: &[u8], expected: Expected) {
    let (status, code, kind) = expected;
    let reply = gate.ask(&format!("POST {CHAT}"), headers, body).await;
    refusal(&reply, status, code);
    for path in [MESSAGES, "/messages", "/v1/messages/count_tokens"] {
        let reply = gate.ask(&format!("POST {path}"), headers, body).await;
        anthropic_refusal(&reply, status, kind);
        assert_eq!(reply.json()["error"]["code"], code);
    }
}

/// Refusals before a route is known; and all of them are counted.
async fn unknown_paths_and_methods(gate: &Gate) {
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/auth/register", 400, "invalid_request"),
        ("DELETE", CHAT, 405, "method_not_allowed"),
    ] {
        refusal(
            &gate.ask(&format!("{method} {path}"), &[], b"").await,
            status,
            code,
        );
    }
    let reply = gate.ask(&format!("GET {MESSAGES}"), &[], b"").await;
    anthropic_refusal(&reply, 405, "invalid_request_error");
    assert_eq!(reply.header("allow"), "POST, OPTIONS");
    let metrics = gate.admin("/metrics").await.text();
    for code in [
        "invalid_request",
        "missing_api_key",
        "model_not_found",
        "method_not_allowed",
        "not_found",
    ] {
        assert!(
            metrics.contains(&format!("code=\"{code}\"")),
            "{code} in {metrics}"
        );
    }
}

#[tokio::test]
async fn what_the_caller_did_wrong_has_a_code() {
    let server = ModelServer::start(Settings::default()).await;
    let keys = json!({
        "test": KEY, "ops": {"key": ADMIN, "admin": true},
        "narrow": {"key": NARROW, "models": ["another"]},
    });
    let bounds = [("MAX_BODY_BYTES", "2000")];
    let mut gate = Gate::with_keys(&server.url(), &bounds, &keys).await;
    let good = ask().to_string();
    let request = "invalid_request_error";
    let long = " ".repeat(2001);
    let cases: [(Headers, &str, Expected); 8] = [
        (&[JSON], "{", (400, "invalid_request", request)),
        (
            &[JSON, key("")],
            &good,
            (401, "missing_api_key", "authentication_error"),
        ),
        (
            &[JSON, key("sk-wrong-0123456789abcdef")],
            &good,
            (401, "invalid_api_key", "authentication_error"),
        ),
        (
            &[JSON, key(NARROW)],
            &good,
            (403, "model_not_allowed", "permission_error"),
        ),
        (
            &[JSON],
            r#"{"priority":1}"#,
            (403, "admin_required", "permission_error"),
        ),
        (
            &[JSON],
            UNKNOWN,
            (404, "model_not_found", "not_found_error"),
        ),
        (&[JSON], &long, (413, "body_too_large", "request_too_large")),
        (&[], &good, (415, "unsupported_media_type", request)),
    ];
    for (headers, body, expected) in cases {
        on_both(&gate, headers, body.as_bytes(), expected).await;
    }
    unknown_paths_and_methods(&gate).await;
    assert_eq!(server.model_calls().len(), 0);
    assert_eq!(gate.post(CHAT, &ask()).await.status, 200);
    assert_eq!(gate.rows(1).await.len(), 1, "refusals leave no row");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_has_a_code() {
    let server = ModelServer::refusing(Settings::default());
    let soon = [("COLD_START_WAIT_SECONDS", "1")];
    let mut gate = Gate::with(&server.url(), &soon).await;
    refusal(&gate.post(CHAT, &ask()).await, 502, "upstream_unreachable");
    anthropic_refusal(&gate.post(MESSAGES, &ask()).await, 502, "api_error");
    let rows = gate.rows(2).await;
    assert!(
        rows.iter()
            .all(|row| row["outcome"] == "upstream_error" && row["attempts"] == 0)
    );
    // What is not on this machine may be starting.
    let elsewhere = [
        ("COLD_START_WAIT_SECONDS", "1"),
        ("K_SERVICE", "gate"),
        ("HOST", "127.0.0.1"),
    ];
    let gate = Gate::with(&server.url(), &elsewhere).await;
    let reply = gate.post(CHAT, &ask()).await;
    refusal(&reply, 503, "upstream_starting");
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
}

#[tokio::test]
async fn silence_before_the_head_times_out() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::with(&server.url(), &[("UPSTREAM_IDLE_SECONDS", "1")]).await;
    let mut asked = ask();
    asked["stream"] = true.into();
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    refusal(&gate.post(CHAT, &asked).await, 504, "upstream_timeout");
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    anthropic_refusal(&gate.post(MESSAGES, &asked).await, 504, "api_error");
    let rows = gate.rows(2).await;
    assert!(
        rows.iter()
            .all(|row| row["outcome"] == "timeout" && row["status"] == 504),
        "{rows:#?}"
    );
}

#[tokio::test]
async fn a_key_with_all_its_calls_under_way_waits_and_is_told_when_to_come_again() {
    let server = ModelServer::start(Settings::default()).await;
    let keys = json!({"test": {"key": KEY, "max_concurrent": 1}});
    let mut gate = Gate::with_keys(&server.url(), &[], &keys).await;
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    let mut first = gate.wire().await;
    let body = ask().to_string();
    let headers = [JSON, ("x-api-key", KEY)];
    first
        .send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    server
        .wait_for(|calls| calls.iter().any(|call| call.path == CHAT))
        .await;
    let started = Instant::now();
    let reply = gate.post(CHAT, &ask()).await;
    refusal(&reply, 429, "rate_limit_exceeded");
    assert!(
        (8..15).contains(&started.elapsed().as_secs()),
        "it waits for up to ten seconds"
    );
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    // The first leaves; its place is free again.
    drop(first);
    assert_eq!(gate.post(CHAT, &ask()).await.status, 200);
    let rows = gate.rows(2).await;
    assert_eq!(rows.len(), 2, "the refused one has no row: {rows:#?}");
}

#[tokio::test]
async fn keys_that_cannot_be_read_have_codes() {
    let server = ModelServer::start(Settings::default()).await;
    let stale = [("KEY_REFRESH_SECONDS", "1"), ("KEY_MAX_STALE_SECONDS", "3")];
    let gate = Gate::with(&server.url(), &stale).await;
    fs::write(gate.folder.path().join("keys.json"), "no JSON").expect("written");
    let reply = gate.ask("POST /admin/reload-keys", &[], b"").await;
    refusal(&reply, 502, "reload_failed");
    assert_eq!(
        gate.post(CHAT, &ask()).await.status,
        200,
        "the old set stays"
    );
    let started = Instant::now();
    let reply = loop {
        let reply = gate.post(CHAT, &ask()).await;
        if reply.status != 200 {
            break reply;
        }
        assert!(started.elapsed() < PATIENCE, "the set never goes stale");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    refusal(&reply, 503, "not_ready");
    anthropic_refusal(&gate.post(MESSAGES, &ask()).await, 503, "overloaded_error");
}
