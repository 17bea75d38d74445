//! Tokens that somebody else made, or for something else.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::super::expect::refusal;
use super::super::fakes::wire::Reply;
use super::super::harness::{ADMIN, Gate, KEY};
use super::{Person, chat, start, with_token};

const SECRET: &str = "0123456789abcdef-0123456789abcdef";

fn claims(token: &str) -> Value {
    let middle = token.split('.').nth(1).expect("claims");
    let bytes = URL_SAFE_NO_PAD.decode(middle).expect("Base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn signed(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token")
}

fn unsigned(alg: &str, claims: &Value) -> String {
    let coded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = coded(&json!({"alg": alg, "typ": "JWT"}));
    format!("{head}.{}.", coded(claims))
}

async fn me(gate: &Gate, token: &str) -> Reply {
    with_token(gate, token, "GET /users/me", &Value::Null).await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn only_tokens_of_this_gateway_for_this_purpose_are_taken() {
    let (_server, gate) = start(&[("JWT_SECRET_KEY", SECRET)]).await;
    let ann = Person::join(&gate, "ann").await;
    let bob = Person::join(&gate, "bob").await;
    let good = claims(&ann.token);
    assert_eq!(
        (&good["typ"], &good["iss"], &good["sub"]),
        (
            &json!("access"),
            &json!("tollgate"),
            &json!(ann.id.to_string())
        )
    );
    let same = signed(Algorithm::HS256, &good, SECRET);
    assert_eq!(
        me(&gate, &same).await.status,
        200,
        "the test signs as we do"
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let mut forged = vec![
        signed(Algorithm::HS256, &good, "another secret of enough bytes.."),
        signed(Algorithm::HS384, &good, SECRET),
        signed(Algorithm::HS512, &good, SECRET),
        unsigned("none", &good),
        unsigned("RS256", &good),
        format!("{}A", ann.token),
    ];
    for (name, value) in [
        ("exp", json!(now.as_secs() - 60)),
        ("typ", json!("refresh")),
        ("iss", json!("somebody")),
        ("gen", json!(-1)),
        ("gen", json!(i64::MAX)),
        ("sub", json!("999999")),
        ("sub", json!("1 OR 1=1")),
        ("sub", json!(bob.name)),
    ] {
        let mut changed = good.clone();
        changed[name] = value;
        forged.push(signed(Algorithm::HS256, &changed, SECRET));
    }
    for name in ["exp", "typ", "iss", "sub", "gen"] {
        let mut changed = good.clone();
        changed.as_object_mut().expect("claims").remove(name);
        forged.push(signed(Algorithm::HS256, &changed, SECRET));
    }
    let [head, _, signature] = ann.token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts");
    };
    let bobs = bob.token.split('.').nth(1).expect("claims");
    forged.push(format!("{head}.{bobs}.{signature}"));
    for token in &forged {
        refusal(&me(&gate, token).await, 401, "invalid_token");
        refusal(&chat(&gate, token).await, 401, "invalid_token");
        let line = "POST /auth/refresh";
        let reply = with_token(&gate, token, line, &Value::Null).await;
        refusal(&reply, 401, "invalid_token");
    }
    assert_eq!(me(&gate, &ann.token).await.json()["id"], ann.id);
}

#[tokio::test]
async fn nobody_reads_or_changes_another() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let bob = Person::join(&gate, "bob").await;
    for credential in [&bob.token, &bob.key] {
        for line in [
            "GET /users/me?id=1",
            "GET /users/me?username=ann",
            "GET /users/usage?username=ann",
        ] {
            let reply = with_token(&gate, credential, line, &Value::Null).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(!reply.text().contains("ann"), "{}", reply.text());
        }
        for line in [
            "GET /admin/users",
            "GET /admin/keys",
            "GET /admin/status",
            "GET /admin/reload-keys",
            "POST /admin/reload-keys",
            "PUT /admin/users/ann/token-limit",
            "POST /admin/users/ann/disable",
            "POST /admin/users/bob/enable",
            "GET /metrics",
        ] {
            let reply = with_token(&gate, credential, line, &Value::Null).await;
            refusal(&reply, 403, "admin_required");
        }
    }
    let reply = me(&gate, KEY).await;
    assert_eq!(
        (reply.status, &reply.json()["username"], &reply.json()["id"]),
        (200, &json!("test"), &Value::Null)
    );
    for line in [
        "PUT /users/me/password",
        "POST /users/me/api-key",
        "PUT /users/me/token-limit?token_limit=5",
    ] {
        for key in [KEY, ADMIN, &ann.key] {
            let reply = with_token(&gate, key, line, &Value::Null).await;
            refusal(&reply, 401, "invalid_token");
        }
    }
}

#[tokio::test]
async fn headers_decide_as_for_service_keys() {
    let (_server, gate) = start(&[]).await;
    let ann = Person::join(&gate, "ann").await;
    let bearer = format!("Bearer {}", ann.token);
    let line = "GET /users/me";
    let two = [
        ("authorization", bearer.as_str()),
        ("authorization", &bearer),
    ];
    refusal(&gate.ask(line, &two, b"").await, 401, "invalid_api_key");
    let both = [("x-api-key", KEY), ("authorization", &bearer)];
    assert_eq!(gate.ask(line, &both, b"").await.json()["username"], "test");
    let user_first = [
        ("x-api-key", ann.key.as_str()),
        ("authorization", "Bearer x"),
    ];
    assert_eq!(
        gate.ask(line, &user_first, b"").await.json()["username"],
        "ann"
    );
    let in_header = [("x-api-key", ann.token.as_str())];
    assert_eq!(
        gate.ask(line, &in_header, b"").await.json()["username"],
        "ann"
    );
    refusal(
        &gate.ask(line, &[("x-api-key", "")], b"").await,
        401,
        "missing_api_key",
    );
    let mut guess = ann.key.clone();
    guess.replace_range(3..6, if guess[3..6] == *"aaa" { "bbb" } else { "aaa" });
    refusal(&me(&gate, &guess).await, 401, "invalid_api_key");
}
