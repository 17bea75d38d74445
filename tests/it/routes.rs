//! Which paths there are, who may call them, and what they answer.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::expect::{refusal, request_id};
use super::fakes::model_server::{ModelServer, Settings};
use super::fakes::wire::{self, Reply};
use super::harness::{ADMIN, Gate, KEY, reserve_port};
use super::raw;

const NOBODY: (&str, &str) = ("x-api-key", "");
const WRONG: (&str, &str) = ("x-api-key", "sk-wrong-0123456789abcdef");

async fn start(model: &str, settings: &[(&str, &str)]) -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings {
        model: model.to_owned(),
        ..Settings::default()
    })
    .await;
    let gate = Gate::with(&server.url(), settings).await;
    (server, gate)
}

async fn get(gate: &Gate, path: &str) -> Reply {
    gate.ask(&format!("GET {path}"), &[NOBODY], b"").await
}

/// The answer to `HEAD`, with all that follows its head.
async fn head(gate: &Gate, path: &str, key: &str) -> Reply {
    let bytes =
        format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {key}\r\n\r\n");
    raw::say(gate.addr, bytes.as_bytes()).await.remove(0)
}

#[tokio::test]
async fn the_open_routes_need_no_key_and_ask_nobody() {
    let (server, gate) = start("tiny-chat", &[]).await;
    for (path, member, value) in [
        ("/", "name", "tollgate"),
        ("/health", "status", "ok"),
        ("/health/", "status", "ok"),
        ("//health", "status", "ok"),
        ("/ready", "status", "ready"),
    ] {
        let reply = get(&gate, path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.json()[member], value, "{path}");
        request_id(&reply.headers);
        let bare = head(&gate, path, "").await;
        assert_eq!((bare.status, bare.body.len()), (200, 0));
        assert_eq!(
            bare.header("content-length"),
            reply.header("content-length"),
            "{path}"
        );
    }
    let ready = get(&gate, "/ready").await.json();
    assert_eq!(ready["store"], "ready");
    let bare = Gate::with(&server.url(), &[("DATABASE_URL", "none")]).await;
    assert_eq!(get(&bare, "/ready").await.json()["store"], "none");
    assert_eq!(ready["upstreams"][0]["state"], "unknown");
    assert!(server.calls().is_empty(), "nobody was asked");
    assert_eq!(
        get(&gate, "/").await.json()["version"],
        env!("CARGO_PKG_VERSION")
    );
}

/// Checks a text of Prometheus line by line; returns the names of its samples.
fn samples(text: &str) -> BTreeSet<String> {
    let mut typed = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(
                ["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind),
                "{line}"
            );
            assert!(typed.insert(name.to_owned()), "typed twice: {line}");
            continue;
        }
        if line.starts_with('#') {
            assert!(line.starts_with("# HELP ") || line == "# EOF", "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {line}");
        let name = series.split('{').next().unwrap_or_default();
        assert!(
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{line}"
        );
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|base| typed.contains(*base)));
        assert!(
            typed.contains(base.unwrap_or(name)),
            "no type before {line}"
        );
        names.insert(name.to_owned());
    }
    names
}

#[tokio::test]
async fn metrics_are_for_admins_and_hold_no_word_of_a_caller() {
    let (_server, gate) = start("tiny-chat", &[]).await;
    let odd =
        json!({"model": "made-up-by-caller", "messages": [{"role": "user", "content": "Hello"}]});
    gate.post("/v1/chat/completions", &odd).await;
    gate.post("/made-up-by-caller", &odd).await;
    let good = json!({"messages": [{"role": "user", "content": "Hello"}]});
    assert_eq!(gate.post("/v1/chat/completions", &good).await.status, 200);
    refusal(&get(&gate, "/metrics").await, 401, "missing_api_key");
    let plain = [("x-api-key", KEY)];
    refusal(
        &gate.ask("GET /metrics", &plain, b"").await,
        403,
        "admin_required",
    );
    let reply = gate.admin("/metrics").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = reply.text();
    let names = samples(&text);
    assert!(names.len() > 10, "{names:?}");
    assert!(!text.contains("made-up-by-caller"), "{text}");
    assert!(text.contains("tiny-chat"), "{text}");
    assert_eq!(head(&gate, "/metrics", ADMIN).await.body.len(), 0);
}

