//! What a call is told that its principal's limits refuse, and that nothing is reached by it.

use std::time::{Duration, Instant};

use serde_json::json;
use tollgate::upstream::DECISIVE;

use super::super::expect::{anthropic_refusal, refusal};
use super::super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::super::fakes::wire::Reply;
use super::super::harness::{Gate, KEY, reserve_port};
use super::{
    CHAT, FREE, cost_of, every_route, every_route_served, hello, limited, limited_with, user,
};

/// A refusal for good: clients must not come again by themselves.
fn refused_for_good(reply: &Reply) -> String {
    let text = refusal(reply, 429, "token_limit_exceeded");
    assert_eq!(reply.json()["error"]["type"], "insufficient_quota");
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(reply.header("retry-after"), "");
    assert_eq!(reply.header("retry-after-ms"), "1");
    assert!(!text.contains("again"), "{text}");
    text
}

/// Uses the whole of a budget up: the answer is as long as there are tokens.
async fn use_up(server: &ModelServer, gate: &mut Gate, limit: u64) {
    server.next(Behaviour::tokens(limit));
    let reply = gate.post(CHAT, &hello(limit)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let cost = cost_of(gate, &reply).await;
    assert_eq!(cost.charged, limit, "{cost:?}");
}

#[tokio::test]
async fn without_budget_no_route_reaches_an_upstream() {
    let server = every_route_served().await;
    for (limits, words) in [
        (
            json!({"token_limit": 1200}),
            "the token limit of this key is used up; an administrator can raise it",
        ),
        (
            json!({"token_limit": 1200, "period": "day"}),
            "today's token limit of this key is used up; it resets at midnight, UTC",
        ),
        (
            json!({"token_limit": 1200, "period": "month"}),
            "the monthly token limit of this key is used up; it resets on the first of next month, UTC",
        ),
    ] {
        let mut gate = limited(&server, limits).await;
        use_up(&server, &mut gate, 1200).await;
        let before = server.calls().len();
        for (path, body) in every_route() {
            let reply = gate.post(path, &body).await;
            if path.starts_with("/v1/messages") {
                let text = anthropic_refusal(&reply, 429, "rate_limit_error");
                assert_eq!(text, words, "{path}");
                assert_eq!(reply.json()["error"]["code"], "token_limit_exceeded");
            } else {
                assert_eq!(refused_for_good(&reply), words, "{path}");
            }
            assert_eq!(reply.header("x-ratelimit-limit-tokens"), "1200", "{path}");
            assert_eq!(reply.header("x-ratelimit-remaining-tokens"), "0", "{path}");
        }
        assert_eq!(server.calls().len(), before, "no call, no question");
        // Others notice nothing.
        let free = gate
            .ask(
                &format!("POST {CHAT}"),
                &[("x-api-key", FREE), ("content-type", "application/json")],
                hello(4).to_string().as_bytes(),
            )
            .await;
        assert_eq!(free.status, 200, "{}", free.text());
        assert_eq!(gate.rows(2).await.len(), 2, "refusals leave no row");
    }
}

#[tokio::test]
async fn what_is_left_and_too_little_is_told_so() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"token_limit": 1500})).await;
    use_up_to(&server, &mut gate, 1000).await;
    let text = refused_for_good(&gate.post(CHAT, &hello(2000)).await);
    assert_eq!(
        text,
        "the token limit of this key has too little left for this call; an administrator can raise it"
    );
    // A smaller one fits.
    assert_eq!(gate.post(CHAT, &hello(100)).await.status, 200);
}

/// Uses so many tokens.
async fn use_up_to(server: &ModelServer, gate: &mut Gate, tokens: u64) {
    server.next(Behaviour::tokens(tokens));
    let reply = gate.post(CHAT, &hello(tokens)).await;
    let cost = cost_of(gate, &reply).await;
    assert!(cost.charged >= tokens, "{cost:?}");
}

