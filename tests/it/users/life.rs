//! The whole life of a user.

use std::fs;

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::harness::{ADMIN, KEY};
use super::{
    CHAT, FORM, NOBODY, PASSWORD, Person, audit, chat, log_in, members, post, register, start,
    text, with_token,
};

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one life is one story")]
async fn a_user_registers_logs_in_calls_rotates_refreshes_and_is_disabled() {
    let (server, mut gate) = start(&[]).await;
    let asked = json!({"username": "Ann.B", "password": PASSWORD, "token_limit": 50_000});
    let reply = register(&gate, &asked).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let user = reply.json();
    assert_eq!(
        members(&user),
        ["id", "username", "token_limit", "tokens_used", "api_key"]
    );
    assert!(user["id"].is_i64());
    assert_eq!(
        (
            &user["username"],
            &user["token_limit"],
            &user["tokens_used"]
        ),
        (&json!("ann.b"), &json!(50_000), &json!(0))
    );
    let key = text(&user["api_key"]);
    assert!(key.starts_with("sk-") && key.len() == 46, "{}", key.len());

    let form = "grant_type=password&username=ANN.b&password=correct+horse%20battery";
    let reply = gate
        .ask("POST /auth/token", &[NOBODY, FORM], form.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let tokens = reply.json();
    assert_eq!(
        members(&tokens),
        ["access_token", "token_type", "expires_in", "refresh_token"]
    );
    assert_eq!(
        (&tokens["token_type"], &tokens["expires_in"]),
        (&json!("bearer"), &json!(86_400))
    );
    assert_eq!(reply.header("cache-control"), "no-store");
    let token = text(&tokens["access_token"]);

    for credential in [&token, &key] {
        assert_eq!(chat(&gate, credential).await.status, 200);
        let me = with_token(&gate, credential, "GET /users/me", &Value::Null).await;
        assert_eq!(me.status, 200, "{}", me.text());
        let me = me.json();
        assert_eq!(
            members(&me),
            [
                "id",
                "username",
                "token_limit",
                "tokens_used",
                "api_key_prefix",
                "created_at"
            ]
        );
        assert_eq!(me["id"], user["id"]);
        assert_eq!(me["api_key_prefix"], key[..9]);
    }
    let rows = gate.rows(2).await;
    for row in &rows {
        assert_eq!(
            (&row["principal"], &row["username"], &row["key_name"]),
            (&json!("user"), &json!("ann.b"), &Value::Null)
        );
    }
    assert!(rows[0]["key_id"].is_null() && rows[1]["key_id"].is_string());
    assert_eq!(
        server
            .calls()
            .iter()
            .filter(|call| call.path == CHAT)
            .count(),
        2
    );

    let line = "POST /users/me/api-key";
    let reply = with_token(&gate, &token, line, &json!({"grace_seconds": 600})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let new_key = text(&reply.json()["api_key"]);
    assert_ne!(new_key, key);
    for credential in [&key, &new_key] {
        assert_eq!(chat(&gate, credential).await.status, 200);
    }
    refusal(&chat(&gate, &token).await, 401, "invalid_token");

    let token = text(&log_in(&gate, "ann.b", PASSWORD).await.json()["access_token"]);
    let reply = with_token(&gate, &token, line, &Value::Null).await;
    let last_key = text(&reply.json()["api_key"]);
    for old in [&key, &new_key] {
        refusal(&chat(&gate, old).await, 401, "invalid_api_key");
    }
    assert_eq!(chat(&gate, &last_key).await.status, 200);

    let admin = ("x-api-key", ADMIN);
    let reply = gate
        .ask("POST /admin/users/ann.b/disable", &[admin], b"")
        .await;
    assert_eq!(
        (reply.status, &reply.json()["disabled"]),
        (200, &json!(true))
    );
    refusal(&chat(&gate, &last_key).await, 403, "user_disabled");
    refusal(
        &log_in(&gate, "ann.b", PASSWORD).await,
        403,
        "user_disabled",
    );
    refusal(
        &log_in(&gate, "ann.b", "not this one").await,
        401,
        "invalid_credentials",
    );
    let reply = gate
        .ask("POST /admin/users/ann.b/enable", &[admin], b"")
        .await;
    assert_eq!(
        (reply.status, &reply.json()["disabled"]),
        (200, &json!(false))
    );
    assert_eq!(chat(&gate, &last_key).await.status, 200);

    let actions: Vec<_> = audit(&gate, 5)
        .await
        .into_iter()
        .map(|(who, what, _)| (who, what))
        .collect();
    let line = |who: &str, what: &str| (who.to_owned(), what.to_owned());
    assert_eq!(
        actions,
        [
            line("ann.b", "user_registered"),
            line("ann.b", "key_replaced"),
            line("ann.b", "key_replaced"),
            line("ops", "user_disabled"),
            line("ops", "user_enabled"),
        ]
    );
}

#[tokio::test]
async fn a_refresh_token_works_once_and_a_second_time_ends_its_session_alone() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let other = text(&log_in(&gate, "ann", PASSWORD).await.json()["refresh_token"]);
    let refresh =
        async |token: &str| post(&gate, "/auth/refresh", &json!({"refresh_token": token})).await;
    let reply = refresh(&ann.refresh).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(
        members(&reply.json()),
        ["access_token", "token_type", "expires_in", "refresh_token"]
    );
    let second = text(&reply.json()["refresh_token"]);
    assert_ne!(second, ann.refresh);
    assert_eq!(
        chat(&gate, &text(&reply.json()["access_token"]))
            .await
            .status,
        200
    );
    refusal(&refresh(&ann.refresh).await, 401, "invalid_token");
    refusal(&refresh(&second).await, 401, "invalid_token");
    // Nor do the access tokens of that login renew themselves.
    for token in [&ann.token, &text(&reply.json()["access_token"])] {
        let renewed = with_token(&gate, token, "POST /auth/refresh", &Value::Null).await;
        refusal(&renewed, 401, "invalid_token");
    }
    assert_eq!(refresh(&other).await.status, 200);
    let reused = audit(&gate, 2)
        .await
        .into_iter()
        .filter(|line| line.1 == "refresh_token_reused");
    let subjects: Vec<String> = reused.map(|line| line.2).collect();
    assert_eq!(subjects, ["ann"]);
    for wrong in ["", "rt-", &ann.token, &ann.key, "rt-0123456789"] {
        refusal(&refresh(wrong).await, 401, "invalid_token");
    }
}

#[tokio::test]
async fn an_access_token_renews_itself() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let reply = ann.ask(&gate, "POST /auth/refresh", &Value::Null).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let renewed = text(&reply.json()["access_token"]);
    assert_ne!(renewed, ann.token);
    assert_eq!(chat(&gate, &renewed).await.status, 200);
    refusal(
        &with_token(&gate, &ann.key, "POST /auth/refresh", &Value::Null).await,
        401,
        "invalid_token",
    );
    let reply = gate.ask("POST /auth/refresh", &[NOBODY], b"").await;
    assert_eq!(reply.json()["error"]["param"], "refresh_token");
    refusal(&reply, 400, "invalid_request");
}

