//! A client of the gateway sees what the recordings of a real vLLM say it would have seen without
//! it. The upstream gets a changed request (usage is asked for) and answers that one; what the client
//! sees must fit its own.

use serde_json::Value;

use super::fakes::golden::{self, Golden, Seen, chat_content, normal, normal_events};
use super::fakes::model_server::{Behaviour, Dialect, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY};

/// Headers that belong to the recorder's connection, or that the gateway asks to be its own.
const NOT_SENT: [&str; 7] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "authorization",
    "x-api-key",
];

#[tokio::test]
async fn python_s_answers_are_seen_as_recorded() {
    every_recording_is_seen_as_it_must(Dialect::Python).await;
}

#[tokio::test]
async fn the_rust_front_end_s_answers_are_seen_as_recorded() {
    every_recording_is_seen_as_it_must(Dialect::Rust).await;
}

async fn every_recording_is_seen_as_it_must(dialect: Dialect) {
    let server = ModelServer::start(Settings::replaying(dialect, golden::folder(dialect))).await;
    let mut gate = Gate::before(&server).await;
    let mut faults = Vec::new();
    let mut seen = 0;
    for golden in golden::all(dialect) {
        if golden.seen == Seen::Own {
            continue;
        }
        seen += 1;
        let behaviour = if needs_its_name(&golden) {
            Behaviour::recording(&golden.recording.name)
        } else {
            Behaviour::default()
        };
        server.on(&golden.recording.path, behaviour);
        let reply = ask(&gate, &golden).await;
        let found = judge(&golden, &reply)
            .or_else(|| headers(&golden, &reply))
            .or_else(|| arrived(&golden, &server));
        faults.extend(found.map(|what| {
            let (name, text) = (&golden.recording.name, reply.text());
            format!("{name}: {what}\n  {} {text:.2000}", reply.status)
        }));
    }
    assert!(seen > 100, "{seen} recordings");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    rows_are_the_servers_own_counts(&server, &mut gate).await;
}

/// One request was recorded several times, and the model babbles: what is to be compared is told by
/// name. Those under `streams/` were recorded in all forms, so the server looks up the request as it
/// arrives: the client asked for one form, the gateway for another.
fn needs_its_name(golden: &Golden) -> bool {
    let looks_up = golden.recording.name.starts_with("streams/");
    !looks_up && !matches!(golden.seen, Seen::Lowered | Seen::AnyError { .. })
}

async fn ask(gate: &Gate, golden: &Golden) -> Reply {
    let recording = &golden.recording;
    let mut headers = vec![("x-api-key", KEY)];
    for (name, value) in &recording.request_headers {
        if !NOT_SENT.contains(&name.as_str()) {
            headers.push((name.as_str(), value.to_str().expect("a text")));
        }
    }
    let line = format!("{} {}", recording.method, recording.path);
    gate.ask(&line, &headers, &recording.request_body).await
}

/// What is wrong with an answer, if anything.
fn judge(golden: &Golden, reply: &Reply) -> Option<String> {
    let recording = &golden.recording;
    if !reply.complete {
        return Some("the answer broke off".to_owned());
    }
    let expected = match golden.seen {
        Seen::Error { status, .. }
        | Seen::ErrorWithItsText { status, .. }
        | Seen::AnyError { status } => status,
        Seen::Lowered => 200,
        _ => recording.status.as_u16(),
    };
    if reply.status != expected {
        return Some(format!("status {expected} was expected"));
    }
    match golden.seen {
        Seen::Own | Seen::Lowered => None,
        Seen::Same if recording.is_stream() => {
            differs(&normal_events(&reply.body), &normal_events(&recording.body))
        }
        Seen::Same => match recording.json() {
            Some(json) => differs(&normal(&reply.json()), &normal(&json)),
            None => differs(&reply.body.as_slice(), &recording.body.as_ref()),
        },
        Seen::SameContent => differs(&chat_content(&reply.body), &chat_content(&recording.body)),
        Seen::UpToItsError => {
            let mut events = normal_events(&recording.body);
            let error = events
                .iter()
                .position(|(_, data)| data["error"].is_object());
            events.truncate(error.expect("an error event") + 1);
            differs(&normal_events(&reply.body), &events)
        }
        Seen::AnyError { .. } => error_text(golden, &reply.json()).err(),
        Seen::Error { code, .. } => match error_text(golden, &reply.json()) {
            Err(what) => Some(what),
            Ok(text) if text.chars().any(|c| c.is_ascii_digit()) => {
                Some("a digit in the gateway's own text".to_owned())
            }
            Ok(_) if golden.anthropic() => None,
            Ok(_) => differs(&reply.json()["error"]["code"], &Value::from(code)),
        },
        Seen::ErrorWithItsText { code, .. } => match error_text(golden, &reply.json()) {
            Err(what) => Some(what),
            Ok(text) => {
                let own = recording.json().expect("an error object");
                differs(&Value::from(text), &own["error"]["message"]).or_else(|| {
                    let told = &reply.json()["error"]["code"];
                    (!golden.anthropic()).then(|| differs(told, &Value::from(code)))?
                })
            }
        },
    }
}

