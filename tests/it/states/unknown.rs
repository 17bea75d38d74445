//! Nothing is known of a target yet, or it sleeps: one call goes ahead, the others follow or are told.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::bench::{CHAT, GENTLE, Target, call, gate, most_at_once, seen, states};
use crate::calls::{messages, row_of};
use crate::expect::{anthropic_refusal, refusal};
use crate::fakes::model_server::{Arrived, Behaviour, Meanwhile, ModelServer, Settings};
use crate::fakes::wire::{Reply, Wire};
use crate::harness::{Gate, KEY};

const NOTHING: Arrived = Arrived {
    connections: 0,
    bytes: 0,
};

/// Sends a call on a connection of its own and leaves the answer unread.
async fn send(gate: &Gate, stream: bool) -> Wire {
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = call(stream).to_string();
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    wire
}

async fn gently(gate: &Gate, path: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("x-api-key", GENTLE)];
    let body = body.to_string();
    gate.ask(&format!("POST {path}"), &headers, body.as_bytes())
        .await
}

#[tokio::test]
async fn one_call_goes_ahead_and_the_next_when_its_caller_leaves() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let server = ModelServer::start(Settings::default()).await;
        server.shut(Meanwhile::Holds);
        let mut gate = gate(&[server.url()], target, &[]).await;
        let first = send(&gate, false).await;
        server.wait_for(|calls| calls.len() == 1).await;
        let mut others = Vec::new();
        for at in 0..6 {
            others.push(send(&gate, at % 2 == 0).await);
        }
        assert_eq!(states(&gate).await, ["unknown"], "{target:?}");
        assert_eq!(server.calls().len(), 1, "{target:?}: {}", seen(&server));
        drop(first);
        server
            .wait_for(|calls| calls.len() == 2 && calls[0].disconnected_at().is_some())
            .await;
        server.open();
        for wire in &mut others {
            let reply = wire.reply().await.expect("an answer");
            assert_eq!(reply.status, 200, "{target:?} {}", reply.text());
        }
        assert_eq!(states(&gate).await, ["ready"], "{target:?}");
        let rows = gate.rows(7).await;
        assert_eq!(rows.len(), 7);
        let left: Vec<&Value> = rows.iter().filter(|row| row["status"] == 499).collect();
        assert_eq!(left.len(), 1, "{rows:#?}");
        assert_eq!(left[0]["outcome"], "client_abort");
        assert_eq!(left[0]["total_tokens"], 0);
    }
}

#[tokio::test]
async fn without_a_word_for_five_seconds_it_counts_as_starting() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Holds);
    let gate = gate(&[server.url()], Target::ScalesToZero, &[]).await;
    let mut wires = Vec::new();
    for at in 0..4 {
        wires.push(send(&gate, at % 2 == 0).await);
    }
    let began = Instant::now();
    super::bench::until_state(&gate, "starting").await;
    let took = began.elapsed();
    assert!((4_000..8_000).contains(&took.as_millis()), "{took:?}");
    let up_at = Instant::now();
    server.open();
    for wire in &mut wires {
        assert_eq!(wire.reply().await.expect("an answer").status, 200);
    }
    let most = most_at_once(&server.calls(), up_at);
    assert!(most <= 1, "{most} at once\n{}", seen(&server));
}