#[tokio::test]
async fn a_user_is_told_whose_limit_it_is_and_its_rows_are_its_own() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({})).await;
    let key = user(&gate, "Ada", 1200).await;
    let headers = [
        ("x-api-key", key.as_str()),
        ("content-type", "application/json"),
    ];
    let line = format!("POST {CHAT}");
    server.next(Behaviour::tokens(1200));
    let body = hello(1200).to_string();
    let reply = gate.ask(&line, &headers, body.as_bytes()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "1200");
    assert_eq!(cost_of(&mut gate, &reply).await.charged, 1200);
    let row = gate.rows(1).await.remove(0);
    assert_eq!(row["principal"], "user");
    assert_eq!(row["username"], "ada");
    assert_eq!(row["key_name"], json!(null));
    let before = server.calls().len();
    let reply = gate.ask(&line, &headers, body.as_bytes()).await;
    assert_eq!(
        refused_for_good(&reply),
        "the token limit of this user is used up; an administrator can raise it"
    );
    assert_eq!(server.calls().len(), before);
}

#[tokio::test]
async fn a_limit_cannot_be_held_without_its_database_and_other_keys_go_on() {
    let server = ModelServer::start(Settings::default()).await;
    let (_kept, nobody) = reserve_port();
    let database = format!("postgres://tollgate@{nobody}/tollgate");
    let settings = [
        ("DATABASE_URL", database.as_str()),
        ("JWT_SECRET_KEY", "0123456789-0123456789-0123456789"),
    ];
    let mut gate = limited_with(&server, json!({"token_limit": 5000}), &settings).await;
    for (path, body) in [(CHAT, hello(8)), ("/tokenize", json!({"prompt": "Hello"}))] {
        let reply = gate.post(path, &body).await;
        refusal(&reply, 503, "store_unavailable");
        assert_eq!(reply.header("retry-after"), "2", "{path}");
    }
    assert_eq!(server.calls().len(), 0, "nobody was asked");
    let began = Instant::now();
    let headers = [("x-api-key", FREE), ("content-type", "application/json")];
    let reply = gate
        .ask(
            &format!("POST {CHAT}"),
            &headers,
            hello(8).to_string().as_bytes(),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    gate.rows(1).await;
}

#[tokio::test]
async fn what_says_how_much_a_call_can_cost_stands_once() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = limited(&server, json!({"token_limit": 100_000})).await;
    let line = format!("POST {CHAT}");
    for name in DECISIVE.into_iter().chain(["max_tokens", "n", "messages"]) {
        for key in [KEY, FREE] {
            let headers = [("content-type", "application/json"), ("x-api-key", key)];
            let body = format!(r#"{{"messages":[],"{name}":1,"{name}":9}}"#);
            let reply = gate.ask(&line, &headers, body.as_bytes()).await;
            refusal(&reply, 400, "invalid_request");
            assert_eq!(reply.json()["error"]["param"], name);
        }
    }
    assert_eq!(server.calls().len(), 0);
}

#[tokio::test]
async fn a_limited_key_has_no_audio() {
    let server = every_route_served().await;
    let gate = limited(&server, json!({"token_limit": 1_000_000})).await;
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ntiny-chat\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--b--\r\n";
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        let kind = [("content-type", "multipart/form-data; boundary=b")];
        let reply = gate
            .ask(&format!("POST {path}"), &kind, form.as_bytes())
            .await;
        refusal(&reply, 403, "model_not_allowed");
    }
    assert_eq!(server.model_calls().len(), 0);
}

#[tokio::test]
async fn a_watched_limit_refuses_nobody() {
    let server = ModelServer::start(Settings::default()).await;
    let limits = json!({"token_limit": 50, "dry_run": true});
    let mut gate = limited(&server, limits).await;
    for _ in 0..5 {
        let reply = gate.post(CHAT, &hello(200)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-tollgate-max-tokens"), "");
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), "");
    }
    gate.rows(5).await;
    assert!(gate.log().iter().all(|line| line["message"] != "reserved"));
}

#[tokio::test]
async fn calls_of_keys_without_limits_are_not_held_up_by_the_database() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited_with(&server, json!({}), &[("DATABASE_URL", "none")]).await;
    let reply = gate.post(CHAT, &hello(8)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for name in reply.headers.keys() {
        let name = name.as_str();
        assert!(
            !name.starts_with("x-ratelimit") && !name.starts_with("x-tollgate"),
            "{name}"
        );
    }
    gate.rows(1).await;
}
