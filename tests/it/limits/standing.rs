//! How a budget stands in what its principal is told: headers, and counters that outlive a key.

use std::time::Duration;

use serde_json::json;

use super::super::fakes::model_server::{ModelServer, Settings};
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate};
use super::{CHAT, FREE, cost_of, every_route, every_route_served, hello, keys, limited, used};

const KINDS: [&str; 3] = ["limit", "remaining", "reset"];

fn figures(reply: &Reply, of: &str) -> [String; 3] {
    KINDS.map(|kind| reply.header(&format!("x-ratelimit-{kind}-{of}")).to_owned())
}

#[tokio::test]
async fn every_model_call_of_a_limited_key_tells_how_its_budget_stands() {
    let server = every_route_served().await;
    let gate = limited(&server, json!({"token_limit": 100_000})).await;
    for (path, body) in every_route() {
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let [limit, remaining, reset] = figures(&reply, "tokens");
        assert_eq!((limit.as_str(), reset.as_str()), ("100000", ""), "{path}");
        let remaining: u64 = remaining.parse().expect("a number");
        assert!(
            (90_000..100_000).contains(&remaining),
            "{path}: {remaining}"
        );
        assert_eq!(figures(&reply, "requests"), ["", "", ""], "{path}");
    }
    // An upstream's refusal has them too, and so has a stream.
    let reply = gate.post(CHAT, &json!({"messages": [], "n": 0})).await;
    assert!(reply.status == 400, "{}", reply.text());
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "100000");
    let mut body = hello(8);
    body["stream"] = json!(true);
    let reply = gate.post(CHAT, &body).await;
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "100000");
    // A key without limits has none, wherever it calls.
    let headers = [("x-api-key", FREE), ("content-type", "application/json")];
    for (path, body) in every_route() {
        let reply = gate
            .ask(
                &format!("POST {path}"),
                &headers,
                body.to_string().as_bytes(),
            )
            .await;
        assert_eq!(reply.status, 200, "{path}");
        for of in ["requests", "tokens"] {
            assert_eq!(figures(&reply, of), ["", "", ""], "{path}");
        }
    }
}

#[tokio::test]
async fn a_budget_of_a_period_tells_when_it_begins_anew() {
    let server = ModelServer::start(Settings::default()).await;
    for (period, most_hours) in [("day", 24), ("month", 31 * 24)] {
        let gate = limited(&server, json!({"token_limit": 100_000, "period": period})).await;
        let reply = gate.post(CHAT, &hello(8)).await;
        let [limit, _, reset] = figures(&reply, "tokens");
        assert_eq!(limit, "100000");
        let hours: u64 = match reset.split_once('h') {
            Some((hours, _)) => hours.parse().expect("hours"),
            None => 0,
        };
        assert!(
            reset.ends_with('s') && hours <= most_hours,
            "{period}: {reset}"
        );
    }
}

#[tokio::test]
async fn the_figures_of_the_minute_come_before_those_of_the_budget() {
    let server = ModelServer::start(Settings::default()).await;
    let limits =
        json!({"token_limit": 1_000_000, "tokens_per_minute": 20_000, "requests_per_minute": 7});
    let gate = limited(&server, limits).await;
    let reply = gate.post(CHAT, &hello(8)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "20000");
    assert_eq!(reply.header("x-ratelimit-limit-requests"), "7");
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "6");
}

#[tokio::test]
async fn a_rotated_key_keeps_its_counters() {
    const NEXT: &str = "sk-next-0123456789abcdef";
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"token_limit": 100_000})).await;
    let reply = gate.post(CHAT, &hello(40)).await;
    let first = cost_of(&mut gate, &reply).await.charged;
    used(&gate, first).await;
    let mut set = keys(json!({"token_limit": 100_000}));
    set["test"]["key"] = json!(NEXT);
    std::fs::write(gate.folder.path().join("keys.json"), set.to_string()).expect("written");
    let reply = gate
        .ask("POST /admin/reload-keys", &[("x-api-key", ADMIN)], b"")
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mine = [("x-api-key", NEXT), ("content-type", "application/json")];
    let reply = gate
        .ask(
            &format!("POST {CHAT}"),
            &mine,
            hello(40).to_string().as_bytes(),
        )
        .await;
    let second = cost_of(&mut gate, &reply).await.charged;
    used_by(&gate, NEXT, first + second).await;
}

/// Tokens used as the holder of another key is told.
async fn used_by(gate: &Gate, key: &str, expected: u64) {
    for _ in 0..500 {
        let reply = gate.ask("GET /users/me", &[("x-api-key", key)], b"").await;
        if reply.json()["tokens_used"] == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{expected} are never used");
}
