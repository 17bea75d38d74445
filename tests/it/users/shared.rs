//! Users of several instances with one database, and of a database that stops.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::model_server::{ModelServer, Settings};
use super::super::fakes::postgres::{self, Postgres};
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate, PATIENCE};
use super::{PASSWORD, Person, chat, log_in, post, register, text, with_token};

const SECRET: &str = "0123456789abcdef-0123456789abcdef";
/// Seconds that entries are good for, in these tests.
const REFRESH: &str = "2";

async fn gate(server: &ModelServer, database: &str) -> Gate {
    let settings = [
        ("DATABASE_URL", database),
        ("JWT_SECRET_KEY", SECRET),
        ("KEY_REFRESH_SECONDS", REFRESH),
    ];
    Gate::with(&server.url(), &settings).await
}

async fn statements(gate: &Gate) -> u64 {
    let text = gate.admin("/metrics").await.text();
    let line = text
        .lines()
        .find(|line| line.starts_with("tollgate_store_statements_total "))
        .unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// Asks until the answer has this status.
async fn until(status: u16, ask: impl AsyncFn() -> Reply) -> Reply {
    let began = Instant::now();
    loop {
        let reply = ask().await;
        if reply.status == status {
            return reply;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no {status}: {} {}",
            reply.status,
            reply.text()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn me(gate: &Gate, credential: &str) -> Reply {
    with_token(gate, credential, "GET /users/me", &Value::Null).await
}

#[tokio::test]
async fn what_one_instance_changes_holds_at_the_other_in_time() {
    let Some(database) = postgres::database().await else {
        return;
    };
    let server = ModelServer::start(Settings::default()).await;
    let (one, two) = tokio::join!(gate(&server, &database.url), gate(&server, &database.url));
    let ann = Person::join(&one, "ann").await;
    for credential in [&ann.token, &ann.key] {
        assert_eq!(chat(&two, credential).await.status, 200);
    }
    let taken = json!({"username": "ANN", "password": PASSWORD});
    refusal(&register(&two, &taken).await, 400, "username_taken");

    // Tokens that are newer than what the other one knows are good at once.
    let line = "POST /users/me/api-key";
    let new = ann.ask(&one, line, &json!({"grace_seconds": 0})).await;
    let new_key = text(&new.json()["api_key"]);
    let new_token = text(&log_in(&one, "ann", PASSWORD).await.json()["access_token"]);
    for credential in [&new_token, &new_key] {
        assert_eq!(chat(&two, credential).await.status, 200);
    }
    for old in [&ann.token, &ann.key] {
        refusal(&until(401, async || me(&two, old).await).await, 401, {
            if old == &ann.token {
                "invalid_token"
            } else {
                "invalid_api_key"
            }
        });
    }

    let line = "POST /admin/users/ann/disable";
    let disabled = one.ask(line, &[("x-api-key", ADMIN)], b"").await;
    assert_eq!(disabled.status, 200);
    for credential in [&new_token, &new_key] {
        let reply = until(403, async || me(&two, credential).await).await;
        refusal(&reply, 403, "user_disabled");
    }
}

#[tokio::test]
async fn a_refresh_token_that_two_instances_see_at_once_works_at_one() {
    let Some(database) = postgres::database().await else {
        return;
    };
    let server = ModelServer::start(Settings::default()).await;
    let (one, two) = tokio::join!(gate(&server, &database.url), gate(&server, &database.url));
    let ann = Person::join(&one, "ann").await;
    let body = json!({"refresh_token": ann.refresh});
    let (left, right) = tokio::join!(
        post(&one, "/auth/refresh", &body),
        post(&two, "/auth/refresh", &body)
    );
    let mut statuses = [left.status, right.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "{} {}", left.text(), right.text());
    // The second use was a reuse: the first one's token is revoked with its family.
    let good = if left.status == 200 { left } else { right };
    let next = json!({"refresh_token": good.json()["refresh_token"]});
    refusal(
        &post(&one, "/auth/refresh", &next).await,
        401,
        "invalid_token",
    );
}

#[tokio::test]
async fn of_changes_that_one_token_asks_for_at_once_one_is_made() {
    let Some(database) = postgres::database().await else {
        return;
    };
    let server = ModelServer::start(Settings::default()).await;
    let (one, two) = tokio::join!(gate(&server, &database.url), gate(&server, &database.url));
    let ann = Person::join(&one, "ann").await;
    assert_eq!(me(&two, &ann.token).await.status, 200);
    let line = "POST /users/me/api-key";
    let tries = [&one, &two, &one, &two].map(|gate| ann.ask(gate, line, &Value::Null));
    let replies = futures_util::future::join_all(tries).await;
    let (made, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!(made.len(), 1);
    for reply in refused {
        refusal(reply, 401, "invalid_token");
    }
    // What a void token asks the other instance for, which may not know of it yet, is not done.
    let password = json!({"current_password": PASSWORD, "new_password": "another password"});
    let late = ann.ask(&two, "PUT /users/me/password", &password).await;
    refusal(&late, 401, "invalid_token");
    let limit = json!({"token_limit": 5});
    let late = ann.ask(&two, "PUT /users/me/token-limit", &limit).await;
    refusal(&late, 401, "invalid_token");
    let key = text(&made[0].json()["api_key"]);
    assert_eq!(me(&two, &key).await.json()["token_limit"], 1_000_000);
    assert_eq!(log_in(&two, "ann", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn who_is_known_costs_no_statement_and_guesses_never_do() {
    let (_server, gate) = super::start(&[("KEY_REFRESH_SECONDS", "3600")]).await;
    let ann = Person::join(&gate, "ann").await;
    // The list of models needs no budget, so that only the look-up of the user is counted.
    let list = async |credential: &str| {
        with_token(&gate, credential, "GET /v1/models", &Value::Null).await
    };
    assert_eq!(list(&ann.key).await.status, 200);
    let before = statements(&gate).await;
    for _ in 0..20 {
        assert_eq!(list(&ann.key).await.status, 200);
        assert_eq!(list(&ann.token).await.status, 200);
    }
    assert_eq!(statements(&gate).await, before);
    // More would wait: a key that nobody knows may be a service key of a moment ago.
    for guess in 0..3 {
        let key = format!("sk-{guess:043}");
        refusal(&list(&key).await, 401, "invalid_api_key");
        let token = format!("{}{guess}", &ann.token[..ann.token.len() - 2]);
        refusal(&list(&token).await, 401, "invalid_token");
        let refresh = json!({"refresh_token": format!("rt-{guess:054}")});
        let reply = post(&gate, "/auth/refresh", &refresh).await;
        refusal(&reply, 401, "invalid_token");
    }
    assert_eq!(statements(&gate).await, before);
}

#[tokio::test]
async fn many_calls_of_a_user_who_is_not_known_yet_are_one_look_up() {
    let (_server, gate) = super::start(&[("KEY_REFRESH_SECONDS", "3600")]).await;
    let ann = Person::join(&gate, "ann").await;
    let before = statements(&gate).await;
    let calls = (0..60).map(|_| with_token(&gate, &ann.key, "GET /v1/models", &Value::Null));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(statements(&gate).await - before, 1);
}

#[tokio::test]
async fn a_silent_database_leaves_known_users_in_force_and_others_are_told_so() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let server = ModelServer::start(Settings::default()).await;
    let url = postgres.database().await;
    let gate = gate(&server, &url).await;
    let ann = Person::join(&gate, "ann").await;
    let bob = Person::join(&gate, "bob").await;
    let list = async |credential: &str| {
        with_token(&gate, credential, "GET /v1/models", &Value::Null).await
    };
    assert_eq!(list(&ann.key).await.status, 200);
    postgres.stop();
    // Older than they may be, and still good: long enough to have been asked for again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for credential in [&ann.token, &ann.key] {
        assert_eq!(list(credential).await.status, 200);
    }
    let warned = gate.log().into_iter().filter(|line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.contains("users are taken for what they were")
    });
    assert_eq!(warned.count(), 1, "{:#?}", gate.log());
    let unknown = list(&bob.key).await;
    refusal(&unknown, 503, "store_unavailable");
    assert!(!unknown.header("retry-after").is_empty());
    refusal(
        &log_in(&gate, "ann", PASSWORD).await,
        503,
        "store_unavailable",
    );
    let new = json!({"username": "carl", "password": PASSWORD});
    refusal(&register(&gate, &new).await, 503, "store_unavailable");
    let refresh = json!({"refresh_token": ann.refresh});
    refusal(
        &post(&gate, "/auth/refresh", &refresh).await,
        503,
        "store_unavailable",
    );
    assert_eq!(
        gate.admin("/admin/keys").await.status,
        200,
        "service keys work"
    );
    refusal(&gate.admin("/admin/users").await, 503, "store_unavailable");
    postgres.go_on().await;
    until(200, async || list(&bob.key).await).await;
    assert_eq!(log_in(&gate, "ann", PASSWORD).await.status, 200);
    assert_eq!(post(&gate, "/auth/refresh", &refresh).await.status, 200);
}

#[tokio::test]
async fn a_gateway_that_starts_before_its_database_takes_no_user_for_a_stranger() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let server = ModelServer::start(Settings::default()).await;
    let url = postgres.database().await;
    let ann = {
        let gate = gate(&server, &url).await;
        Person::join(&gate, "ann").await
    };
    postgres.stop();
    let gate = gate(&server, &url).await;
    for credential in [&ann.key, &ann.token] {
        refusal(&me(&gate, credential).await, 503, "store_unavailable");
    }
    let admin = gate.admin("/admin/keys").await;
    assert_eq!(admin.status, 200, "{}", admin.text());
    postgres.go_on().await;
    for credential in [&ann.key, &ann.token] {
        until(200, async || me(&gate, credential).await).await;
    }
}
