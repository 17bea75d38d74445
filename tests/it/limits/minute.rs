//! Limits that hold in one instance: requests and tokens per minute, and calls at once.

use std::time::Duration;

use serde_json::json;

use super::super::expect::refusal;
use super::super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::super::harness::KEY;
use super::{CHAT, every_route, every_route_served, hello, limited};

#[tokio::test]
async fn the_requests_of_a_minute_are_counted_on_every_route() {
    let server = every_route_served().await;
    for (path, body) in every_route() {
        let gate = limited(&server, json!({"requests_per_minute": 2})).await;
        for left in ["1", "0"] {
            let reply = gate.post(path, &body).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert_eq!(reply.header("x-ratelimit-limit-requests"), "2", "{path}");
            assert_eq!(
                reply.header("x-ratelimit-remaining-requests"),
                left,
                "{path}"
            );
            assert_eq!(reply.header("x-ratelimit-limit-tokens"), "", "{path}");
        }
        let before = server.calls().len();
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 429, "{path}");
        let wait: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{path}: {wait}");
        let reset = reply.header("x-ratelimit-reset-requests");
        assert!(
            reset.ends_with('s') && !reset.contains("ms"),
            "{path}: {reset}"
        );
        assert_eq!(
            reply.header("x-ratelimit-remaining-requests"),
            "0",
            "{path}"
        );
        assert_eq!(server.calls().len(), before, "{path}");
        if !path.starts_with("/v1/messages") {
            refusal(&reply, 429, "rate_limit_exceeded");
            assert_eq!(reply.json()["error"]["type"], "rate_limit_error", "{path}");
        }
    }
}

#[tokio::test]
async fn the_tokens_of_a_minute_are_those_that_were_used() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"tokens_per_minute": 10_000})).await;
    server.always(Behaviour::tokens(10));
    // Each may use more than a third of the minute and uses next to nothing.
    for done in 1..=6 {
        let reply = gate.post(CHAT, &hello(1900)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), "10000");
        gate.rows(done).await;
    }
    let reply = gate.post("/tokenize", &json!({"prompt": "Hello"})).await;
    let left: u64 = reply
        .header("x-ratelimit-remaining-tokens")
        .parse()
        .expect("a number");
    assert!((9_700..10_000).contains(&left), "{left}");
}

#[tokio::test]
async fn when_the_tokens_of_a_minute_are_gone_calls_are_refused() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"tokens_per_minute": 500})).await;
    server.always(Behaviour::tokens(590));
    let reply = gate.post(CHAT, &hello(590)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    gate.rows(1).await;
    let reply = gate.post(CHAT, &hello(590)).await;
    refusal(&reply, 429, "rate_limit_exceeded");
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(server.model_calls().len(), 1);
}

#[tokio::test]
async fn a_call_waits_for_a_place_and_is_refused_without_one() {
    let server = ModelServer::start(Settings::default()).await;
    let limits = json!({"max_concurrent": 1, "requests_per_minute": 3, "token_limit": 100_000});
    let mut gate = limited(&server, limits).await;
    server.always(Behaviour {
        head_delay: Duration::from_mins(1),
        ..Behaviour::default()
    });
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = hello(8).to_string();
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    server
        .wait_for(|calls| calls.iter().any(|call| call.path == CHAT))
        .await;
    let reply = gate.post(CHAT, &hello(8)).await;
    refusal(&reply, 429, "rate_limit_exceeded");
    assert_eq!(reply.header("retry-after"), "5");
    // It took nothing: neither of the minute nor of the budget.
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "2");
    drop(wire);
    gate.rows(1).await;
    server.always(Behaviour::default());
    for left in ["1", "0"] {
        let reply = gate.post(CHAT, &hello(8)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), left);
    }
}

#[tokio::test]
async fn watched_limits_of_the_minute_and_of_calls_at_once_only_log() {
    let server = ModelServer::start(Settings::default()).await;
    let limits = json!({"requests_per_minute": 1, "max_concurrent": 1, "dry_run": true});
    let gate = limited(&server, limits).await;
    server.always(Behaviour {
        head_delay: Duration::from_millis(300),
        ..Behaviour::default()
    });
    let body = hello(8);
    let (one, two) = tokio::join!(gate.post(CHAT, &body), gate.post(CHAT, &body));
    for reply in [one, two] {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "");
    }
    let log = gate.log();
    let pardons: Vec<_> = log
        .iter()
        .filter(|line| line["message"] == "would be refused without dry_run")
        .collect();
    assert_eq!(pardons.len(), 2, "{log:#?}");
    for line in pardons {
        assert_eq!(line["code"], "rate_limit_exceeded");
        assert_eq!(line["owner"], "service:test");
    }
    let metrics = gate.admin("/metrics").await.text();
    let line = r#"tollgate_dry_run_refusals_total{code="rate_limit_exceeded"} 2"#;
    assert!(metrics.lines().any(|shown| shown == line), "{metrics}");
}
