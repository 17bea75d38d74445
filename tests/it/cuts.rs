//! A stream that does not come to its proper end ends in an error event of its API's shape, so that
//! no client takes it for an answer; and what the engine had counted by then is what the row says.

use serde_json::{Value, json};

use super::calls::{before_error, chat, row_of, streaming, with};
use super::fakes::golden::{self, normal_events};
use super::fakes::model_server::recording::{self, Recording};
use super::fakes::model_server::{Behaviour, Dialect, Fault, Framing, ModelServer, Settings};
use super::fakes::raw::Raw;
use super::harness::Gate;

/// Recorded streams: what the upstream sends, and what a client that asked for nothing sees of it.
const STREAMS: [(&str, &str); 6] = [
    (
        "streams/chat-stream.continuous",
        "streams/chat-stream.plain",
    ),
    (
        "streams/chat-n2-stream.continuous",
        "streams/chat-n2-stream.plain",
    ),
    (
        "streams/completions-prompt-list-stream.continuous",
        "streams/completions-prompt-list-stream.plain",
    ),
    (
        "streams/tools-auto-stream.continuous",
        "streams/tools-auto-stream.plain",
    ),
    ("responses-stream", "responses-stream"),
    ("messages-stream", "messages-stream"),
];

async fn replaying(dialect: Dialect) -> ModelServer {
    ModelServer::start(Settings::replaying(dialect, golden::folder(dialect))).await
}

fn recorded(dialect: Dialect, name: &str) -> Option<Recording> {
    let mut all = recording::load_all(&golden::folder(dialect)).into_iter();
    all.find(|found| found.name == name)
}

/// The events with the fingerprint left out: where it goes when the stream is cut is open.
fn bare(events: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut events = events;
    for (_, data) in &mut events {
        if let Some(object) = data.as_object_mut() {
            object.remove("system_fingerprint");
        }
    }
    events
}

