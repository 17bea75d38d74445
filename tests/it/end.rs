//! How the process ends: what is under way ends or is cut, and no row is lost, not even to a kill.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::expect::refusal;
use super::fakes::model_server::{Answer, Behaviour, Fault, ModelServer, Settings};
use super::fakes::wire::{self, Wire};
use super::harness::{Gate, KEY};

const CHAT: &str = "/v1/chat/completions";

fn ask(stream: bool) -> Value {
    json!({"stream": stream, "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]})
}

/// Sends a call on a connection of its own and leaves the answer unread.
async fn send(gate: &Gate, stream: bool) -> Wire {
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = ask(stream).to_string();
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    wire
}

#[tokio::test]
async fn idle_it_ends_at_once() {
    let server = ModelServer::start(Settings::default()).await;
    for (signal, settings) in [
        ("TERM", &[][..]),
        ("INT", &[]),
        ("TERM", &[("H2C", "true")]),
    ] {
        let mut gate = Gate::with(&server.url(), settings).await;
        let mut kept = gate.wire().await;
        kept.send("GET /health", &[], b"").await.expect("sent");
        assert_eq!(kept.reply().await.expect("an answer").status, 200);
        let started = Instant::now();
        gate.signal(signal);
        assert_eq!(gate.ended().await.code(), Some(0));
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
        assert!(kept.closed().await.expect("closed").is_empty());
    }
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_delay_the_end() {
    let server = ModelServer::start(Settings::default()).await;
    for settings in [&[][..], &[("H2C", "true")]] {
        let mut gate = Gate::with(&server.url(), settings).await;
        let mute = gate.wire().await;
        let mut half = gate.wire().await;
        half.send_raw(b"PRI * HT").await.expect("sent");
        // Accepted in their order: once this one is answered, so were they.
        assert_eq!(gate.ask("GET /health", &[], b"").await.status, 200);
        let started = Instant::now();
        assert_eq!(gate.stop().await.code(), Some(0));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{settings:?}: {took:?}");
        drop((mute, half));
    }
}

#[tokio::test]
async fn whoever_is_not_ready_at_the_end_is_left_without_a_row_lost() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::with(&server.url(), &[("DRAIN_SECONDS", "4")]).await;
    // Half a body; an answer that nobody reads; and one that is read as it should be.
    let mut half = gate.wire().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    );
    half.send_raw(head.as_bytes()).await.expect("sent");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(64 << 20));
    server.next(Behaviour::answer(Answer::json(200, large)));
    let unread = send(&gate, false).await;
    server
        .wait_for(|calls| {
            calls
                .iter()
                .any(|call| call.path == CHAT && call.finished())
        })
        .await;
    assert_eq!(gate.post(CHAT, &ask(false)).await.status, 200);
    let started = Instant::now();
    assert_eq!(gate.stop().await.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    let rows = gate.rows(2).await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let outcomes: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, BTreeSet::from(["complete", "drained"]));
    assert_eq!(gate.table().await.len(), 2);
    drop((half, unread));
}

#[tokio::test]
async fn streams_of_http2_end_with_the_process_too() {
    // Another test may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = ModelServer::start(Settings {
        max_model_len: 1_000_000,
        ..Settings::default()
    })
    .await;
    let settings = [("H2C", "true"), ("DRAIN_SECONDS", "4")];
    let mut gate = Gate::with(&server.url(), &settings).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build();
    let client = client.expect("a client");
    let call = |body: Value| {
        let request = client
            .post(format!("http://{}{CHAT}", gate.addr))
            .header("x-api-key", KEY);
        request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
    };
    // One that nobody reads, more of it than a stream's window holds; one that falls silent.
    server.next(Behaviour::tokens(20_000));
    let mut long = ask(true);
    long["max_tokens"] = 20_000.into();
    let unread = call(long).await.expect("an answer");
    server.next(Behaviour::fault(Fault::Mute { after: 3 }));
    let mute = call(ask(true)).await.expect("an answer");
    let started = Instant::now();
    gate.signal("TERM");
    let text = mute.text().await.expect("a body");
    assert!(text.contains("\"code\":503"), "{text}");
    assert_eq!(gate.ended().await.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    let rows = gate.rows(2).await;
    assert!(
        rows.iter().all(|row| row["outcome"] == "drained"),
        "{rows:#?}"
    );
    assert_eq!(gate.table().await.len(), 2);
    drop(unread);
}

