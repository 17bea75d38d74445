//! A server that is not up treats all paths alike, and what arrives is counted.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fakes::model_server::{Answer, Meanwhile, ModelServer, Settings};
use crate::fakes::wire::{self, Wire};

const PATHS: [&str; 5] = [
    "GET /v1/models",
    "GET /version",
    "GET /health",
    "GET /metrics",
    "POST /v1/chat/completions",
];
const BODY: &[u8] = br#"{"messages": [{"role": "user", "content": "Hi"}]}"#;

fn body(line: &str) -> &'static [u8] {
    if line.starts_with("POST") { BODY } else { b"" }
}

#[tokio::test]
async fn behind_a_shut_door_every_path_meets_the_same() {
    let server = ModelServer::start(Settings::default()).await;
    for answer in [
        Answer::no_instance(),
        Answer::not_available_yet(),
        Answer::unavailable(),
        Answer::loading(),
    ] {
        server.shut(Meanwhile::Answers(answer.clone()));
        for line in PATHS {
            let reply = wire::exchange(server.addr(), line, &[], body(line))
                .await
                .expect("an answer");
            assert_eq!(
                (reply.status, reply.text()),
                (answer.status, answer.body.clone())
            );
        }
    }
    assert_eq!(server.calls().len(), 4 * PATHS.len());
    server.open();
    for line in PATHS {
        let reply = wire::exchange(server.addr(), line, &[], body(line)).await;
        assert_eq!(reply.expect("an answer").status, 200, "{line}");
    }
}

#[tokio::test]
async fn what_is_held_is_served_when_the_start_is_over() {
    let server = ModelServer::start(Settings::default()).await;
    let takes = Duration::from_millis(300);
    server.sleep(Meanwhile::Holds, takes);
    assert_eq!((server.up_at(), server.arrived().bytes), (None, 0));
    let began = Instant::now();
    let held = PATHS.map(|line| wire::exchange(server.addr(), line, &[], body(line)));
    for reply in futures_util::future::join_all(held).await {
        assert_eq!(reply.expect("an answer").status, 200);
    }
    assert!(began.elapsed() >= takes, "{:?}", began.elapsed());
    assert!(server.up_at().is_some());
    let arrived = server.arrived();
    assert_eq!(arrived.connections, 5);
    assert!(arrived.bytes > 5 * 30, "{arrived:?}");
}

#[tokio::test]
async fn who_leaves_a_shut_door_is_seen_leaving() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Holds);
    let mut wire = Wire::connect(server.addr()).await.expect("a connection");
    wire.send("GET /health", &[], b"").await.expect("sent");
    server.wait_for(|calls| calls.len() == 1).await;
    drop(wire);
    server
        .wait_for(|calls| calls[0].disconnected_at().is_some())
        .await;
}

#[tokio::test]
async fn a_stale_connection_ends_when_it_is_used_again() {
    let settings = Settings {
        is_stale: true,
        ..Settings::default()
    };
    let server = ModelServer::start(settings).await;
    let mut wire = Wire::connect(server.addr()).await.expect("a connection");
    let text = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
    let headers = [("content-type", "application/json")];
    let line = "POST /v1/chat/completions";
    wire.send(line, &headers, text.as_bytes())
        .await
        .expect("sent");
    assert_eq!(wire.reply().await.expect("an answer").status, 200);
    wire.send(line, &headers, text.as_bytes())
        .await
        .expect("sent");
    assert!(wire.reply().await.is_err());
    assert_eq!(server.calls().len(), 1, "it read nothing of the second");
}
