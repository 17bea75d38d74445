//! Answers by recording are the recorded ones, to the byte.

use http::Method;
use serde_json::json;

use crate::fakes::golden::{self, Seen};
use crate::fakes::model_server::recording::{self, Recording};
use crate::fakes::model_server::{Behaviour, Dialect, Framing, ModelServer, Settings};
use crate::fakes::wire;

const BOTH: [Dialect; 2] = [Dialect::Python, Dialect::Rust];

async fn replaying(dialect: Dialect) -> ModelServer {
    ModelServer::start(Settings::replaying(dialect, golden::folder(dialect))).await
}

fn recorded(dialect: Dialect, name: &str) -> Recording {
    let mut all = recording::load_all(&golden::folder(dialect)).into_iter();
    all.find(|found| found.name == name)
        .unwrap_or_else(|| panic!("no recording {name}"))
}

#[test]
fn every_recording_has_an_expectation() {
    for dialect in BOTH {
        let all = golden::all(dialect);
        assert!(all.len() > 100, "{dialect:?}: {}", all.len());
        for golden in &all {
            let told = golden.recording.headers.get("content-length");
            let told = told.and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
            let trimmed =
                golden.recording.path == "/metrics" || golden.recording.method == Method::HEAD;
            if let Some(length) = told.filter(|_| !trimmed) {
                assert_eq!(
                    golden.recording.body.len(),
                    length,
                    "{}",
                    golden.recording.name
                );
            }
            let anthropic = golden.recording.path.starts_with("/v1/messages");
            assert_eq!(golden.anthropic(), anthropic);
        }
    }
}

#[test]
fn an_error_event_in_a_stream_is_expected_to_be_its_last() {
    let found = golden::all(Dialect::Rust)
        .into_iter()
        .filter(|g| g.seen == Seen::UpToItsError);
    let names: Vec<String> = found.map(|golden| golden.recording.name).collect();
    assert_eq!(names, ["tools-named-stream", "tools-required-stream"]);
}

