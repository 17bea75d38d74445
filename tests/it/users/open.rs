//! Who may register, and what there is without a database.

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate, KEY};
use super::super::raw;
use super::{JSON, PASSWORD, audit, register, start};

/// A registration with these headers and no others but those of the body.
async fn with_headers(gate: &Gate, name: &str, headers: &str) -> Reply {
    let body = json!({"username": name, "password": PASSWORD}).to_string();
    let head = format!(
        "POST /auth/register HTTP/1.1\r\n{headers}connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    raw::say(gate.addr, (head + &body).as_bytes())
        .await
        .remove(0)
}

async fn with_key(gate: &Gate, key: &str, body: &Value) -> Reply {
    let headers = [("x-api-key", key), JSON];
    let body = body.to_string();
    gate.ask("POST /auth/register", &headers, body.as_bytes())
        .await
}

#[tokio::test]
async fn by_default_only_this_machine_may_register() {
    let (_server, gate) = start(&[]).await;
    for (at, host) in ["localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]:8000"]
        .iter()
        .enumerate()
    {
        let reply = with_headers(&gate, &format!("ann{at}"), &format!("host: {host}\r\n")).await;
        assert_eq!(reply.status, 201, "{host}: {}", reply.text());
    }
    for headers in [
        "host: example.com\r\n",
        "host: 10.0.0.1:8000\r\n",
        "host: localhost.example.com\r\n",
        "host: localhost\r\nforwarded: for=127.0.0.1\r\n",
        "host: localhost\r\nx-forwarded-for: 127.0.0.1\r\n",
        "host: localhost\r\nX-Forwarded-Host: localhost\r\n",
        "host: localhost\r\nx-forwarded-proto: http\r\n",
        "host: localhost\r\nx-real-ip: 127.0.0.1\r\n",
    ] {
        let reply = with_headers(&gate, "bob", headers).await;
        refusal(&reply, 403, "registration_closed");
    }
}

#[tokio::test]
async fn an_admin_registers_others_where_only_admins_may() {
    let (_server, gate) =
        start(&[("REGISTRATION", "admin"), ("MAX_SELF_TOKEN_LIMIT", "500")]).await;
    let ann = json!({"username": "ann", "password": PASSWORD, "token_limit": 5_000_000_000_u64});
    let text = refusal(&register(&gate, &ann).await, 403, "registration_closed");
    assert!(text.contains("admin key"), "{text}");
    refusal(&with_key(&gate, KEY, &ann).await, 403, "admin_required");
    refusal(
        &with_key(&gate, "sk-wrong-0123456789abcdef", &ann).await,
        401,
        "invalid_api_key",
    );
    let reply = with_key(&gate, ADMIN, &ann).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.json()["token_limit"], 5_000_000_000_u64);
    let key = reply.json()["api_key"].as_str().expect("a key").to_owned();
    refusal(&with_key(&gate, &key, &ann).await, 403, "admin_required");
    let huge = json!({"username": "bob", "password": PASSWORD, "token_limit": u64::MAX});
    refusal(&with_key(&gate, ADMIN, &huge).await, 400, "invalid_request");
    let line = (
        "ops".to_owned(),
        "user_registered".to_owned(),
        "ann".to_owned(),
    );
    assert_eq!(audit(&gate, 1).await, [line]);
    let users = gate.admin("/admin/users").await.json();
    assert_eq!(users["users"][0]["limit_set_by"], "admin");
}

#[tokio::test]
async fn closed_is_closed_and_open_is_open() {
    let ann = json!({"username": "ann", "password": PASSWORD});
    let (_server, gate) = start(&[("REGISTRATION", "closed")]).await;
    refusal(&register(&gate, &ann).await, 403, "registration_closed");
    refusal(
        &with_key(&gate, ADMIN, &ann).await,
        403,
        "registration_closed",
    );
    let (_server, gate) = start(&[("REGISTRATION", "open")]).await;
    let reply = with_headers(
        &gate,
        "ann",
        "host: example.com\r\nx-forwarded-for: 10.0.0.1\r\n",
    )
    .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[tokio::test]
async fn registrations_from_one_address_are_slowed_down() {
    let (_server, gate) = start(&[("REGISTRATION", "open")]).await;
    for at in 0..20 {
        let reply = with_headers(&gate, &format!("user{at}"), "host: example.com\r\n").await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let reply = with_headers(&gate, "late", "host: example.com\r\n").await;
    refusal(&reply, 429, "rate_limit_exceeded");
    assert_eq!(reply.header("retry-after"), "60");
    let late = json!({"username": "late", "password": PASSWORD});
    assert_eq!(
        with_key(&gate, ADMIN, &late).await.status,
        201,
        "an admin may"
    );
}
