//! What administrators see of users, and change.

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate};
use super::{PASSWORD, Person, audit, chat, log_in, register, start};

async fn admin(gate: &Gate, line: &str, body: &Value) -> Reply {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let headers = [("x-api-key", ADMIN), super::JSON];
    gate.ask(line, &headers, body.as_bytes()).await
}

#[tokio::test]
async fn users_are_listed_page_by_page_without_secrets() {
    let (_server, gate) = start(&[]).await;
    let mut keys = Vec::new();
    for name in ["carl", "ann", "bob", "dora", "eve"] {
        let new = json!({"username": name, "password": PASSWORD});
        let user = register(&gate, &new).await.json();
        keys.push(super::text(&user["api_key"]));
    }
    let list = gate.admin("/admin/users").await;
    assert_eq!(list.status, 200, "{}", list.text());
    assert!(!list.text().contains("argon2") && !list.text().contains("hash"));
    assert!(keys.iter().all(|key| !list.text().contains(&key[..12])));
    let first = &list.json()["users"][0];
    for member in [
        "id",
        "username",
        "token_limit",
        "tokens_used",
        "disabled",
        "created_at",
        "api_key_prefix",
    ] {
        assert!(!first[member].is_null(), "{member}: {first}");
    }
    let mut after = String::new();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let page = gate
            .admin(&format!("/admin/users?limit=2&after={after}"))
            .await
            .json();
        let users = page["users"].as_array().expect("users");
        seen.extend(users.iter().map(|user| super::text(&user["username"])));
        after = page["next"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["ann", "bob", "carl", "dora", "eve"]);
    assert_eq!(after, "");
    for wrong in [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=-1",
        "limit=1&limit=2",
    ] {
        let reply = gate.admin(&format!("/admin/users?{wrong}")).await;
        refusal(&reply, 400, "invalid_request");
    }
}

#[tokio::test]
async fn a_limit_of_an_admin_can_only_be_lowered_by_its_user() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let line = "PUT /admin/users/ANN/token-limit";
    let reply = admin(&gate, line, &json!({"token_limit": 5_000})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["token_limit"], 5_000);
    assert_eq!(reply.json()["limit_set_by"], "admin");
    let own = "PUT /users/me/token-limit";
    for (limit, status) in [
        (5_001, 400),
        (5_000, 200),
        (4_000, 200),
        (4_001, 400),
        (5_000, 400),
    ] {
        let reply = ann.ask(&gate, own, &json!({"token_limit": limit})).await;
        assert_eq!(reply.status, status, "{limit}: {}", reply.text());
    }
    let reply = admin(
        &gate,
        &format!("{line}?token_limit=3000000000"),
        &Value::Null,
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let me = ann.ask(&gate, "GET /users/me", &Value::Null).await.json();
    assert_eq!(me["token_limit"], 3_000_000_000_u64);
    for (line, body) in [
        (line, json!({"token_limit": 0})),
        (line, json!({"token_limit": u64::MAX})),
        (line, json!({"token_limit": "5"})),
        (line, Value::Null),
    ] {
        refusal(&admin(&gate, line, &body).await, 400, "invalid_request");
    }
    let nobody = "PUT /admin/users/nobody/token-limit?token_limit=5";
    refusal(&admin(&gate, nobody, &Value::Null).await, 404, "not_found");
    let set = audit(&gate, 5)
        .await
        .into_iter()
        .filter(|line| line.1 == "token_limit_set");
    let actors: Vec<String> = set.map(|line| line.0).collect();
    assert_eq!(actors, ["ops", "ann", "ann", "ops"]);
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_old_tokens_stay_void() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    for credential in [&ann.token, &ann.key] {
        assert_eq!(chat(&gate, credential).await.status, 200);
    }
    assert_eq!(
        admin(&gate, "POST /admin/users/ann/disable", &Value::Null)
            .await
            .status,
        200
    );
    for credential in [&ann.token, &ann.key] {
        refusal(&chat(&gate, credential).await, 403, "user_disabled");
    }
    let refresh = json!({"refresh_token": ann.refresh});
    let refreshed = super::post(&gate, "/auth/refresh", &refresh).await;
    assert!(
        matches!(refreshed.status, 401 | 403),
        "{}",
        refreshed.text()
    );
    assert_eq!(
        admin(&gate, "POST /admin/users/ann/enable", &json!({}))
            .await
            .status,
        200
    );
    refusal(&chat(&gate, &ann.token).await, 401, "invalid_token");
    assert_eq!(chat(&gate, &ann.key).await.status, 200);
    assert_eq!(log_in(&gate, "ann", PASSWORD).await.status, 200);
    refusal(
        &admin(&gate, "POST /admin/users/nobody/disable", &Value::Null).await,
        404,
        "not_found",
    );
}
