//! The engine makes what it makes, and counts all of it; the network does what it is told.

use std::time::Duration;

use serde_json::json;

use crate::fakes::engine::Engine;
use crate::fakes::link::{Link, Mood, Target};
use crate::fakes::wire::{self, Wire};

const PACE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn an_engine_makes_its_tokens_though_nobody_reads_them() {
    let engine = Engine::start(100_000, PACE).await;
    let addr = engine.url().trim_start_matches("http://").parse();
    let mut wire = Wire::connect(addr.expect("an address"))
        .await
        .expect("a connection");
    // More than the sockets between the two hold.
    let body = json!({"prompt": "x [[tokens=40000 delay_ms=0]]", "stream": true, "max_tokens": 40_000,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let headers = [("content-type", "application/json")];
    wire.send(
        "POST /v1/completions",
        &headers,
        body.to_string().as_bytes(),
    )
    .await
    .expect("sent");
    let made = engine.rest().await;
    assert!(made > 40_000, "{made} tokens");
    drop(wire);
}

#[tokio::test]
async fn an_engine_counts_what_it_made_for_calls_that_were_left() {
    let engine = Engine::start(2048, PACE).await;
    let addr = engine
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    for stream in [true, false] {
        let before = engine.made().await;
        let mut wire = Wire::connect(addr).await.expect("a connection");
        let body = json!({"prompt": "x [[tokens=1000]]", "stream": stream, "max_tokens": 1000});
        let headers = [("content-type", "application/json")];
        wire.send(
            "POST /v1/completions",
            &headers,
            body.to_string().as_bytes(),
        )
        .await
        .expect("sent");
        while engine.made().await < before + 50 {
            tokio::time::sleep(PACE).await;
        }
        drop(wire);
        let made = engine.rest().await - before;
        assert!((50..900).contains(&made), "{made} tokens");
    }
}

#[tokio::test]
async fn a_link_loses_answers_but_not_questions() {
    let engine = Engine::start(2048, Duration::ZERO).await;
    let target = engine
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    let link = Link::to(Target::Port(target)).await;
    let ask = async || {
        let body = json!({"prompt": "x", "max_tokens": 3});
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        wire::exchange(
            link.addr(),
            "POST /v1/completions",
            &headers,
            body.as_bytes(),
        )
        .await
    };
    assert_eq!(ask().await.expect("an answer").status, 200);
    let once = engine.made().await;
    link.turn(Mood::Loses(1));
    ask().await.expect_err("it is lost");
    assert_eq!((engine.made().await, link.lost()), (2 * once, 1));
    link.turn(Mood::Down);
    ask().await.expect_err("it is down");
    link.turn(Mood::Passes);
    assert_eq!(ask().await.expect("an answer").status, 200);
}
