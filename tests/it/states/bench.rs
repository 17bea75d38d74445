//! A gateway before targets that may scale to zero or not, and what is compared of a call.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::calls::{chat, with};
use crate::fakes::model_server::{Call, End, ModelServer};
use crate::fakes::wire::Reply;
use crate::harness::{ADMIN, Gate, KEY, command};

pub const CHAT: &str = "/v1/chat/completions";
/// A key that may start nothing.
pub const GENTLE: &str = "sk-gentle-0123456789abcdef";

/// How a target is configured. Both are plain HTTP on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    ScalesToZero,
    Stays,
}

/// A gateway whose only upstream has these base URLs.
pub async fn gate(urls: &[String], target: Target, settings: &[(&str, &str)]) -> Gate {
    gate_of(&file(urls, target), settings).await
}

/// An upstreams file with one upstream.
pub fn file(urls: &[String], target: Target) -> String {
    let scales = target == Target::ScalesToZero;
    format!("[[upstream]]\nname = \"gpu\"\nurls = {urls:?}\nscale_to_zero = {scales}\n")
}

/// A gateway with this upstreams file.
pub async fn gate_of(file: &str, settings: &[(&str, &str)]) -> Gate {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = json!({
        "test": KEY,
        "ops": {"key": ADMIN, "admin": true},
        "gentle": {"key": GENTLE, "wake": false},
    });
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).expect("a keys file");
    std::fs::write(folder.path().join("upstreams.toml"), file).expect("an upstreams file");
    let mut command = command(folder.path(), "", settings);
    command
        .env_remove("VLLM_ENDPOINT")
        .env("UPSTREAMS_FILE", "upstreams.toml");
    Gate::run(folder, command).await
}

/// A call, streamed or not.
pub fn call(stream: bool) -> Value {
    with(chat(), "stream", json!(stream))
}

/// The states of all targets as `/ready` tells them.
pub async fn states(gate: &Gate) -> Vec<String> {
    let ready = gate.ask("GET /ready", &[], b"").await.json();
    let upstreams = ready["upstreams"].as_array().cloned().unwrap_or_default();
    let word = |upstream: &Value| upstream["state"].as_str().unwrap_or_default().to_owned();
    upstreams.iter().map(word).collect()
}

/// Waits until the only target is in this state.
pub async fn until_state(gate: &Gate, wished: &str) {
    let began = Instant::now();
    loop {
        let states = states(gate).await;
        if states == [wished] {
            return;
        }
        assert!(
            began.elapsed() < crate::harness::PATIENCE,
            "{states:?}, not {wished}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What a client sees of an answer: status, code, whether it may come again and when; of a stream
/// that had begun also the code in its error event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub status: u16,
    /// The `error.code` of the answer or of its last event; empty without an error.
    pub code: String,
    /// Seconds.
    pub retry_after: Option<u64>,
    pub comments: usize,
}

pub fn show(reply: &Reply) -> Shown {
    let code = |error: &Value| match &error["error"]["code"] {
        Value::String(code) => code.clone(),
        Value::Number(code) => code.to_string(),
        _ => String::new(),
    };
    let text = reply.text();
    let last = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .rfind(|data| data.contains("\"error\""));
    let error = last.map_or_else(
        || reply.json(),
        |data| serde_json::from_str(data).unwrap_or_default(),
    );
    Shown {
        status: reply.status,
        code: code(&error),
        retry_after: reply.header("retry-after").parse().ok(),
        comments: text.matches(": keep-alive").count(),
    }
}

/// The most requests that were at a server together, of those that came before `until`.
pub fn most_at_once(calls: &[Call], until: Instant) -> usize {
    let end = |call: &Call| match call.end {
        End::Running => until,
        End::Finished(at) | End::BrokenOff(at) | End::Gone(at) => at.min(until),
    };
    let early: Vec<&Call> = calls.iter().filter(|c| c.received_at < until).collect();
    let beside = |one: &&Call| {
        let at = one.received_at;
        let together = |other: &&&Call| other.received_at <= at && at < end(other);
        early.iter().filter(together).count().max(1)
    };
    early.iter().map(beside).max().unwrap_or(0)
}

/// The requests of a server in a line each, for messages.
pub fn seen(server: &ModelServer) -> String {
    let mut text = String::new();
    let calls = server.calls();
    let Some(first) = calls.first().map(|call| call.received_at) else {
        return "nothing".to_owned();
    };
    for call in calls.iter().take(60) {
        let at = (call.received_at - first).as_millis();
        let _ = writeln!(
            text,
            "{at} ms {} {} {:?}",
            call.method, call.path, call.status
        );
    }
    let _ = writeln!(text, "{} in all", calls.len());
    text
}
