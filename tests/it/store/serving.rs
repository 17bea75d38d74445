//! The gateway on a Postgres server that is there, away, or refuses it.

use std::process::{Output, Stdio};
use std::time::Duration;

use super::bench::eventually;
use crate::calls::chat;
use crate::fakes::model_server::{ModelServer, Settings};
use crate::fakes::postgres::Postgres;
use crate::harness::{Gate, command};

const SECRET: &str = "4e1f0c5b7a9d4e2f8c6b1a0d3e5f7a9b";

async fn store_of(gate: &Gate) -> (u16, String) {
    let reply = gate.ask("GET /ready", &[], b"").await;
    let state = reply.json()["store"].as_str().expect("a word").to_owned();
    (reply.status, state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_tells_what_is_known_of_the_database() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let url = server.database().await;
    server.stop();
    let models = ModelServer::start(Settings::default()).await;
    let settings = [("DATABASE_URL", url.as_str()), ("JWT_SECRET_KEY", SECRET)];
    let mut gate = Gate::with(&models.url(), &settings).await;
    assert_eq!(store_of(&gate).await, (503, "unknown".to_owned()));
    assert_eq!(gate.ask("GET /health", &[], b"").await.status, 200);
    // Keys without limits notice nothing.
    let reply = gate.post("/v1/chat/completions", &chat()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());

    server.go_on().await;
    eventually("it is ready", || async {
        store_of(&gate).await == (200, "ready".to_owned())
    })
    .await;
    let login = br#"{"username":"ann","password":"long enough"}"#;
    let headers = [("content-type", "application/json"), ("x-api-key", "")];
    let reply = gate.ask("POST /auth/token", &headers, login).await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    server.stop();
    let reply = gate.ask("POST /auth/token", &headers, login).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    // It has answered once: that is ready.
    assert_eq!(store_of(&gate).await, (200, "down".to_owned()));
    server.go_on().await;
    eventually("it is found again", || async {
        store_of(&gate).await == (200, "ready".to_owned())
    })
    .await;
    assert_eq!(gate.stop().await.code(), Some(0));
    let said = serde_json::to_string(&gate.log()).expect("a log");
    assert!(
        said.contains("does not answer") && said.contains("users and budgets answers"),
        "{said}"
    );
}

/// How a gateway ends that cannot start.
async fn end(url: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("keys.json"), "{}").expect("a keys file");
    let settings = [("DATABASE_URL", url), ("JWT_SECRET_KEY", SECRET)];
    let mut command = command(folder.path(), "http://127.0.0.1:1", &settings);
    command.stderr(Stdio::piped());
    let child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), child).await;
    output.expect("it ends").expect("it ran")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_ends_the_start_with_the_cause() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let direct = server.database().await;
    crate::fakes::postgres::run(&direct, "CREATE ROLE locked LOGIN PASSWORD 'x'").await;
    for (url, cause) in [
        (
            server.url("postgres", "locked:my-pass-word"),
            "password authentication failed",
        ),
        (
            server.url("nowhere", "postgres"),
            "database \"nowhere\" does not exist",
        ),
    ] {
        let output = end(&url).await;
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(cause), "{said}");
        assert!(!said.contains("my-pass-word"), "{said}");
    }
}