/// The text of an error in the shape of its route.
fn error_text(golden: &Golden, body: &Value) -> Result<String, String> {
    let own = golden.recording.json().unwrap_or_default();
    // What passes verbatim keeps the upstream's shape.
    let verbatim = normal(&own) == normal(body) && own["error"]["message"].is_string();
    if !verbatim && golden.anthropic() && body["type"] != "error" {
        return Err("not Anthropic's shape".to_owned());
    }
    let error = &body["error"];
    let shaped = error["type"].is_string()
        && (golden.anthropic() || error.get("code").is_some() && error.get("param").is_some());
    match error["message"].as_str() {
        Some(text) if shaped && !text.is_empty() => Ok(text.to_owned()),
        _ => Err("no error object".to_owned()),
    }
}

fn headers(golden: &Golden, reply: &Reply) -> Option<String> {
    if reply.header("x-request-id").len() != 36 {
        return Some("no request id".to_owned());
    }
    for never in ["server", "set-cookie", "location", "www-authenticate"] {
        if reply.headers.contains_key(never) {
            return Some(format!("the header {never} came through"));
        }
    }
    let is_stream = golden.recording.is_stream() && reply.status == 200;
    let marks = [("cache-control", "no-cache"), ("x-accel-buffering", "no")];
    if is_stream
        && marks
            .iter()
            .any(|(name, value)| reply.header(name) != *value)
    {
        return Some("the stream is not marked as one".to_owned());
    }
    let passed = matches!(golden.seen, Seen::Same | Seen::SameContent);
    let kind = golden.recording.headers.get("content-type");
    if passed && kind != reply.headers.get("content-type") {
        return Some("another content type".to_owned());
    }
    let is_full = matches!(golden.seen, Seen::Error { status: 503, .. });
    (is_full && reply.header("retry-after") != "2").then(|| "no retry-after".to_owned())
}

/// Whether the request came to the server as it should.
fn arrived(golden: &Golden, server: &ModelServer) -> Option<String> {
    let call = server.model_calls().pop();
    let call = call.filter(|_| golden.seen == Seen::Lowered || golden.recording.is_stream())?;
    let body = call.json();
    let (prompt, asked) = (call.prompt_tokens, body["max_tokens"].as_u64());
    if golden.seen == Seen::Lowered && asked.is_none_or(|asked| prompt + asked > 2048) {
        return Some(format!("it was asked for {asked:?} tokens after {prompt}"));
    }
    let forced = &body["stream_options"]["include_usage"];
    let is_choices = golden.recording.path.ends_with("/completions");
    (is_choices && golden.recording.is_stream() && forced != true)
        .then(|| "usage was not asked for".to_owned())
}

fn differs<T: PartialEq + std::fmt::Debug>(got: &T, expected: &T) -> Option<String> {
    (got != expected).then(|| format!("\n  got      {got:?}\n  expected {expected:?}"))
}

/// Every answer with a count has a row that says the same.
async fn rows_are_the_servers_own_counts(server: &ModelServer, gate: &mut Gate) {
    assert!(gate.stop().await.success());
    let rows = gate.rows(1).await;
    let mut counted = 0;
    for call in server.model_calls() {
        let answered = call.status == Some(200) && call.completion_tokens > 0;
        if !answered {
            continue;
        }
        let row = rows
            .iter()
            .find(|row| row["request_id"] == call.request_id());
        let row = row.unwrap_or_else(|| panic!("no row for {call:#?}"));
        counted += 1;
        let told = (&row["prompt_tokens"], &row["completion_tokens"]);
        let name = call.replayed.as_deref().unwrap_or_default();
        assert_eq!(told.0, call.prompt_tokens, "{name}: {row}");
        assert_eq!(told.1, call.completion_tokens, "{name}: {row}");
        if row["outcome"] == "complete" {
            assert_eq!(row["counted_by"], "engine", "{name}: {row}");
        }
    }
    assert!(counted > 50, "{counted} counted calls");
}
