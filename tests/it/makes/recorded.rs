//! Recorded exchanges of real servers of other makes, played again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Answer, Behaviour, gate_before, row_of};
use crate::fakes::golden::normal_events;
use crate::fakes::model_server::{ModelServer, Settings};
use crate::fakes::wire::Reply;
use crate::harness::Gate;

/// The folders of makes that are not vLLM.
fn folders() -> [PathBuf; 2] {
    ["llama.cpp-11549", "llama-cpp-python-0.3.36"].map(|name| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name)
    })
}

/// One exchange: what was asked, and what came.
struct Exchange {
    name: String,
    path: String,
    body: Vec<u8>,
    answer: Answer,
}

fn read(folder: &Path) -> Vec<Exchange> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("recordings")
        .filter_map(|entry| {
            let name = entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name");
            Some(name.strip_suffix(".request.http")?.to_owned())
        })
        .collect();
    names.sort();
    names.iter().map(|name| exchange(folder, name)).collect()
}

fn exchange(folder: &Path, name: &str) -> Exchange {
    let part = |kind: &str| {
        let text =
            fs::read_to_string(folder.join(format!("{name}.{kind}.http"))).expect("a recording");
        let (head, body) = text.split_once("\n\n").expect("an empty line");
        (head.to_owned(), body.to_owned())
    };
    let (asked, body) = part("request");
    let (head, came) = part("response");
    let word = |text: &str, at: usize| text.split(' ').nth(at).expect("a word").to_owned();
    let kind = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-type: ")
                .map(str::to_owned)
        })
        .expect("a content type");
    let answer = Answer::empty(word(&head, 1).parse().expect("a status"));
    Exchange {
        name: name.to_owned(),
        path: word(&asked, 1),
        body: body.into_bytes(),
        answer: Answer {
            body: came,
            ..answer.header("content-type", &kind)
        },
    }
}

async fn playing(exchanges: &[Exchange]) -> ModelServer {
    let server = ModelServer::start(Settings::default()).await;
    for one in exchanges {
        if matches!(one.path.as_str(), "/v1/models" | "/version" | "/tokenize") {
            server.on(&one.path, Behaviour::answer(one.answer.clone()));
        }
    }
    server
}

#[tokio::test]
async fn what_a_real_server_of_another_make_said_passes_as_a_client_would_have_it() {
    let mut streams = 0;
    for folder in folders() {
        let exchanges = read(&folder);
        assert!(exchanges.len() > 15, "{}", exchanges.len());
        let server = playing(&exchanges).await;
        let mut gate = gate_before(&server).await;
        for one in exchanges
            .iter()
            .filter(|one| !one.body.is_empty() && one.path.starts_with("/v1/"))
        {
            if one.body.ends_with(b"...") {
                // Its prompt was left out.
                continue;
            }
            // Those two the gateway refuses by itself.
            let is_refused = ["chat-unknown-model", "chat-wrong-type"];
            if !is_refused.iter().any(|name| one.name.starts_with(name)) {
                server.next(Behaviour::answer(one.answer.clone()));
            }
            let headers = [("content-type", "application/json")];
            let line = format!("POST {}", one.path);
            let reply = gate.ask(&line, &headers, &one.body).await;
            streams += usize::from(check(&mut gate, one, &reply).await);
        }
    }
    assert!(streams >= 12, "{streams} streams");
}

/// Tells whether it was a stream.
async fn check(gate: &mut Gate, one: &Exchange, reply: &Reply) -> bool {
    let asked: Value = serde_json::from_slice(&one.body).expect("JSON");
    if one.name.starts_with("chat-unknown-model") {
        // The server takes any name; the gateway knows its list.
        assert_eq!(reply.status, 404, "{}", one.name);
        return false;
    }
    if one.answer.status != 200 {
        let status = match one.answer.status {
            500 | 501 => 502,
            status => status,
        };
        assert_eq!(reply.status, status, "{}: {}", one.name, reply.text());
        assert!(
            reply.json()["error"]["message"].is_string(),
            "{}",
            reply.text()
        );
        return false;
    }
    assert_eq!(reply.status, 200, "{}: {}", one.name, reply.text());
    let row = row_of(gate, reply).await;
    assert_eq!(row["outcome"], "complete", "{}: {row}", one.name);
    assert!(
        row["prompt_tokens"].as_u64() > Some(0),
        "{}: {row}",
        one.name
    );
    assert!(
        row["completion_tokens"].as_u64() > Some(0),
        "{}: {row}",
        one.name
    );
    let told = one.answer.body.contains("\"usage\"");
    let by = if told { "engine" } else { "estimate" };
    assert_eq!(row["counted_by"], by, "{}: {row}", one.name);
    if asked["stream"] != json!(true) {
        assert_eq!(reply.text(), one.answer.body, "{}", one.name);
        return false;
    }
    let asks_usage = asked["stream_options"]["include_usage"] == json!(true);
    if asks_usage || one.path != "/v1/chat/completions" || !told {
        let sent = normal_events(one.answer.body.as_bytes());
        assert_eq!(normal_events(&reply.body), sent, "{}", one.name);
    }
    true
}