#[tokio::test]
async fn a_cut_after_any_event_shows_the_events_before_it_and_an_error() {
    for dialect in [Dialect::Python, Dialect::Rust] {
        let server = replaying(dialect).await;
        let mut gate = Gate::before(&server).await;
        for (sent, shown) in STREAMS {
            let (Some(sent), Some(shown)) = (recorded(dialect, sent), recorded(dialect, shown))
            else {
                continue;
            };
            if dialect == Dialect::Rust && sent.name.contains("tools-") {
                continue; // That front end joins pieces when usage is asked for.
            }
            let expected = bare(normal_events(&shown.body));
            let body = shown.request_json().expect("a request");
            for after in 0..sent.events().len() {
                let fault = Fault::Cut { after };
                server.on(
                    &shown.path,
                    Behaviour {
                        fault,
                        ..Behaviour::recording(&sent.name)
                    },
                );
                let reply = gate.post(&shown.path, &body).await;
                let got = bare(before_error(&shown.path, &reply, 502));
                let name = format!("{} cut after {after}", sent.name);
                assert_eq!(got, expected[..got.len()], "{name}");
                assert_eq!(got.len(), after.min(expected.len() - 1), "{name}");
                let row = row_of(&mut gate, &reply).await;
                let call = server.call(reply.header("x-request-id")).expect("a call");
                assert_eq!(row["outcome"], "upstream_error", "{name}");
                assert_eq!(row["error_code"], "upstream_error", "{name}");
                assert_eq!(row["status"], 200, "{name}");
                if shown.path.ends_with("/completions") && after > 0 {
                    assert_eq!(row["completion_tokens"], call.completion_tokens, "{name}");
                    let has_final = after == sent.events().len() - 1;
                    let by = if has_final { "engine" } else { "running" };
                    assert_eq!(row["counted_by"], by, "{name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_cut_at_any_byte_shows_whole_events_and_an_error() {
    let server = Raw::start().await;
    let gate = Gate::with(&server.url(), &[]).await;
    let sent = recorded(Dialect::Python, "streams/chat-stream.continuous").expect("a recording");
    let shown = recorded(Dialect::Python, "streams/chat-stream.plain").expect("a recording");
    let expected = bare(normal_events(&shown.body));
    let ends: Vec<usize> = sent
        .events()
        .iter()
        .scan(0, |end, event| {
            *end += event.len();
            Some(*end)
        })
        .collect();
    let body = shown.request_json().expect("a request");
    let dense = sent.body.len() - 60;
    for at in (0..sent.body.len()).filter(|at| at % 41 == 0 || *at > dense) {
        let whole = at % 2 == 0;
        server.next_stream(&sent.body[..at], whole);
        let reply = gate.post(&shown.path, &body).await;
        // Where HTTP ends properly an event may lack its blank line.
        let blank = if whole { 2 } else { 0 };
        let came = ends.iter().filter(|end| **end <= at + blank).count();
        if whole && came >= expected.len() - 1 {
            // The HTTP end is proper and every choice had its finish_reason.
            let got = bare(normal_events(&reply.body));
            assert!(
                got == expected[..expected.len() - 1] || got == expected,
                "{at}: {}",
                reply.text()
            );
            continue;
        }
        let got = bare(before_error(&shown.path, &reply, 502));
        assert_eq!(got.len(), came.min(expected.len() - 1), "cut at {at}");
        assert_eq!(got, expected[..got.len()], "cut at {at}");
    }
}

#[tokio::test]
async fn a_clean_end_before_the_proper_end_is_an_error() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    for (path, body) in streaming() {
        for after in [0, 1, 3] {
            server.on(path, Behaviour::fault(Fault::EndEarly { after }));
            let reply = gate.post(path, &body).await;
            assert_eq!(before_error(path, &reply, 502).len(), after, "{path}");
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["outcome"], "upstream_error", "{path}");
        }
    }
    // `abort` and other reasons make OpenCode ask again without end.
    for reason in ["abort", "error", ""] {
        let finish_reason = Some(reason.to_owned());
        server.on(
            "/v1/chat/completions",
            Behaviour {
                finish_reason,
                ..Behaviour::default()
            },
        );
        let reply = gate.post("/v1/chat/completions", &chat()).await;
        let events = before_error("/v1/chat/completions", &reply, 502);
        let (_, last) = events.last().expect("events");
        assert_eq!(last["choices"][0]["finish_reason"], reason);
        let row = row_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(row["outcome"], "upstream_error");
        assert_eq!(row["completion_tokens"], call.completion_tokens);
        assert_eq!(row["counted_by"], "engine", "the final usage came");
    }
}

#[tokio::test]
async fn a_stream_without_a_single_event_is_an_error_however_http_ends_it() {
    let server = Raw::start().await;
    let mut gate = Gate::with(&server.url(), &[]).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let heads = [
        "content-length: 0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "\r\n",
    ];
    for rest in heads {
        server.next(format!("{head}{rest}"));
        let reply = gate.post("/v1/chat/completions", &chat()).await;
        assert_eq!(before_error("/v1/chat/completions", &reply, 502), []);
        assert_eq!(row_of(&mut gate, &reply).await["outcome"], "upstream_error");
    }
}

#[tokio::test]
async fn an_engine_s_error_event_passes_and_is_the_last() {
    for dialect in [Dialect::Python, Dialect::Rust] {
        let server = ModelServer::start(Settings {
            dialect,
            ..Settings::default()
        })
        .await;
        let mut gate = Gate::before(&server).await;
        for (path, body) in streaming() {
            if dialect == Dialect::Rust && !path.ends_with("/completions") {
                continue;
            }
            server.always(Behaviour::fault(Fault::EngineError { after: 3 }));
            let direct = super::fakes::wire::post(server.addr(), path, &body).await;
            let mut expected = normal_events(&direct.body);
            expected.retain(|(_, data)| data != "[DONE]");
            let reply = gate.post(path, &body).await;
            assert!(reply.complete);
            assert_eq!(normal_events(&reply.body), expected, "{path}");
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["outcome"], "upstream_error", "{path}");
            assert_eq!(row["error_code"], "upstream_error", "{path}");
            assert_eq!(row["status"], 200, "{path}");
        }
    }
}

#[tokio::test]
async fn errors_that_no_client_can_read_are_replaced() {
    let server = Raw::start().await;
    let gate = Gate::with(&server.url(), &[]).await;
    for error in [
        r#"{"error":"out of memory"}"#,
        r#"{"object":"error","message":"out of memory","code":500}"#,
        r#"{"detail":"out of memory"}"#,
    ] {
        server.next_stream(
            format!("data: {error}\n\ndata: [DONE]\n\n").as_bytes(),
            true,
        );
        let reply = gate.post("/v1/chat/completions", &chat()).await;
        let before = before_error("/v1/chat/completions", &reply, 502);
        assert!(before.len() < 2, "{}", reply.text());
    }
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::with(&server.url(), &[("UPSTREAM_IDLE_SECONDS", "1")]).await;
    for (path, body) in streaming() {
        server.on(path, Behaviour::fault(Fault::Mute { after: 4 }));
        let reply = gate.post(path, &body).await;
        assert_eq!(before_error(path, &reply, 504).len(), 4, "{path}");
        let row = row_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(row["outcome"], "timeout", "{path}");
        assert_eq!(row["error_code"], "upstream_timeout", "{path}");
        if path.ends_with("/completions") {
            assert_eq!(row["completion_tokens"], call.completion_tokens, "{path}");
            assert_eq!(row["counted_by"], "running", "{path}");
        }
        server
            .wait_for(|calls| {
                calls
                    .iter()
                    .all(|call| call.end != super::fakes::model_server::End::Running)
            })
            .await;
    }
    // Before the head there is a status to say it with.
    server.on(
        "/v1/chat/completions",
        Behaviour::fault(Fault::MuteBeforeHead),
    );
    let reply = gate.post("/v1/chat/completions", &chat()).await;
    assert_eq!(reply.status, 504);
    assert_eq!(reply.json()["error"]["code"], "upstream_timeout");
    assert_eq!(row_of(&mut gate, &reply).await["outcome"], "timeout");
}

#[tokio::test]
async fn oddities_that_harm_nobody_pass() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let path = "/v1/chat/completions";
    let usual = normal_events(&gate.post(path, &chat()).await.body);
    let framings = [
        Framing {
            split_bytes: Some(1),
            ..Framing::default()
        },
        Framing {
            crlf: true,
            comments: true,
            ..Framing::default()
        },
        Framing {
            crlf: true,
            split_bytes: Some(1),
            comments: true,
        },
    ];
    for framing in framings {
        server.next(Behaviour {
            framing,
            ..Behaviour::default()
        });
        let reply = gate.post(path, &chat()).await;
        let body = reply.text().replace("\r\n", "\n");
        assert_eq!(normal_events(body.as_bytes()), usual, "{framing:?}");
        let comments = body.matches(": still here\n\n").count();
        assert_eq!(comments > 0, framing.comments, "{framing:?}");
    }
    server.next(Behaviour::fault(Fault::NoDone));
    let reply = gate.post(path, &chat()).await;
    assert_eq!(normal_events(&reply.body), usual[..usual.len() - 1]);
    assert_eq!(row_of(&mut gate, &reply).await["outcome"], "complete");
    server.next(Behaviour::fault(Fault::Garbage { after: 2 }));
    let reply = gate.post(path, &chat()).await;
    assert!(reply.text().contains("data: {\"choices\": [{\n\n"));
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
    let mut large = Behaviour::fault(Fault::Huge {
        after: 2,
        bytes: 4 << 20,
    });
    large.framing.split_bytes = Some(10_000);
    server.next(large);
    let reply = gate.post(path, &chat()).await;
    assert!(reply.body.len() > 4 << 20 && reply.text().ends_with("data: [DONE]\n\n"));
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(row["response_bytes"], reply.body.len());
}

#[tokio::test]
async fn an_event_without_end_is_an_error() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    server.next(Behaviour::fault(Fault::Huge {
        after: 2,
        bytes: 40 << 20,
    }));
    let path = "/v1/chat/completions";
    let reply = gate.post(path, &with(chat(), "n", json!(1))).await;
    assert_eq!(before_error(path, &reply, 502).len(), 2);
    assert_eq!(row_of(&mut gate, &reply).await["outcome"], "upstream_error");
}

#[tokio::test]
async fn a_broken_answer_is_logged_in_words_that_can_be_searched_for() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    server.next(Behaviour::fault(Fault::Cut { after: 2 }));
    let reply = gate.post("/v1/chat/completions", &chat()).await;
    row_of(&mut gate, &reply).await;
    let log = gate.log();
    let line = log.iter().find(|line| line["told"].is_string());
    let line = line.expect("a line that says what the client was told");
    assert_eq!(line["message"], "answer broke off");
}
