//! Servers of other makes behind the gateway: what its clients and its rows show of each.

mod known;
mod quirks;
mod recorded;

use serde_json::{Value, json};

use super::calls::row_of;
use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{ADMIN, Gate, KEY};

use known::{Make, Usage};

const CHAT: &str = "/v1/chat/completions";
/// A key with a token budget.
const LIMITED: &str = "sk-limited-0123456789abcdef";

/// A server that lists and tells its version as this make does.
async fn server_of(make: &Make) -> ModelServer {
    let server = ModelServer::start(Settings::default()).await;
    let version = match make.version {
        Some(text) => Answer::json(200, text),
        None => Answer::json(404, r#"{"detail":"Not Found"}"#),
    };
    server.on("/version", Behaviour::answer(version));
    server.on(
        "/v1/models",
        Behaviour::answer(Answer::json(200, make.list)),
    );
    server.on(
        "/tokenize",
        Behaviour::answer(Answer::json(200, make.tokenize)),
    );
    server
}

async fn gate_before(server: &ModelServer) -> Gate {
    let keys = json!({
        "test": KEY,
        "limited": {"key": LIMITED, "token_limit": 1_000_000},
        "ops": {"key": ADMIN, "admin": true},
    });
    Gate::with_keys(&server.url(), &[], &keys).await
}

fn ask(make: &Make) -> Value {
    json!({"model": make.model, "messages": [{"role": "user", "content": "Tell me of the tide, in a few words"}]})
}

fn streamed(make: &Make) -> Value {
    let mut body = ask(make);
    body["stream"] = true.into();
    body
}

fn events(body: &str) -> Answer {
    let head = Answer::empty(200).header("content-type", "text/event-stream");
    Answer {
        body: body.to_owned(),
        ..head
    }
}

/// Compares the tokens of a row with what the server told, or with what can be guessed.
fn check_tokens(make: &Make, row: &Value, usage: Usage) {
    let tokens = ["prompt_tokens", "completion_tokens"].map(|name| row[name].as_u64());
    let shown = format!("{}: {row}", make.name);
    match usage {
        Usage::Told(prompt, completion) => {
            assert_eq!(row["counted_by"], "engine", "{shown}");
            assert_eq!(tokens, [Some(prompt), Some(completion)], "{shown}");
        }
        Usage::Never => {
            assert_eq!(row["counted_by"], "estimate", "{shown}");
            let [prompt, completion] = tokens.map(Option::unwrap_or_default);
            // The prompt has nine tokens and a template, the answer three.
            assert!((9..40).contains(&prompt), "{shown}");
            assert!((1..20).contains(&completion), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_list_shows_the_context_of_every_make_that_tells_it() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let gate = gate_before(&server).await;
        let reply = gate.ask("GET /v1/models", &[], b"").await;
        let list = reply.json();
        let cards = list["data"].as_array().expect("a list");
        let card = cards.iter().find(|card| card["id"] == make.listed);
        let card = card.unwrap_or_else(|| panic!("{}: {list}", make.name));
        assert_eq!(
            card["max_model_len"].as_u64(),
            make.context,
            "{}",
            make.name
        );
    }
}

#[tokio::test]
async fn a_plain_call_passes_and_has_its_row() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let mut gate = gate_before(&server).await;
        server.next(Behaviour::answer(Answer::json(200, make.plain)));
        let reply = gate.post(CHAT, &ask(&make)).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, make.plain));
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["outcome"], "complete", "{row}");
        check_tokens(&make, &row, make.plain_usage);
    }
}

#[tokio::test]
async fn a_stream_passes_ends_properly_and_has_its_row() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let mut gate = gate_before(&server).await;
        server.next(Behaviour::answer(events(make.stream)));
        let reply = gate.post(CHAT, &streamed(&make)).await;
        let text = reply.text();
        assert!(text.contains("high") && text.contains("tide"), "{text}");
        assert!(
            text.contains(r#""finish_reason":"stop""#),
            "{}: {text}",
            make.name
        );
        assert!(!text.contains("error"), "{}: {text}", make.name);
        assert!(!text.contains("usage"), "nobody asked: {text}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["outcome"], "complete", "{row}");
        check_tokens(&make, &row, make.stream_usage);
        let calls = server.model_calls();
        let sent = &calls.last().expect("a call").json()["stream_options"];
        assert_eq!(sent, &json!({"include_usage": true}), "{}", make.name);
    }
}