#[tokio::test]
async fn a_stream_that_ends_in_time_ends_properly() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    server.next(Behaviour::tokens(20).paced(Duration::from_millis(50)));
    let mut wire = send(&gate, true).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let mut text = String::from_utf8(wire.chunk().await.expect("an event")).expect("text");
    gate.signal("TERM");
    // A second signal changes nothing.
    gate.signal("TERM");
    while let Some(chunk) = wire.chunk().await.ok().filter(|chunk| !chunk.is_empty()) {
        text += &String::from_utf8(chunk).expect("text");
    }
    assert!(
        text.ends_with("data: [DONE]\n\n") && text.contains("finish_reason\":\"stop"),
        "{text}"
    );
    assert_eq!(gate.ended().await.code(), Some(0));
    let rows = gate.rows(1).await;
    assert_eq!(
        (&rows[0]["outcome"], &rows[0]["completion_tokens"]),
        (&json!("complete"), &json!(20))
    );
    assert_eq!(gate.table().await.len(), 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_and_kept() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::with(&server.url(), &[("DRAIN_SECONDS", "4")]).await;
    server.next(Behaviour::fault(Fault::Mute { after: 3 }));
    let mut stream = send(&gate, true).await;
    assert_eq!(stream.head().await.expect("a head").status, 200);
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    let mut plain = send(&gate, false).await;
    server
        .wait_for(|calls| calls.iter().filter(|call| call.path == CHAT).count() == 2)
        .await;
    let started = Instant::now();
    gate.signal("TERM");
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await.ok().filter(|chunk| !chunk.is_empty()) {
        text += &String::from_utf8(chunk).expect("text");
    }
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let event: Value = serde_json::from_str(last.trim_start_matches("data: ")).expect("JSON");
    assert_eq!(event["error"]["code"], 503, "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    refusal(&plain.reply().await.expect("an answer"), 503, "not_ready");
    assert_eq!(gate.ended().await.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    let rows = gate.rows(2).await;
    assert!(
        rows.iter().all(|row| row["outcome"] == "drained"),
        "{rows:#?}"
    );
    assert_eq!(gate.table().await.len(), 2);
}

/// Clients that call without end; the request ids of what they read to its proper end.
fn load(gate: &Gate) -> (JoinSet<()>, Arc<Mutex<BTreeSet<String>>>) {
    let read = Arc::new(Mutex::new(BTreeSet::new()));
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let (addr, read) = (gate.addr, read.clone());
        clients.spawn(async move {
            let body = ask(client % 2 == 0).to_string();
            let headers = [("x-api-key", KEY), ("content-type", "application/json")];
            let line = format!("POST {CHAT}");
            while let Ok(reply) = wire::exchange(addr, &line, &headers, body.as_bytes()).await {
                if reply.status == 200 && reply.complete {
                    let id = reply.header("x-request-id").to_owned();
                    read.lock().expect("the set").insert(id);
                }
            }
        });
    }
    (clients, read)
}

#[tokio::test]
async fn told_to_end_under_load_it_loses_no_row() {
    let server = ModelServer::start(Settings::default()).await;
    server.always(Behaviour::tokens(5).paced(Duration::from_millis(2)));
    let mut gate = Gate::before(&server).await;
    let (mut clients, read) = load(&gate);
    gate.rows(200).await;
    assert_eq!(gate.stop().await.code(), Some(0));
    while clients.join_next().await.is_some() {}
    let read = read.lock().expect("the set").clone();
    let id = |row: &Value| row["request_id"].as_str().unwrap_or_default().to_owned();
    let logged: Vec<String> = gate.rows(read.len()).await.iter().map(id).collect();
    let table: BTreeSet<String> = gate.table().await.into_iter().map(|row| row.0).collect();
    assert_eq!(logged.iter().cloned().collect::<BTreeSet<_>>(), table);
    assert_eq!(logged.len(), table.len(), "no row twice");
    assert!(read.is_subset(&table), "{:?}", read.difference(&table));
    let ours: BTreeSet<String> = server
        .model_calls()
        .iter()
        .map(|call| call.request_id().to_owned())
        .collect();
    assert!(
        ours.is_subset(&table),
        "what reached the model server has its row"
    );
}

#[tokio::test]
async fn killed_under_load_it_has_logged_what_clients_have_read() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let (mut clients, read) = load(&gate);
    gate.rows(300).await;
    gate.signal("KILL");
    assert_eq!(gate.ended().await.code(), None);
    while clients.join_next().await.is_some() {}
    let read = read.lock().expect("the set").clone();
    assert!(read.len() > 100);
    let rows = gate.rows(read.len()).await;
    let logged: BTreeSet<String> = rows
        .iter()
        .filter_map(|row| Some(row["request_id"].as_str()?.to_owned()))
        .collect();
    assert!(read.is_subset(&logged), "{:?}", read.difference(&logged));
    // The table may lack the last second and opens all the same.
    assert!(gate.table().await.len() <= logged.len());
}
