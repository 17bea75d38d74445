//! An output that does not fit into what is left is lowered, as far as it may be, and said so.

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::{CHAT, cost_of, hello, limited, used, worked};

const LOWERED: &str = "x-tollgate-max-tokens";

fn asks() -> [(&'static str, &'static str, Value); 4] {
    let said = json!([{"role": "user", "content": "Hello there"}]);
    [
        (CHAT, "max_tokens", json!({"messages": said})),
        (
            "/v1/completions",
            "max_tokens",
            json!({"prompt": "Hello there"}),
        ),
        (
            "/v1/responses",
            "max_output_tokens",
            json!({"input": "Hello there"}),
        ),
        ("/v1/messages", "max_tokens", json!({"messages": said})),
    ]
}

#[tokio::test]
async fn an_output_is_lowered_to_what_is_left() {
    let server = ModelServer::start(Settings::default()).await;
    for (path, member, body) in asks() {
        let mut gate = limited(&server, json!({"token_limit": 1600})).await;
        server.next(Behaviour::tokens(2000));
        let mut body = body;
        body[member] = json!(1900);
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let told: u64 = reply.header(LOWERED).parse().expect("a number");
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(call.json()[member], told, "{path}");
        assert_eq!(
            call.completion_tokens, told,
            "{path}: the engine stops there"
        );
        assert!((1024..1600).contains(&told), "{path}: {told}");
        let cost = cost_of(&mut gate, &reply).await;
        assert_eq!(cost.charged, worked(&call), "{path}");
        assert!(
            cost.reserved <= 1600 && cost.charged <= cost.reserved,
            "{path}: {cost:?}"
        );
        used(&gate, cost.charged).await;
    }
}

#[tokio::test]
async fn no_output_is_lowered_below_what_is_worth_it() {
    let server = ModelServer::start(Settings::default()).await;
    for (path, member, body) in asks() {
        let gate = limited(&server, json!({"token_limit": 1020})).await;
        let mut body = body;
        body[member] = json!(1900);
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 429, "{path}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "token_limit_exceeded");
        assert_eq!(reply.header(LOWERED), "", "{path}");
        // Who asks for less than that gets it whole or not at all.
        body[member] = json!(700);
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.header(LOWERED), "", "{path}");
    }
    assert_eq!(server.model_calls().len(), 4);
}

#[tokio::test]
async fn what_fits_goes_as_it_came() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = limited(&server, json!({"token_limit": 1_000_000})).await;
    for (path, member, body) in asks() {
        let mut body = body;
        body[member] = json!(20);
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.header(LOWERED), "", "{path}");
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(call.json()[member], 20, "{path}");
    }
}

#[tokio::test]
async fn without_a_maximum_of_its_own_a_call_gets_what_is_left() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = limited(&server, json!({"token_limit": 1500})).await;
    server.next(Behaviour::tokens(3000));
    let body = json!({"messages": [{"role": "user", "content": "Hello there"}]});
    let reply = gate.post(CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let told: u64 = reply.header(LOWERED).parse().expect("a number");
    let cost = cost_of(&mut gate, &reply).await;
    assert!(told >= 1024 && cost.charged <= 1500, "{told} {cost:?}");
    refusal(
        &gate.post(CHAT, &hello(1000)).await,
        429,
        "token_limit_exceeded",
    );
}

/// OpenCode asks for a title beside its first turn, each with a maximum of 32000.
#[tokio::test]
async fn a_turn_of_two_calls_at_once_fits_into_a_budget_that_holds_less_than_both_ask() {
    let server = ModelServer::start(Settings {
        max_model_len: 40_000,
        ..Settings::default()
    })
    .await;
    let mut gate = limited(&server, json!({"token_limit": 60_000})).await;
    server.always(Behaviour::tokens(200).paced(std::time::Duration::from_millis(2)));
    let mut body = hello(32_000);
    body["stream"] = json!(true);
    let (title, turn) = tokio::join!(gate.post(CHAT, &body), gate.post(CHAT, &body));
    for reply in [&title, &turn] {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let costs = cost_of(&mut gate, &title).await.charged + cost_of(&mut gate, &turn).await.charged;
    used(&gate, costs).await;
}