#[tokio::test]
async fn usage_that_was_asked_for_is_shown_as_the_server_sends_it() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let gate = gate_before(&server).await;
        server.next(Behaviour::answer(events(make.stream)));
        let mut asked = streamed(&make);
        asked["stream_options"] = json!({"include_usage": true});
        let reply = gate.post(CHAT, &asked).await;
        let expected = make.stream.replace("eos_token", "stop");
        assert_eq!(reply.text(), expected, "{}", make.name);
    }
}

#[tokio::test]
async fn a_refusal_says_why_in_the_contract_s_shape() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let mut gate = gate_before(&server).await;
        let (status, body, text) = make.refusal;
        server.next(Behaviour::answer(Answer::json(status, body)));
        let reply = gate.post(CHAT, &ask(&make)).await;
        check_error(&reply, status, text, make.name);
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["total_tokens"], 0, "{row}");
        assert_eq!(row["status"], status, "{row}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_so_that_clients_shorten_it() {
    for make in known::makes() {
        let Some((status, body, text)) = make.too_long else {
            continue;
        };
        for asked in [ask(&make), streamed(&make)] {
            let server = server_of(&make).await;
            let gate = gate_before(&server).await;
            server.next(Behaviour::answer(Answer::json(status, body)));
            let reply = gate.post(CHAT, &asked).await;
            check_error(&reply, 400, text, make.name);
            assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
        }
    }
}

#[tokio::test]
async fn a_budget_pays_what_was_told_and_all_that_was_reserved_where_nothing_was() {
    for make in known::makes() {
        let server = server_of(&make).await;
        let mut gate = gate_before(&server).await;
        for (answer, usage, asked) in [
            (Answer::json(200, make.plain), make.plain_usage, ask(&make)),
            (events(make.stream), make.stream_usage, streamed(&make)),
        ] {
            server.next(Behaviour::answer(answer));
            let mut asked = asked;
            asked["max_tokens"] = 50.into();
            let headers = [("content-type", "application/json"), ("x-api-key", LIMITED)];
            let line = format!("POST {CHAT}");
            let reply = gate
                .ask(&line, &headers, asked.to_string().as_bytes())
                .await;
            assert_eq!(reply.status, 200, "{}: {}", make.name, reply.text());
            let row = row_of(&mut gate, &reply).await;
            check_tokens(&make, &row, usage);
            let (reserved, charged) = cost_of(&gate, reply.header("x-request-id"));
            let expected = match usage {
                Usage::Told(prompt, completion) => prompt + completion,
                Usage::Never => reserved,
            };
            assert_eq!(charged, expected, "{}: {row}", make.name);
            assert!(charged >= row["total_tokens"].as_u64().expect("tokens"));
        }
    }
}

/// An error object with this text.
fn check_error(reply: &Reply, status: u16, text: &str, make: &str) {
    assert_eq!(reply.status, status, "{make}: {}", reply.text());
    assert_eq!(reply.header("content-type"), "application/json", "{make}");
    let error = &reply.json()["error"];
    assert_eq!(error["message"], text, "{make}");
    assert!(error["type"].is_string(), "{make}: {error}");
    assert!(error.get("code").is_some(), "{make}: {error}");
}

/// What the log says was reserved for a call and charged for it.
fn cost_of(gate: &Gate, request_id: &str) -> (u64, u64) {
    let log = gate.log();
    let reserved = log
        .iter()
        .find(|line| line["message"] == "reserved" && line["request_id"] == request_id)
        .expect("a line");
    let usage = log
        .iter()
        .find(|line| line["message"] == "usage" && line["usage"]["request_id"] == request_id)
        .expect("a line");
    let tokens = |value: &Value| value.as_u64().expect("tokens");
    (
        tokens(&reserved["budget"]["tokens"]),
        tokens(&usage["budget"]["charged"]),
    )
}
