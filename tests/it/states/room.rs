//! The waiting room: bounded, and empty at the end of the process.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::bench::{CHAT, Target, call, gate, seen, show, states};
use crate::fakes::model_server::{Answer, Meanwhile, ModelServer, Settings};
use crate::fakes::wire::{Reply, Wire};
use crate::harness::{Gate, KEY};

/// Calls that wait for a target, as the contract of the gateway's operators has it.
const ROOM: usize = 1000;

async fn send(gate: &Gate, body: &Value) -> Wire {
    let mut wire = gate.wire().await.patient(Duration::from_mins(1));
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = body.to_string();
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    wire
}

#[tokio::test]
async fn who_finds_the_waiting_room_full_is_told_at_once() {
    rlimit::increase_nofile_limit(8192).expect("more open files");
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Answers(Answer::no_instance()));
    let settings = [("COLD_START_WAIT_SECONDS", "120")];
    let gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
    let body = call(false);
    let mut wires = Vec::new();
    for _ in 0..ROOM + 60 {
        wires.push(send(&gate, &body).await);
    }
    let began = Instant::now();
    let (told, waiting) = split(wires, 40).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    for reply in &told {
        let shown = show(reply);
        assert_eq!(shown.status, 503, "{}", reply.text());
        assert!(
            matches!(shown.code.as_str(), "overloaded" | "upstream_starting"),
            "{}",
            reply.text()
        );
        assert!(
            (Some(1)..=Some(60)).contains(&shown.retry_after),
            "{shown:?}"
        );
    }
    assert_eq!(states(&gate).await, ["starting"]);
    server.open();
    let replies = join_all(
        waiting
            .into_iter()
            .map(|mut wire| async move { wire.reply().await.expect("an answer") }),
    )
    .await;
    let count = replies.iter().filter(|reply| reply.status == 200).count();
    let refused = told.len() + replies.len() - count;
    assert!(
        (40..=80).contains(&refused),
        "{refused} were refused, {count} served"
    );
    assert_eq!(
        count,
        server
            .model_calls()
            .iter()
            .filter(|c| c.status == Some(200))
            .count()
    );
}

/// The answers of those that are answered, once there are `enough`, and the others.
async fn split(wires: Vec<Wire>, enough: usize) -> (Vec<Reply>, Vec<Wire>) {
    let mut set = tokio::task::JoinSet::new();
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel();
    let stop = tokio_util::sync::CancellationToken::new();
    for mut wire in wires {
        let (told, stop) = (told.clone(), stop.clone());
        set.spawn(async move {
            // Once its first byte is here an answer is read to its end.
            let head = tokio::select! {
                biased;
                () = stop.cancelled() => return Some(wire),
                head = wire.head() => head.expect("a head"),
            };
            told.send(wire.body(head).await.expect("an answer")).ok();
            None
        });
    }
    drop(told);
    let mut replies = Vec::new();
    while replies.len() < enough {
        let next = tokio::time::timeout(crate::harness::PATIENCE, tellings.recv()).await;
        let got = replies.len();
        let reply = next.unwrap_or_else(|_| panic!("{got} are answered, not {enough}"));
        replies.push(reply.expect("an answer"));
    }
    stop.cancel();
    let left = set.join_all().await;
    while let Some(reply) = tellings.recv().await {
        replies.push(reply);
    }
    (replies, left.into_iter().flatten().collect())
}

#[tokio::test]
async fn at_the_end_of_the_process_all_who_wait_are_told_and_have_their_rows() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Holds);
    let settings = [("DRAIN_SECONDS", "5"), ("KEEPALIVE_SECONDS", "1")];
    let mut gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
    let mut wires = Vec::new();
    for at in 0..50 {
        wires.push(send(&gate, &call(at % 2 == 0)).await);
    }
    // The streams have their heads, the plain calls are read.
    for wire in wires.iter_mut().step_by(2) {
        assert_eq!(wire.head().await.expect("a head").status, 200);
    }
    server.wait_for(|calls| !calls.is_empty()).await;
    let began = Instant::now();
    gate.signal("TERM");
    for (at, wire) in wires.iter_mut().enumerate() {
        if at % 2 == 0 {
            let mut rest = String::new();
            while let Ok(chunk) = wire.chunk().await
                && !chunk.is_empty()
            {
                rest += &String::from_utf8_lossy(&chunk);
            }
            assert!(
                rest.contains("\"code\":503") && !rest.contains("[DONE]"),
                "{rest}"
            );
        } else {
            let reply = wire.reply().await.expect("an answer");
            assert_eq!(reply.status, 503, "{}", reply.text());
        }
    }
    assert_eq!(gate.ended().await.code(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    let rows = gate.rows(50).await;
    assert_eq!(rows.len(), 50);
    for row in rows {
        let status = if row["stream"] == true { 200 } else { 503 };
        assert_eq!(
            (&row["status"], &row["outcome"]),
            (&json!(status), &json!("drained")),
            "{row}"
        );
    }
    assert_eq!(gate.table().await.len(), 50);
    assert!(server.calls().len() <= 2, "{}", seen(&server));
}
