//! What the engine counted is what the gateway counted, and where it is not, the difference shows. The
//! engine is asked while there is traffic alone.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::calls::{chat, completion, messages, responses, row_of, with};
use super::fakes::model_server::{Behaviour, Call, Dialect, ModelServer, Settings};
use super::fakes::wire;
use super::harness::{Gate, KEY, PATIENCE};

const CHAT: &str = "/v1/chat/completions";

/// The upstream as administrators see it, once it is as wished.
async fn upstream(gate: &Gate, wished: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = gate.admin("/admin/status").await.json();
        let upstream = &status["upstreams"][0];
        if wished(upstream) {
            return upstream.clone();
        }
        assert!(Instant::now() < deadline, "it stays at {upstream}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A gateway that has read the engine's counters once.
async fn compared_before(server: &ModelServer) -> Gate {
    let gate = Gate::before(server).await;
    assert_eq!(gate.post(CHAT, &plain()).await.status, 200);
    upstream(&gate, |upstream| upstream["compared_since"].is_string()).await;
    gate
}

fn plain() -> Value {
    with(chat(), "stream", json!(false))
}

/// What the engine counted for these calls.
fn counted(calls: &[Call]) -> u64 {
    let tokens = |call: &Call| {
        let choices = call.json()["n"].as_u64().unwrap_or(1);
        call.prompt_tokens * choices + call.completion_tokens
    };
    calls.iter().map(tokens).sum()
}

fn asked(server: &ModelServer) -> usize {
    let calls = server.calls();
    calls.iter().filter(|call| call.path == "/metrics").count()
}

#[tokio::test]
async fn whatever_is_called_nothing_is_unaccounted_for() {
    let tool = json!([{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]);
    let two_prompts = with(completion(), "prompt", json!(["The quick", "The lazy dog"]));
    let calls = [
        (CHAT, plain()),
        (CHAT, chat()),
        (CHAT, with(chat(), "n", json!(2))),
        (CHAT, with(plain(), "n", json!(3))),
        (CHAT, with(chat(), "tools", tool)),
        ("/v1/completions", with(two_prompts, "n", json!(2))),
        ("/v1/messages", messages()),
        ("/v1/responses", responses()),
        (
            "/tokenize",
            json!({"model": "tiny-chat", "prompt": "Hello"}),
        ),
    ];
    for dialect in [Dialect::Python, Dialect::Rust] {
        let settings = Settings {
            dialect,
            ..Settings::default()
        };
        let server = ModelServer::start(settings).await;
        let gate = compared_before(&server).await;
        let before = server.calls().len();
        for (path, body) in &calls {
            let answer = gate.post(path, body).await;
            let is_python_only = matches!(*path, "/v1/messages" | "/v1/responses");
            let is_refused = dialect == Dialect::Rust
                && (is_python_only || body["n"].is_u64() || body["prompt"].is_array());
            assert_eq!(answer.status == 200, !is_refused, "{path} {body}");
        }
        let made = counted(&server.calls()[before..]);
        assert!(made > 50, "{made}");
        let seen = upstream(&gate, |upstream| upstream["engine_tokens"] == made).await;
        assert_eq!(seen["unaccounted_tokens"], 0, "{seen}");
        assert_eq!(seen["gateway_tokens"], made);
        assert_eq!(seen["blurred_by_calls"], 0);
        let url = server.url();
        let metrics = gate.admin("/metrics").await.text();
        for line in [
            format!("tollgate_unaccounted_tokens{{upstream=\"{url}\"}} 0"),
            format!("tollgate_compared_tokens{{upstream=\"{url}\",by=\"engine\"}} {made}"),
        ] {
            assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
        }
    }
}

#[tokio::test]
async fn what_others_ask_of_the_engine_shows_until_the_engine_is_another() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = compared_before(&server).await;
    let before = server.calls().len();
    wire::post(server.addr(), CHAT, &plain()).await;
    let foreign = counted(&server.calls()[before..]);
    gate.post(CHAT, &plain()).await;
    let all = counted(&server.calls()[before..]);
    let seen = upstream(&gate, |upstream| upstream["engine_tokens"] == all).await;
    assert_eq!(seen["unaccounted_tokens"], foreign, "{seen}");

    server.restart_engine();
    gate.post(CHAT, &plain()).await;
    let since = &seen["compared_since"];
    let anew = upstream(&gate, |upstream| &upstream["compared_since"] != since).await;
    assert_eq!(anew["unaccounted_tokens"], Value::Null);
    assert!(
        !gate
            .admin("/metrics")
            .await
            .text()
            .contains("_unaccounted_tokens{")
    );
    gate.post(CHAT, &plain()).await;
    let seen = upstream(&gate, |upstream| upstream["compared_at"].is_string()).await;
    assert_eq!(seen["unaccounted_tokens"], 0, "{seen}");
}

#[tokio::test]
async fn of_calls_that_break_off_what_nobody_saw_shows() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = compared_before(&server).await;
    let before = server.calls().len();
    for body in [with(chat(), "n", json!(2)), plain()] {
        server.next(Behaviour::tokens(200).paced(Duration::from_millis(10)));
        let call = format!("POST {CHAT}");
        let headers = [("x-api-key", KEY), ("content-type", "application/json")];
        let mut wire = gate.wire().await;
        let text = with(body, "max_tokens", json!(400)).to_string();
        wire.send(&call, &headers, text.as_bytes())
            .await
            .expect("sent");
        server
            .wait_for(|calls| {
                calls
                    .last()
                    .is_some_and(|call| call.completion_tokens >= 20)
            })
            .await;
        drop(wire);
        server
            .wait_for(|calls| {
                calls
                    .last()
                    .is_some_and(|call| call.disconnected_at().is_some())
            })
            .await;
    }
    let made = counted(&server.calls()[before..]);
    let seen = upstream(&gate, |upstream| upstream["engine_tokens"] == made).await;
    let rows = gate.rows(3).await;
    let known: Vec<u64> = rows[1..]
        .iter()
        .map(|row| {
            let copies = if row["stream"] == true { 2 } else { 1 };
            let figure = |name: &str| row[name].as_u64().expect("a figure");
            figure("prompt_tokens") * copies + figure("completion_tokens")
        })
        .collect();
    // Of the plain call there is no count, of the stream all but a moment's tokens.
    assert_eq!(known[1], 0);
    assert!(known[0] > 0);
    assert_eq!(seen["unaccounted_tokens"], made - known[0], "{seen}");
    let plain = counted(&server.model_calls()[2..]);
    let of_stream = made - known[0] - plain;
    assert!(of_stream < 20, "{of_stream}");
    // What comes after changes nothing of it.
    let reply = gate.post(CHAT, &chat()).await;
    row_of(&mut gate, &reply).await;
    let all = counted(&server.calls()[before..]);
    let later = upstream(&gate, |upstream| upstream["engine_tokens"] == all).await;
    assert_eq!(later["unaccounted_tokens"], seen["unaccounted_tokens"]);
}

#[tokio::test]
async fn nobody_is_asked_but_an_engine_in_use() {
    let engine = ModelServer::start(Settings::default()).await;
    let gate = compared_before(&engine).await;
    let settings = Settings {
        dialect: Dialect::Foreign,
        ..Settings::default()
    };
    let foreign = ModelServer::start(settings).await;
    let other = Gate::before(&foreign).await;
    for _ in 0..2 {
        assert_eq!(other.post(CHAT, &plain()).await.status, 200);
    }
    assert_eq!(gate.post(CHAT, &plain()).await.status, 200);
    upstream(&gate, |upstream| upstream["compared_at"].is_string()).await;
    let (asked_before, all_before) = (asked(&engine), engine.calls().len());
    // Twice the time after which it would be asked again. That nothing comes can only be waited for.
    sleep(Duration::from_secs(12)).await;
    assert_eq!(asked(&engine), asked_before);
    assert_eq!(engine.calls().len(), all_before, "nothing at all comes");
    assert_eq!(asked(&foreign), 0);
    let status = other.admin("/admin/status").await.json();
    assert_eq!(status["upstreams"][0]["is_vllm"], false);
    assert_eq!(status["upstreams"][0]["unaccounted_tokens"], Value::Null);
}
