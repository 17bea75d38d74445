//! What users see of their use, against what the engine counted.

use std::time::Instant;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::expect::refusal;
use super::super::harness::{KEY, PATIENCE};
use super::{Gate, Person, chat, members, start, with_token};

/// The use of who shows this, once it has so many requests.
async fn usage(gate: &Gate, credential: &str, requests: u64) -> Value {
    let began = Instant::now();
    loop {
        let line = "GET /users/usage?days=2";
        let reply = with_token(gate, credential, line, &Value::Null).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let usage = reply.json();
        if usage["requests"] == requests || began.elapsed() > PATIENCE {
            return usage;
        }
    }
}

#[tokio::test]
async fn usage_is_what_the_engine_counted_and_the_limit_holds() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let bob = Person::join(&gate, "bob").await;
    let before = OffsetDateTime::now_utc().date().to_string();
    let (mut prompt, mut completion) = (0, 0);
    for credential in [&ann.key, &ann.token, &ann.key] {
        let reply = chat(&gate, credential).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let counted = &reply.json()["usage"];
        prompt += counted["prompt_tokens"].as_u64().expect("a count");
        completion += counted["completion_tokens"].as_u64().expect("a count");
    }
    let used = prompt + completion;
    for credential in [&ann.key, &ann.token] {
        let usage = usage(&gate, credential, 3).await;
        assert_eq!(
            members(&usage),
            [
                "tokens_used",
                "token_limit",
                "remaining",
                "period",
                "requests",
                "daily"
            ]
        );
        assert_eq!(
            (&usage["tokens_used"], &usage["remaining"]),
            (&json!(used), &json!(1_000_000 - used))
        );
        assert_eq!(
            (&usage["period"], &usage["requests"]),
            (&json!("total"), &json!(3))
        );
        // Midnight may pass meanwhile.
        if before == OffsetDateTime::now_utc().date().to_string() {
            let day = json!({"date": before, "requests": 3, "prompt_tokens": prompt, "completion_tokens": completion});
            assert_eq!(usage["daily"], json!([day]));
        }
    }
    assert_eq!(usage(&gate, &bob.key, 0).await["tokens_used"], 0);
    let me = ann.ask(&gate, "GET /users/me", &Value::Null).await.json();
    assert_eq!(me["tokens_used"], used);
    let users = gate.admin("/admin/users").await.json();
    assert_eq!(users["users"][0]["tokens_used"], used);

    let line = "PUT /users/me/token-limit";
    let below = ann
        .ask(&gate, line, &json!({"token_limit": used - 1}))
        .await;
    refusal(&below, 400, "invalid_request");
    let spent = ann.ask(&gate, line, &json!({"token_limit": used})).await;
    assert_eq!(spent.status, 200, "{}", spent.text());
    for credential in [&ann.key, &ann.token] {
        refusal(&chat(&gate, credential).await, 429, "token_limit_exceeded");
    }
    let more = ann
        .ask(&gate, line, &json!({"token_limit": used + 10_000}))
        .await;
    assert_eq!(more.status, 200, "{}", more.text());
    assert_eq!(chat(&gate, &ann.key).await.status, 200);
}

#[tokio::test]
async fn a_service_key_sees_its_own_use() {
    let (_server, gate) = start(&[]).await;
    let reply = chat(&gate, KEY).await;
    let counted = &reply.json()["usage"]["total_tokens"];
    let usage = usage(&gate, KEY, 1).await;
    assert_eq!(&usage["tokens_used"], counted);
    assert_eq!(
        (&usage["token_limit"], &usage["remaining"]),
        (&Value::Null, &Value::Null)
    );
}