#[tokio::test]
async fn the_scrapers_port_has_three_routes_and_no_more() {
    let (_reserved, addr) = reserve_port();
    let port = addr.port().to_string();
    let (_server, gate) = start(
        "tiny-chat",
        &[("METRICS_PORT", &port), ("CORS_ORIGINS", "*")],
    )
    .await;
    let ask = async |line: &str| {
        let headers = [("x-api-key", ADMIN), ("content-type", "application/json")];
        wire::exchange(addr, line, &headers, b"")
            .await
            .expect("an answer")
    };
    let open = async |path: &str| {
        let reply = wire::exchange(addr, &format!("GET {path}"), &[], b"").await;
        reply.expect("an answer")
    };
    assert!(!samples(&open("/metrics").await.text()).is_empty());
    assert_eq!(open("/health").await.json()["status"], "ok");
    assert_eq!(open("/ready").await.json()["status"], "ready");
    for line in [
        "GET /",
        "GET /v1/models",
        "GET /v1/models/x",
        "GET /admin/status",
        "GET /admin/keys",
        "POST /admin/reload-keys",
        "POST /v1/chat/completions",
        "GET /v1/chat/completions",
        "OPTIONS /v1/chat/completions",
        "GET /users/me",
    ] {
        refusal(&ask(line).await, 404, "not_found");
    }
    refusal(&ask("POST /metrics").await, 405, "method_not_allowed");
    assert_eq!(get(&gate, "/health").await.status, 200);
}

#[tokio::test]
async fn admin_routes_are_for_admins_and_show_no_key() {
    let (_server, gate) = start("tiny-chat", &[]).await;
    for path in ["/admin/keys", "/admin/status"] {
        let line = format!("GET {path}");
        refusal(&get(&gate, path).await, 401, "missing_api_key");
        refusal(&gate.ask(&line, &[], b"").await, 403, "admin_required");
        let reply = gate.admin(path).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(!reply.text().contains(KEY) && !reply.text().contains(ADMIN));
        refusal(
            &gate.ask(&format!("POST {path}"), &[], b"").await,
            405,
            "method_not_allowed",
        );
    }
    let keys = gate.admin("/admin/keys").await.json();
    let names: Vec<&Value> = keys["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| &key["name"])
        .collect();
    assert_eq!(names, ["test", "ops"]);
    assert_eq!(keys["keys"][0]["key_id"].as_str().map(str::len), Some(12));
    assert!(keys["keys"][1]["last_used"].is_string());
    let status = gate.admin("/admin/status").await.json();
    assert_eq!(
        (
            &status["in_flight"],
            &status["rows"]["waiting"],
            &status["keys"]["loaded"]
        ),
        (&json!(0), &json!(0), &json!(2))
    );
}

#[tokio::test]
async fn any_key_may_reload_and_head_does_not() {
    let (_server, gate) = start("tiny-chat", &[]).await;
    refusal(
        &gate.ask("POST /admin/reload-keys", &[NOBODY], b"").await,
        401,
        "missing_api_key",
    );
    refusal(
        &gate.ask("GET /admin/reload-keys", &[WRONG], b"").await,
        401,
        "invalid_api_key",
    );
    let file = gate.folder.path().join("keys.json");
    let third = json!({"test": KEY, "ops": {"key": ADMIN, "admin": true}, "third": "sk-third-0123456789abcdef", "bad": null});
    fs::write(&file, third.to_string()).expect("written");
    let bare = head(&gate, "/admin/reload-keys", KEY).await;
    assert_eq!((bare.status, bare.body.len()), (200, 0));
    assert_eq!(
        gate.admin("/admin/status").await.json()["keys"]["loaded"],
        2
    );
    let reply = gate.ask("GET /admin/reload-keys", &[], b"").await.json();
    assert_eq!(
        (&reply["status"], &reply["keys_loaded"]),
        (&json!("success"), &json!(3))
    );
    assert_eq!((&reply["added"], &reply["removed"]), (&json!(1), &json!(0)));
    assert_eq!(reply["rejected"][0]["name"], "bad");
    for member in ["message", "instance", "revision", "version"] {
        assert!(!reply[member].is_null(), "{member}");
    }
    fs::write(&file, "[]").expect("written");
    let reply = gate.ask("POST /admin/reload-keys", &[], b"").await;
    refusal(&reply, 502, "reload_failed");
    let status = gate.admin("/admin/status").await.json();
    assert!(status["keys"]["failure"].is_string());
    fs::write(&file, json!({"test": KEY}).to_string()).expect("written");
    let reply = gate.ask("POST /admin/reload-keys", &[], b"").await.json();
    assert_eq!(
        (&reply["keys_loaded"], &reply["removed"]),
        (&json!(1), &json!(2))
    );
    refusal(&gate.admin("/admin/status").await, 401, "invalid_api_key");
}

#[tokio::test]
async fn accounts_are_disabled_and_say_so() {
    let (_server, gate) = start("tiny-chat", &[("DATABASE_URL", "none")]).await;
    for line in [
        "POST /auth/register",
        "POST /auth/token",
        "POST /auth/refresh",
        "GET /users/me",
        "PUT /users/me/password",
        "POST /users/me/api-key",
        "PUT /users/me/token-limit?token_limit=5",
        "GET /users/usage?days=30",
        "GET /admin/users",
        "PUT /admin/users/ann/token-limit",
        "POST /admin/users/ann/disable",
        "POST /admin/users/ann/enable",
    ] {
        refusal(&gate.ask(line, &[], b"").await, 404, "accounts_disabled");
    }
}