#[tokio::test]
async fn every_recording_is_replayed_to_the_byte() {
    for dialect in BOTH {
        let server = replaying(dialect).await;
        for recording in recording::load_all(&golden::folder(dialect)) {
            if recording.method == Method::HEAD {
                continue;
            }
            let line = format!("{} {}", recording.method, recording.path);
            server.on(&recording.path, Behaviour::recording(&recording.name));
            let sent = recording.request_headers.iter();
            let sent: Vec<(&str, &str)> = sent
                .filter(|(name, _)| !matches!(name.as_str(), "host" | "content-length"))
                .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
                .collect();
            let reply = wire::exchange(server.addr(), &line, &sent, &recording.request_body).await;
            let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", recording.name));
            assert!(reply.complete, "{}", recording.name);
            assert_eq!(
                reply.status,
                recording.status.as_u16(),
                "{}",
                recording.name
            );
            assert_eq!(reply.body, recording.body, "{}", recording.name);
            for header in ["content-type", "server", "vary", "cache-control"] {
                let told = recording.headers.get(header);
                assert_eq!(
                    reply.headers.get(header),
                    told,
                    "{}: {header}",
                    recording.name
                );
            }
            if recording.is_stream() {
                assert_eq!(
                    reply.chunks,
                    recording.events(),
                    "{}: one event a chunk",
                    recording.name
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_is_answered_in_the_form_it_asks_for() {
    for dialect in BOTH {
        let server = replaying(dialect).await;
        let all = recording::load_all(&golden::folder(dialect));
        let streams = all
            .iter()
            .filter(|found| found.name.starts_with("streams/"));
        let mut count = 0;
        for recording in streams {
            // Key order is no matter, nor are the headers.
            let body = recording.request_json().expect("a JSON body");
            let mut turned: Vec<_> = body
                .as_object()
                .expect("an object")
                .clone()
                .into_iter()
                .collect();
            turned.reverse();
            let turned = serde_json::Value::Object(turned.into_iter().collect());
            let reply = wire::post(server.addr(), &recording.path, &turned).await;
            assert_eq!(reply.body, recording.body, "{}", recording.name);
            let call = server.calls().pop().expect("a call");
            assert_eq!(call.replayed.as_deref(), Some(recording.name.as_str()));
            count += 1;
        }
        assert!(count >= 36, "{dialect:?}: {count}");
    }
}

#[tokio::test]
async fn running_usage_of_a_recording_reaches_the_book() {
    for dialect in BOTH {
        let server = replaying(dialect).await;
        let recording = recorded(dialect, "streams/chat-stream.continuous");
        let body = recording.request_json().expect("a JSON body");
        wire::post(server.addr(), "/v1/chat/completions", &body).await;
        let call = server.calls().pop().expect("a call");
        assert_eq!((call.prompt_tokens, call.completion_tokens), (15, 14));
        assert!(call.finished());
        assert_eq!(call.events, recording.events().len());
        assert_eq!(call.status, Some(200));
    }
}

/// The forms of one stream agree, so that a gateway can make one of another.
#[test]
fn the_forms_of_a_stream_differ_in_nothing_but_usage_and_fingerprint() {
    for dialect in BOTH {
        let all = golden::all(dialect);
        let of = |name: &str| all.iter().find(|golden| golden.recording.name == name);
        for plain in &all {
            let Some(name) = plain.recording.name.strip_suffix("plain") else {
                continue;
            };
            for form in ["usage", "continuous"] {
                let other = of(&format!("{name}{form}")).expect("all three forms");
                if plain.seen == Seen::SameContent {
                    let content =
                        |golden: &golden::Golden| golden::chat_content(&golden.recording.body);
                    assert_eq!(content(plain), content(other), "{name}{form}");
                } else {
                    assert_eq!(
                        bare(&plain.recording),
                        bare(&other.recording),
                        "{name}{form}"
                    );
                }
            }
        }
    }
}

fn bare(recording: &Recording) -> Vec<serde_json::Value> {
    let mut events: Vec<serde_json::Value> = golden::normal_events(&recording.body)
        .into_iter()
        .map(|(_, event)| event)
        .collect();
    events.retain(|event| event["choices"] != json!([]));
    for event in events
        .iter_mut()
        .filter_map(serde_json::Value::as_object_mut)
    {
        event.remove("usage");
        event.remove("system_fingerprint");
    }
    events
}

#[tokio::test]
async fn what_is_not_recorded_goes_to_the_engine() {
    let server = replaying(Dialect::Python).await;
    let body = json!({"messages": [{"role": "user", "content": "never recorded"}]});
    let reply = wire::post(server.addr(), "/v1/chat/completions", &body).await;
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
    assert_eq!(server.calls()[0].replayed, None);
    assert_eq!(server.calls()[0].query, None);
}

#[tokio::test]
async fn a_recording_may_be_dressed_up() {
    let server = replaying(Dialect::Python).await;
    let recording = recorded(Dialect::Python, "chat-stream");
    let body = recording.request_json().expect("a JSON body");
    for size in [1, 7, 100_000] {
        let framing = Framing {
            split_bytes: Some(size),
            ..Framing::default()
        };
        server.next(Behaviour {
            framing,
            ..Behaviour::recording("chat-stream")
        });
        let reply = wire::post(server.addr(), "/v1/chat/completions", &body).await;
        assert_eq!(reply.body, recording.body);
        assert!(
            reply.chunks.iter().all(|chunk| chunk.len() <= size),
            "{size}"
        );
    }
    let framing = Framing {
        crlf: true,
        comments: true,
        split_bytes: None,
    };
    server.next(Behaviour {
        framing,
        ..Behaviour::recording("chat-stream")
    });
    let reply = wire::post(server.addr(), "/v1/chat/completions", &body).await;
    let text = reply.text();
    assert_eq!(
        text.matches(": still here\r\n\r\n").count(),
        recording.events().len()
    );
    let undone = text
        .replace(": still here\r\n\r\n", "")
        .replace("\r\n", "\n");
    assert_eq!(undone.as_bytes(), recording.body);
}