#[tokio::test]
async fn a_new_password_voids_what_was_given_for_the_old_one_but_the_key() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let line = "PUT /users/me/password";
    let wrong = json!({"current_password": "not this one", "new_password": "another password"});
    refusal(
        &ann.ask(&gate, line, &wrong).await,
        401,
        "invalid_credentials",
    );
    let short = json!({"current_password": PASSWORD, "new_password": "short"});
    let reply = ann.ask(&gate, line, &short).await;
    assert_eq!(reply.json()["error"]["param"], "new_password");
    refusal(&reply, 400, "invalid_request");
    let right = json!({"current_password": PASSWORD, "new_password": "another password"});
    refusal(
        &with_token(&gate, &ann.key, line, &right).await,
        401,
        "invalid_token",
    );
    assert_eq!(ann.ask(&gate, line, &right).await.status, 200);
    refusal(&chat(&gate, &ann.token).await, 401, "invalid_token");
    refusal(
        &ann.ask(&gate, "POST /auth/refresh", &Value::Null).await,
        401,
        "invalid_token",
    );
    let refresh = json!({"refresh_token": ann.refresh});
    refusal(
        &post(&gate, "/auth/refresh", &refresh).await,
        401,
        "invalid_token",
    );
    refusal(
        &log_in(&gate, "ann", PASSWORD).await,
        401,
        "invalid_credentials",
    );
    let again = log_in(&gate, "ann", "another password").await;
    assert_eq!(again.status, 200);
    assert_eq!(chat(&gate, &ann.key).await.status, 200);
    // Right after a login the password itself need not be given once more.
    let token = text(&again.json()["access_token"]);
    let bare = json!({"new_password": PASSWORD});
    assert_eq!(with_token(&gate, &token, line, &bare).await.status, 200);
    assert_eq!(log_in(&gate, "ann", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn what_is_known_survives_a_restart() {
    let (server, mut gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    assert!(gate.stop().await.success());
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["keys.json", "data"] {
        fs::rename(gate.folder.path().join(file), folder.path().join(file)).expect("moved");
    }
    let command = super::super::harness::command(folder.path(), &server.url(), &[]);
    let gate = super::Gate::run(folder, command).await;
    for credential in [&ann.token, &ann.key] {
        assert_eq!(chat(&gate, credential).await.status, 200);
    }
    let refresh = json!({"refresh_token": ann.refresh});
    assert_eq!(post(&gate, "/auth/refresh", &refresh).await.status, 200);
}

#[tokio::test]
async fn no_password_key_or_token_is_found_in_log_table_or_metrics() {
    let (_server, mut gate) = start(&[("LOG_LEVEL", "trace")]).await;
    let secret = "correct-tapir-battery";
    let new = json!({"username": "ann", "password": secret});
    let user = register(&gate, &new).await.json();
    let reply = log_in(&gate, "ann", secret).await.json();
    let (token, refresh) = (text(&reply["access_token"]), text(&reply["refresh_token"]));
    assert_eq!(chat(&gate, &token).await.status, 200);
    assert_eq!(register(&gate, &new).await.status, 400);
    log_in(&gate, "ann", "wrong-tapir-password").await;
    log_in(&gate, secret, secret).await;
    let form = format!("username=ann&password={secret}");
    gate.ask("POST /auth/token", &[NOBODY, FORM], form.as_bytes())
        .await;
    post(&gate, "/auth/refresh", &json!({"refresh_token": refresh})).await;
    gate.rows(1).await;
    let metrics = gate.admin("/metrics").await.text();
    let users = gate.admin("/admin/users").await.text();
    assert!(users.contains("ann"), "{users}");
    assert!(gate.stop().await.success());
    let mut places = vec![("metrics", metrics), ("users", users)];
    let log: Vec<String> = gate.log().iter().map(Value::to_string).collect();
    places.push(("log", log.join("\n")));
    for file in fs::read_dir(gate.folder.path().join("data"))
        .expect("a folder")
        .flatten()
    {
        let bytes = fs::read(file.path()).expect("a file");
        places.push(("file", String::from_utf8_lossy(&bytes).into_owned()));
    }
    let secrets = [text(&user["api_key"]), token, refresh, KEY.to_owned()];
    for (place, found) in &places {
        assert!(!found.contains("tapir"), "a password in the {place}");
        for secret in &secrets {
            assert!(!found.contains(&secret[9..]), "a secret in the {place}");
        }
    }
}
