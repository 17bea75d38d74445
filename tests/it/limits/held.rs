//! Calls that wait for what others hold, clients that leave meanwhile, and what the log says of a
//! lease.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::calls::with;
use super::super::expect::refusal;
use super::super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::super::fakes::wire::Wire;
use super::super::harness::{Gate, KEY, PATIENCE};
use super::{CHAT, cost_of, hello, limited, used};

/// Sends a call and leaves its answer unread.
async fn send(gate: &Gate, body: &Value) -> Wire {
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    wire.send(
        &format!("POST {CHAT}"),
        &headers,
        body.to_string().as_bytes(),
    )
    .await
    .expect("sent");
    wire
}

/// A call that holds most of a small budget until its answer is read or let go.
async fn hold(server: &ModelServer, gate: &Gate, head_delay: Duration) -> Wire {
    server.next(Behaviour {
        head_delay,
        ..Behaviour::tokens(20)
    });
    let wire = send(gate, &hello(1500)).await;
    server
        .wait_for(|calls| calls.iter().any(|call| call.path == CHAT))
        .await;
    wire
}

/// The value of a metric without labels.
async fn metric(gate: &Gate, name: &str) -> u64 {
    let text = gate.admin("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("{name} is not in\n{text}"));
    value.trim().parse().expect("a number")
}

/// Waits until nothing is in flight and nothing reserved.
async fn quiet(gate: &Gate) {
    let asked = async {
        while metric(gate, "tollgate_requests_in_flight ").await
            + metric(gate, "tollgate_budget_tokens_reserved ").await
            > 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, asked).await;
    in_time.expect("nothing is held");
}

#[tokio::test]
async fn a_call_waits_for_tokens_that_another_gives_back() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"token_limit": 2000})).await;
    let mut first = hold(&server, &gate, Duration::from_millis(1500)).await;
    let second = gate.post(CHAT, &hello(1500)).await;
    assert_eq!(second.status, 200, "{}", second.text());
    assert_eq!(second.header("x-tollgate-max-tokens"), "");
    let first = first.reply().await.expect("an answer");
    let sum = cost_of(&mut gate, &first).await.charged + cost_of(&mut gate, &second).await.charged;
    used(&gate, sum).await;
    assert!(metric(&gate, "tollgate_budget_wait_seconds_count ").await >= 1);
    quiet(&gate).await;
}

#[tokio::test]
async fn who_waits_in_vain_is_told_to_come_again() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = limited(&server, json!({"token_limit": 2000})).await;
    let first = hold(&server, &gate, Duration::from_mins(1)).await;
    let reply = gate.post(CHAT, &hello(1500)).await;
    let text = refusal(&reply, 429, "rate_limit_exceeded");
    assert_eq!(
        text,
        "other calls hold what is left of the token limit of this key; try again in a moment"
    );
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(reply.header("retry-after"), "5");
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "2000");
    assert_eq!(server.model_calls().len(), 1);
    drop(first);
    quiet(&gate).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_takes_nothing_along() {
    let server = ModelServer::start(Settings::default()).await;
    let limits = json!({"token_limit": 2000, "max_concurrent": 2, "requests_per_minute": 9});
    let mut gate = limited(&server, limits).await;
    let mut first = hold(&server, &gate, Duration::from_millis(1500)).await;
    // One waits for tokens and has the second place; the others wait for a place.
    let waiting = [
        send(&gate, &hello(1500)).await,
        send(&gate, &hello(1500)).await,
        send(&gate, &hello(1500)).await,
    ];
    while metric(&gate, "tollgate_connections ").await < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(waiting);
    let first = first.reply().await.expect("an answer");
    let cost = cost_of(&mut gate, &first).await;
    quiet(&gate).await;
    used(&gate, cost.charged).await;
    let reply = gate.post(CHAT, &hello(1500)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "7");
    assert_eq!(server.model_calls().len(), 2);
}

/// Numbers without a gap, each with what became of it: else nobody can tell later what an instance
/// that died had used.
#[tokio::test]
async fn the_log_has_every_call_of_a_lease_and_its_end() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"token_limit": 5000})).await;
    for (body, status) in [
        (hello(8), 200),
        (with(hello(8), "model", json!("no-such")), 404),
        (hello(1900), 200),
        (json!({"messages": [], "n": "x"}), 400),
        (with(hello(2000), "n", json!(4)), 200),
        (with(hello(1500), "n", json!(5)), 429),
        (hello(4), 200),
    ] {
        let reply = gate.post(CHAT, &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        if status == 200 {
            cost_of(&mut gate, &reply).await;
        }
    }
    let log = gate.log();
    let mut leases: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut ended = Vec::new();
    for line in &log {
        let budget = &line["budget"];
        let Some(lease) = budget["lease"].as_str() else {
            continue;
        };
        let number = budget["number"].as_u64().expect("a number");
        if line["message"] == "reserved" {
            assert_eq!(budget["owner"], "service:test");
            leases.entry(lease).or_default().push(number);
        } else {
            assert!(budget["charged"].is_u64(), "{line}");
            ended.push((lease, number));
        }
    }
    for (lease, numbers) in &leases {
        let expected: Vec<u64> = (1..).take(numbers.len()).collect();
        assert_eq!(numbers, &expected, "{lease}");
        assert!(
            numbers
                .iter()
                .all(|number| ended.contains(&(lease, *number)))
        );
    }
    let all: usize = leases.values().map(Vec::len).sum();
    assert_eq!((all, ended.len()), (5, 5), "{log:#?}");
}
