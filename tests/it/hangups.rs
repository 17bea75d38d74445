//! A client that leaves frees the model at once. Prints how long that takes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::calls::{chat, with};
use super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::harness::{Gate, KEY};

const TIMES: usize = 100;

/// When the client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    BeforeHead,
    BeforeHeadAfterComments,
    AfterHead,
    InStream,
}

#[tokio::test]
async fn a_hang_up_reaches_the_model_server_at_once_and_the_row_says_when_it_was() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::with(&server.url(), &[("KEEPALIVE_SECONDS", "1")]).await;
    let cases = [
        (
            "plain, before the head",
            with(chat(), "stream", json!(false)),
            Moment::BeforeHead,
            TIMES,
        ),
        ("stream, before the head", chat(), Moment::BeforeHead, TIMES),
        (
            "stream, in the comments",
            chat(),
            Moment::BeforeHeadAfterComments,
            5,
        ),
        ("stream, after the head", chat(), Moment::AfterHead, TIMES),
        ("stream, between events", chat(), Moment::InStream, TIMES),
    ];
    let mut count = 0;
    for (name, body, moment, times) in cases {
        let mut took = Vec::new();
        for _ in 0..times {
            took.push(hang_up(&server, &gate, &body, moment).await);
            count += 1;
        }
        let rows = gate.rows(count).await;
        let row = rows.last().expect("a row");
        let status = if moment == Moment::BeforeHead {
            499
        } else {
            200
        };
        assert_eq!(
            (&row["status"], &row["outcome"]),
            (&json!(status), &json!("client_abort")),
            "{name}"
        );
        took.sort_unstable();
        let (p50, p99, most) = (took[times / 2], took[times * 99 / 100], took[times - 1]);
        println!("{name:26} p50 {p50:>10.2?}  p99 {p99:>10.2?}  max {most:>10.2?}");
        assert!(p50 < Duration::from_millis(100), "{name}: {p50:?}");
        assert!(most < Duration::from_secs(2), "{name}: {most:?}");
    }
}

/// Leaves at the moment; how long until the model server knows.
async fn hang_up(server: &ModelServer, gate: &Gate, body: &Value, moment: Moment) -> Duration {
    server.next(match moment {
        Moment::BeforeHead | Moment::BeforeHeadAfterComments => Behaviour {
            head_delay: Duration::from_mins(1),
            ..Behaviour::default()
        },
        // The role comes at once, the first token never.
        Moment::AfterHead => Behaviour::tokens(9).paced(Duration::from_mins(1)),
        Moment::InStream => Behaviour::tokens(1000).paced(Duration::from_millis(5)),
    });
    let before = server.model_calls().len();
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = with(body.clone(), "max_tokens", json!(1500)).to_string();
    wire.send("POST /v1/chat/completions", &headers, body.as_bytes())
        .await
        .expect("sent");
    server
        .wait_for(|calls| {
            calls
                .iter()
                .filter(|call| call.path == "/v1/chat/completions")
                .count()
                > before
        })
        .await;
    if moment != Moment::BeforeHead {
        wire.head().await.expect("a head");
        let events = if moment == Moment::InStream { 5 } else { 1 };
        for _ in 0..events {
            wire.chunk().await.expect("an event");
        }
    }
    let left_at = Instant::now();
    drop(wire);
    let calls = server
        .wait_for(|calls| {
            calls
                .last()
                .is_some_and(|call| call.disconnected_at().is_some())
        })
        .await;
    let gone_at = calls
        .last()
        .and_then(super::fakes::model_server::Call::disconnected_at);
    gone_at.expect("gone").saturating_duration_since(left_at)
}
