//! Guessing is slow, costs the same for every name, and locks nobody else out.

use futures_util::future::join_all;
use serde_json::json;

use super::super::expect::refusal;
use super::super::harness::Gate;
use super::{PASSWORD, Person, audit, log_in, register, start};

async fn hashed(gate: &Gate) -> u64 {
    let text = gate.admin("/metrics").await.text();
    let line = text
        .lines()
        .find(|line| line.starts_with("tollgate_password_hashes_total "))
        .unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

#[tokio::test]
async fn a_name_that_nobody_has_costs_as_many_hashes_as_one_that_somebody_has() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    for (name, password, cost) in [
        (ann.name.as_str(), PASSWORD, 1),
        (ann.name.as_str(), "not this one", 1),
        ("nobody", "not this one", 1),
        ("no name at all", "not this one", 1),
        (ann.name.as_str(), "short", 0),
        ("nobody", "short", 0),
    ] {
        let before = hashed(&gate).await;
        let reply = log_in(&gate, name, password).await;
        assert_eq!(reply.status, if password == PASSWORD { 200 } else { 401 });
        assert_eq!(hashed(&gate).await - before, cost, "{name} {password}");
    }
}

#[tokio::test]
async fn a_guesser_waits_and_the_others_do_not() {
    let (_server, gate) = start(&[]).await;
    Person::join(&gate, "ann").await;
    Person::join(&gate, "bob").await;
    let known = refusal(
        &log_in(&gate, "ann", "wrong guess").await,
        401,
        "invalid_credentials",
    );
    let unknown = refusal(
        &log_in(&gate, "eve", "wrong guess").await,
        401,
        "invalid_credentials",
    );
    assert_eq!(known, unknown);
    for name in ["ann", "eve"] {
        for guess in 1..5 {
            let reply = log_in(&gate, name, &format!("wrong guess {guess}")).await;
            refusal(&reply, 401, "invalid_credentials");
        }
        // The fifth failure begins the pause. Guesses, good or bad, do not count in it.
        let reply = log_in(&gate, name, PASSWORD).await;
        refusal(&reply, 429, "rate_limit_exceeded");
        let wait: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(log_in(&gate, "bob", PASSWORD).await.status, 200);
    let slowed: Vec<_> = audit(&gate, 4)
        .await
        .into_iter()
        .filter(|line| line.1 == "logins_of_user_slowed_down")
        .map(|(who, _, whom)| (who, whom))
        .collect();
    let line = |whom: &str| ("127.0.0.1".to_owned(), whom.to_owned());
    assert_eq!(slowed, [line("ann"), line("eve")]);
    let patience = std::time::Instant::now() + super::super::harness::PATIENCE;
    while log_in(&gate, "ann", PASSWORD).await.status != 200 {
        assert!(std::time::Instant::now() < patience, "ann stays locked out");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_burst_of_logins_is_served_or_told_to_come_again() {
    let (_server, gate) = start(&[]).await;
    Person::join(&gate, "ann").await;
    let replies = join_all((0..120).map(|_| log_in(&gate, "ann", PASSWORD))).await;
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(served >= 34, "{served}");
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        refusal(reply, 429, "rate_limit_exceeded");
        assert!(!reply.header("retry-after").is_empty());
    }
    assert_eq!(log_in(&gate, "ann", PASSWORD).await.status, 200);
    assert_eq!(gate.admin("/health").await.status, 200);
}

#[tokio::test]
async fn one_name_registers_once_however_many_try_at_once() {
    let (_server, gate) = start(&[]).await;
    let body = json!({"username": "ann", "password": PASSWORD});
    let replies = join_all((0..20).map(|_| register(&gate, &body))).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        refusal(reply, 400, "username_taken");
    }
}