#[tokio::test]
async fn a_long_plain_call_at_a_target_that_stays_keeps_no_other_waiting() {
    let server = ModelServer::start(Settings::default()).await;
    server.next(Behaviour {
        head_delay: Duration::from_secs(7),
        ..Behaviour::default()
    });
    let gate = gate(&[server.url()], Target::Stays, &[]).await;
    let mut long = send(&gate, false).await;
    server
        .wait_for(|calls| calls.iter().any(|call| call.path == CHAT))
        .await;
    let began = Instant::now();
    for reply in join_all((0..4).map(|_| gate.post(CHAT, &CALL))).await {
        assert_eq!(reply.status, 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(states(&gate).await, ["ready"]);
    assert_eq!(long.reply().await.expect("an answer").status, 200);
}

static CALL: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| call(false));

#[tokio::test]
async fn what_may_sleep_is_woken_by_no_list_no_count_and_no_key_that_may_not() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&[server.url()], Target::ScalesToZero, &[]).await;
    let tokens = json!({"model": "tiny-chat", "prompt": "Hello"});
    for round in ["with nothing known", "after it answered"] {
        let before = server.arrived();
        for _ in 0..2 {
            let began = Instant::now();
            let list = gate.ask("GET /v1/models", &[], b"").await;
            assert_eq!(list.status, 200, "{round}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{:?}",
                began.elapsed()
            );
            for path in ["/ready", "/health", "/admin/status", "/metrics"] {
                assert_eq!(gate.admin(path).await.status, 200, "{round} {path}");
            }
        }
        if round == "with nothing known" {
            for path in ["/tokenize", "/detokenize"] {
                let reply = gate.post(path, &tokens).await;
                assert_eq!(reply.status, 503, "{}", reply.text());
            }
            let reply = gently(&gate, CHAT, &CALL).await;
            let text = refusal(&reply, 503, "wake_not_allowed");
            assert!(!text.is_empty());
            assert_eq!(row_of(&mut gate, &reply).await["attempts"], 0);
            let reply = gently(&gate, "/v1/messages", &messages()).await;
            anthropic_refusal(&reply, 503, "overloaded_error");
            assert_eq!(server.arrived(), NOTHING, "{}", seen(&server));
            assert_eq!(states(&gate).await, ["unknown"]);
            assert_eq!(gate.post(CHAT, &CALL).await.status, 200);
        } else {
            assert_eq!(server.arrived(), before, "{}", seen(&server));
            let list = gate.ask("GET /v1/models", &[], b"").await;
            assert!(list.text().contains("tiny-chat"), "{}", list.text());
            assert_eq!(gate.post("/tokenize", &tokens).await.status, 200);
            assert_eq!(gently(&gate, CHAT, &CALL).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_key_that_may_not_wake_is_served_by_a_target_that_stays() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = gate(&[server.url()], Target::Stays, &[]).await;
    assert_eq!(gently(&gate, CHAT, &CALL).await.status, 200);
}

#[tokio::test]
async fn a_key_that_may_not_wake_does_not_take_over_a_start_that_its_caller_left() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Holds);
    let gate = gate(&[server.url()], Target::ScalesToZero, &[]).await;
    let waker = send(&gate, false).await;
    server.wait_for(|calls| calls.len() == 1).await;
    let (reply, ()) = tokio::join!(gently(&gate, CHAT, &CALL), async {
        // It is refused, or waits; in neither case may it go in the other's place.
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(waker);
        server
            .wait_for(|calls| calls[0].disconnected_at().is_some())
            .await;
    });
    refusal(&reply, 503, "wake_not_allowed");
    assert_eq!(server.calls().len(), 1, "{}", seen(&server));
}

#[tokio::test]
async fn whoever_leaves_while_it_waits_leaves_one_row() {
    let server = ModelServer::refusing(Settings::default());
    let settings = [
        ("COLD_START_WAIT_SECONDS", "30"),
        ("KEEPALIVE_SECONDS", "1"),
    ];
    let mut gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
    let mut wires = Vec::new();
    for at in 0..10 {
        wires.push(send(&gate, at % 2 == 1).await);
    }
    // The streams have their heads by now, and the plain calls came before them.
    for wire in wires.iter_mut().skip(1).step_by(2) {
        assert_eq!(wire.head().await.expect("a head").status, 200);
    }
    drop(wires);
    for row in gate.rows(10).await {
        let status = if row["stream"] == true { 200 } else { 499 };
        assert_eq!(
            (&row["status"], &row["outcome"], &row["attempts"]),
            (&json!(status), &json!("client_abort"), &json!(0)),
            "{row}"
        );
    }
    assert_eq!(gate.rows(10).await.len(), 10);
}
