//! Limits of keys as administrators see them, and what becomes of those that cannot be held.

use serde_json::{Value, json};

use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{ADMIN, Gate, KEY, command};

fn keys() -> Value {
    json!({
        "test": {"key": KEY, "token_limit": 5_000_000, "period": "month", "requests_per_minute": 600,
            "tokens_per_minute": 200_000, "max_concurrent": 8, "wake": false, "dry_run": true},
        "ops": {"key": ADMIN, "admin": true},
    })
}

#[tokio::test]
async fn admins_see_the_limits_of_keys_and_over_what_they_hold() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with_keys(&server.url(), &[], &keys()).await;
    let listed = gate.admin("/admin/keys").await.json();
    let said = &keys()["test"];
    for field in [
        "token_limit",
        "period",
        "requests_per_minute",
        "tokens_per_minute",
        "max_concurrent",
        "wake",
        "dry_run",
    ] {
        assert_eq!(listed["keys"][0][field], said[field], "{field}");
    }
    let plain = &listed["keys"][1];
    assert_eq!(
        (&plain["token_limit"], &plain["period"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&plain["wake"], &plain["dry_run"]),
        (&json!(true), &json!(false))
    );
    let status = gate.admin("/admin/status").await.json();
    let limits = &status["limits"];
    for field in ["requests_per_minute", "tokens_per_minute", "max_concurrent"] {
        assert_eq!(limits[field], "per instance", "{field}");
    }
    assert_eq!(limits["token_limit"], "all instances together");
    assert_eq!(status["store"], "ready");
    for sum in [
        "owners",
        "leased",
        "reserved",
        "untold",
        "exchanges",
        "exchanges_failed",
    ] {
        assert_eq!(status["budgets"][sum], 0, "{sum}");
    }
}

#[tokio::test]
async fn a_token_limit_without_a_database_shuts_the_key_out_and_says_so() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with_keys(&server.url(), &[("DATABASE_URL", "none")], &keys()).await;
    assert_eq!(gate.ask("GET /v1/models", &[], b"").await.status, 401);
    let status = gate.admin("/admin/status").await.json();
    assert_eq!(status["keys"]["loaded"], 1);
    assert_eq!(
        (&status["store"], &status["budgets"]),
        (&json!("none"), &Value::Null)
    );
    assert_eq!(
        status["limits"]["token_limit"],
        "none: there is no database"
    );
    let reload = gate
        .ask("POST /admin/reload-keys", &[("x-api-key", ADMIN)], b"")
        .await
        .json();
    let logged = gate.log();
    let warned = logged
        .iter()
        .find(|line| line["message"] == "an entry of the key set is left out")
        .expect("a warning");
    for rejected in [
        &status["keys"]["rejected"][0],
        &reload["rejected"][0],
        warned,
    ] {
        assert_eq!(rejected["name"], "test", "{rejected}");
        let reason = rejected["reason"].as_str().expect("a reason");
        assert!(reason.contains("DATABASE_URL"), "{reason}");
    }
}

#[tokio::test]
async fn check_tells_of_a_token_limit_that_cannot_be_held() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("keys.json"), keys().to_string()).expect("a keys file");
    for (database, left_out) in [("none", true), ("sqlite://data/tollgate.db", false)] {
        let mut check = command(
            folder.path(),
            "http://127.0.0.1:1",
            &[("DATABASE_URL", database)],
        );
        let output = check.arg("check").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.contains("the entry `test` is left out"),
            left_out,
            "{said}"
        );
    }
}
