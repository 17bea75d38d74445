//! What people and programs send that is wrong.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate};
use super::{FORM, JSON, NOBODY, PASSWORD, Person, log_in, post, register, start, with_token};

fn refused(reply: &Reply, param: &str) {
    refusal(reply, 400, "invalid_request");
    assert_eq!(reply.json()["error"]["param"], param, "{}", reply.text());
}

async fn raw(gate: &Gate, path: &str, kind: (&str, &str), body: &[u8]) -> Reply {
    gate.ask(&format!("POST {path}"), &[NOBODY, kind], body)
        .await
}

#[tokio::test]
async fn names_and_passwords_have_bounds_and_neither_is_echoed() {
    let (_server, gate) = start(&[]).await;
    let long = "x".repeat(65);
    let injection = "'; DROP TABLE users; --";
    let names = [
        injection, &long, "", "ann\u{0}", "\u{212a}", " ", "ann b", "änn", "a/b",
    ];
    for (at, name) in names.into_iter().enumerate() {
        let reply = register(&gate, &json!({"username": name, "password": PASSWORD})).await;
        refused(&reply, "username");
        assert!(name.len() < 3 || !reply.text().contains(name));
        // What is no name counts as one at logins: the first failures are free.
        if at < 5 {
            let reply = log_in(&gate, name, PASSWORD).await;
            refusal(&reply, 401, "invalid_credentials");
        }
    }
    let megabyte = "zebra".repeat(200_000);
    for password in [
        "",
        "z",
        "zebra67",
        &"é".repeat(3),
        &"z".repeat(1025),
        &megabyte,
    ] {
        let reply = register(&gate, &json!({"username": "ann", "password": password})).await;
        refused(&reply, "password");
        assert!(!reply.text().contains("zebra"));
    }
    let too_large = "z".repeat(3 << 20);
    let reply = register(&gate, &json!({"username": "ann", "password": too_large})).await;
    refusal(&reply, 413, "body_too_large");
    for password in [
        "12345678",
        "ééééé",
        "\u{1f40e}\u{1f40e} \"\\'",
        injection,
        &"z".repeat(1024),
    ] {
        let name = format!("user-{}", password.len());
        let reply = register(&gate, &json!({"username": name, "password": password})).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        assert_eq!(
            log_in(&gate, &name.to_uppercase(), password).await.status,
            200
        );
    }
    let name = "A.z_0@B-".repeat(8);
    let reply = register(&gate, &json!({"username": name, "password": PASSWORD})).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.json()["username"], name.to_lowercase());
    for taken in [&name, &name.to_lowercase()] {
        let reply = register(
            &gate,
            &json!({"username": taken, "password": "z".repeat(8)}),
        )
        .await;
        refusal(&reply, 400, "username_taken");
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn limits_are_whole_numbers_within_bounds() {
    let (_server, gate) = start(&[
        ("DEFAULT_TOKEN_LIMIT", "1000"),
        ("MAX_SELF_TOKEN_LIMIT", "2000"),
    ])
    .await;
    let ann = Person::join(&gate, "ann").await;
    for wrong in [
        "-5",
        "0",
        "2001",
        "1e3",
        "1.5",
        "18446744073709551616",
        "99999999999999999999999",
        "\"5\"",
        "true",
        "[]",
        "{}",
        "NaN",
    ] {
        let body = format!(r#"{{"username":"bob","password":"{PASSWORD}","token_limit":{wrong}}}"#);
        let reply = raw(&gate, "/auth/register", JSON, body.as_bytes()).await;
        refusal(&reply, 400, "invalid_request");
        let bearer = format!("Bearer {}", ann.token);
        let headers = [("authorization", bearer.as_str()), JSON];
        let body = format!(r#"{{"token_limit":{wrong}}}"#);
        let line = "PUT /users/me/token-limit";
        let reply = gate.ask(line, &headers, body.as_bytes()).await;
        refusal(&reply, 400, "invalid_request");
        let line = format!(
            "{line}?token_limit={}",
            wrong.trim_matches('"').replace('5', "x")
        );
        let reply = ann.ask(&gate, &line, &Value::Null).await;
        refused(&reply, "token_limit");
    }
    let null = json!({"username": "bob", "password": PASSWORD, "token_limit": null});
    assert_eq!(register(&gate, &null).await.json()["token_limit"], 1_000);
    let line = "PUT /users/me/token-limit";
    refused(&ann.ask(&gate, line, &json!({})).await, "token_limit");
    let both = format!("{line}?token_limit=5");
    refused(
        &ann.ask(&gate, &both, &json!({"token_limit": 5})).await,
        "token_limit",
    );
    let twice = format!("{line}?token_limit=5&token_limit=5");
    refused(&ann.ask(&gate, &twice, &Value::Null).await, "token_limit");
    for (line, body, limit) in [
        (line.to_owned(), json!({"token_limit": 2_000}), 2_000),
        (format!("{line}/?token_limit=1"), Value::Null, 1),
    ] {
        let reply = ann.ask(&gate, &line, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let me = ann.ask(&gate, "GET /users/me", &Value::Null).await.json();
        assert_eq!(me["token_limit"], limit);
    }
    for days in ["0", "367", "-1", "x", "1.5", ""] {
        let line = format!("GET /users/usage?days={days}");
        refused(&ann.ask(&gate, &line, &Value::Null).await, "days");
    }
    for grace in [json!(-1), json!(2_592_001), json!("1"), json!(0.5)] {
        let body = json!({"grace_seconds": grace});
        refused(
            &ann.ask(&gate, "POST /users/me/api-key", &body).await,
            "grace_seconds",
        );
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn bodies_are_taken_as_they_must_be_written() {
    let (_server, gate) = start(&[]).await;
    for body in [
        "",
        "[]",
        "5",
        "null",
        "\"x\"",
        "{",
        "{}x",
        r#"{"username":"ann""#,
        "\0\u{1}",
    ] {
        let reply = raw(&gate, "/auth/register", JSON, body.as_bytes()).await;
        refusal(&reply, 400, "invalid_request");
    }
    let twice = format!(r#"{{"username":"a","password":"{PASSWORD}","username":"b"}}"#);
    refused(
        &raw(&gate, "/auth/register", JSON, twice.as_bytes()).await,
        "username",
    );
    for (body, param) in [
        (json!({"username": "ann"}), "password"),
        (json!({"password": PASSWORD}), "username"),
        (json!({"username": null, "password": PASSWORD}), "username"),
        (
            json!({"username": ["ann"], "password": PASSWORD}),
            "username",
        ),
        (
            json!({"username": "ann", "password": {"$gt": ""}}),
            "password",
        ),
        (
            json!({"username": "ann", "password": 12_345_678}),
            "password",
        ),
    ] {
        refused(&post(&gate, "/auth/register", &body).await, param);
        refused(&post(&gate, "/auth/token", &body).await, param);
    }
    let good = json!({"username": "ann", "password": PASSWORD, "unknown": {"a": [1]}});
    for kind in [FORM, ("content-type", "text/plain")] {
        let reply = raw(&gate, "/auth/register", kind, good.to_string().as_bytes()).await;
        refusal(&reply, 415, "unsupported_media_type");
    }
    assert_eq!(register(&gate, &good).await.status, 201);
    for (form, status) in [
        ("username=ann&password=correct+horse+battery", 200),
        (
            "username=ann&password=correct+horse+battery&scope=&client_id=x&grant_type=password",
            200,
        ),
        (
            "username=ann&password=correct+horse+battery&grant_type=refresh_token",
            400,
        ),
        (
            "username=ann&password=correct+horse+battery&username=bob",
            400,
        ),
        ("username=ann", 400),
        ("username=ann&password=%ff%fe12345678", 400),
        ("username=ann&password=%zz", 400),
    ] {
        let reply = raw(&gate, "/auth/token", FORM, form.as_bytes()).await;
        assert_eq!(reply.status, status, "{form}: {}", reply.text());
    }
    let zipped = [NOBODY, JSON, ("content-encoding", "gzip")];
    let reply = gate.ask("POST /auth/token", &zipped, b"x").await;
    refusal(&reply, 415, "unsupported_media_type");
}

#[tokio::test]
async fn routes_take_their_methods_and_slashes() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    for (path, allow) in [
        ("/auth/register", "POST, OPTIONS"),
        ("/auth/token", "POST, OPTIONS"),
        ("/auth/refresh", "POST, OPTIONS"),
        ("/users/me", "GET, HEAD, OPTIONS"),
        ("/users/me/password", "PUT, OPTIONS"),
        ("/users/me/api-key", "POST, OPTIONS"),
        ("/users/me/token-limit", "PUT, OPTIONS"),
        ("/users/usage", "GET, HEAD, OPTIONS"),
        ("/admin/users", "GET, HEAD, OPTIONS"),
        ("/admin/users/ann/token-limit", "PUT, OPTIONS"),
        ("/admin/users/ann/disable", "POST, OPTIONS"),
        ("/admin/users/ann/enable", "POST, OPTIONS"),
    ] {
        let reply = gate.ask(&format!("DELETE {path}"), &[NOBODY], b"").await;
        refusal(&reply, 405, "method_not_allowed");
        assert_eq!(reply.header("allow"), allow, "{path}");
        let reply = gate.ask(&format!("OPTIONS {path}"), &[NOBODY], b"").await;
        assert_eq!(
            (reply.status, reply.header("allow")),
            (204, allow),
            "{path}"
        );
        if !path.starts_with("/auth") {
            let method = allow.split(',').next().expect("a method");
            let reply = gate.ask(&format!("{method} {path}"), &[NOBODY], b"").await;
            refusal(&reply, 401, "missing_api_key");
        }
    }
    for path in ["/users/me/", "//users//me"] {
        let reply = ann.ask(&gate, &format!("GET {path}"), &Value::Null).await;
        assert_eq!(reply.status, 200, "{path}");
    }
    for path in [
        "/users",
        "/users/1",
        "/users/ann",
        "/users/me/x",
        "/auth",
        "/auth/login",
        "/v1/users/me",
    ] {
        let reply = ann.ask(&gate, &format!("GET {path}"), &Value::Null).await;
        refusal(&reply, 404, "not_found");
    }
}

#[tokio::test]
async fn injections_are_words_like_any_other() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let admin = ("x-api-key", ADMIN);
    for word in [
        "ann'--",
        "x' OR '1'='1",
        "ann;DROP TABLE users",
        "%",
        "_",
        "ann\u{0}",
    ] {
        refusal(
            &log_in(&gate, word, PASSWORD).await,
            401,
            "invalid_credentials",
        );
        refusal(
            &log_in(&gate, "ann", word).await,
            401,
            "invalid_credentials",
        );
        let fine = log_in(&gate, "ann", PASSWORD).await;
        assert_eq!(fine.status, 200, "a good login forgives: {}", fine.text());
        let coded = word.bytes().fold(String::new(), |mut coded, byte| {
            write!(coded, "%{byte:02x}").expect("memory");
            coded
        });
        for line in [
            format!("POST /admin/users/{coded}/disable"),
            format!("PUT /admin/users/{coded}/token-limit?token_limit=5"),
        ] {
            refusal(&gate.ask(&line, &[admin], b"").await, 404, "not_found");
        }
        let list = gate
            .ask(&format!("GET /admin/users?after={coded}"), &[admin], b"")
            .await;
        let expected = if word == "_" { 200 } else { 400 };
        assert_eq!(list.status, expected, "{word}: {}", list.text());
        let refresh = json!({"refresh_token": word});
        refusal(
            &post(&gate, "/auth/refresh", &refresh).await,
            401,
            "invalid_token",
        );
        let name = json!({"username": word, "password": PASSWORD});
        if word != "_" {
            refused(&register(&gate, &name).await, "username");
        }
    }
    let me = with_token(&gate, &ann.token, "GET /users/me", &Value::Null).await;
    assert_eq!(me.json()["username"], "ann");
}
