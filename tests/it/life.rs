//! The life of the process: how it starts, what keeps it from starting, and how its keys change.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::expect::refusal;
use super::fakes::model_server::{ModelServer, Settings};
use super::fakes::wire;
use super::harness::{Gate, KEY, PATIENCE, command, reserve_port};

const CHAT: &str = "/v1/chat/completions";

fn ask() -> Value {
    json!({"max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]})
}

/// Runs a command to its end, beside the servers of the test.
async fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output());
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("it ends")
        .expect("it ran")
        .expect("it ran")
}

/// A gateway that cannot start: its exit code and what it says.
async fn failed(folder: &TempDir, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = output(command(folder.path(), "http://127.0.0.1:9", settings)).await;
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("keys.json"),
        json!({"test": KEY}).to_string(),
    )
    .expect("written");
    folder
}

#[tokio::test]
async fn a_taken_port_is_named_with_who_has_it_and_how_to_start_beside_it() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = mute
        .local_addr()
        .map(|addr| (addr, mute))
        .expect("an address");
    let beside = format!("VLLM_ENDPOINT=http://{}", server.addr());
    for (addr, who, more) in [
        (gate.addr, "tollgate", ""),
        (server.addr(), "a vLLM server", beside.as_str()),
        (mute.0, "another program", ""),
    ] {
        let port = addr.port().to_string();
        let (code, text) = failed(&folder(), &[("PORT", &port)]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(&format!("port {port} is in use by {who};")),
            "{text}"
        );
        let next = addr.port().checked_add(2).unwrap_or(1024);
        assert!(
            text.contains(&format!("PORT={next}")) && text.contains(more),
            "{text}"
        );
        assert!(text.contains("tollgate serve"), "{text}");
        let (code, text) = failed(&folder(), &[("METRICS_PORT", &port)]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(who) && text.contains("METRICS_PORT="),
            "{text}"
        );
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_bound() {
    let (code, text) = failed(&folder(), &[("API_KEYS_FILE", "nowhere.json")]).await;
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("nowhere.json"), "{text}");
    let (code, text) = failed(
        &folder(),
        &[("PORT", "x"), ("USAGE_SINK", "paper"), ("H2C", "perhaps")],
    )
    .await;
    assert_eq!(code, Some(64), "{text}");
    for name in ["PORT", "USAGE_SINK", "H2C"] {
        assert!(text.contains(name), "every fault at once: {text}");
    }
    // A file where the directory should be.
    let (code, text) = failed(&folder(), &[("DATA_DIR", "keys.json/data")]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("keys.json/data"), "{text}");
}

#[tokio::test]
async fn without_a_keys_file_it_starts_and_says_how_to_make_a_key() {
    let server = ModelServer::start(Settings::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut bare = command(folder.path(), &server.url(), &[]);
    bare.env_remove("API_KEYS_FILE");
    let gate = Gate::run(folder, bare).await;
    assert_eq!(
        gate.ask("GET /ready", &[("x-api-key", "")], b"")
            .await
            .status,
        200
    );
    refusal(&gate.post(CHAT, &ask()).await, 401, "invalid_api_key");
    let hint = gate
        .log()
        .iter()
        .any(|line| line.to_string().contains("tollgate keys add"));
    assert!(hint, "{:#?}", gate.log());
    // The hint is a command that works.
    let key = keys(&gate, "data/keys.json", &["add", "first"]).await;
    assert_eq!(
        answers_within(&gate, &key, 200, Duration::from_secs(10)).await,
        200
    );
}

/// Runs `tollgate keys`; what it prints.
async fn keys(gate: &Gate, file: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .current_dir(gate.folder.path())
        .env_clear()
        .arg("keys")
        .args(arguments)
        .args(["--file", file]);
    let output = output(command).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Asks with a key until the answer has this status; the last one after `limit`.
async fn answers_within(gate: &Gate, key: &str, status: u16, limit: Duration) -> u16 {
    let started = Instant::now();
    loop {
        let headers = [("x-api-key", key), ("content-type", "application/json")];
        let body = ask().to_string();
        let reply = gate
            .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
            .await;
        if reply.status == status || started.elapsed() > limit {
            return reply.status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn keys_come_and_go_while_it_runs() {
    let server = ModelServer::start(Settings::default()).await;
    let refresh = [("KEY_REFRESH_SECONDS", "2")];
    let gate = Gate::with(&server.url(), &refresh).await;
    assert_eq!(
        answers_within(&gate, "sk-not-there-yet-0123456789", 401, PATIENCE).await,
        401
    );
    let added = keys(&gate, "keys.json", &["add", "new"]).await;
    assert!(
        added.starts_with("sk-") && added.len() == 46,
        "{}",
        added.len()
    );
    let new_key_works = answers_within(&gate, &added, 200, Duration::from_secs(10)).await;
    assert_eq!(new_key_works, 200);
    let rotated = keys(&gate, "keys.json", &["rotate", "new", "--grace", "0s"]).await;
    assert_eq!(
        answers_within(&gate, &rotated, 200, Duration::from_secs(10)).await,
        200
    );
    assert_eq!(
        answers_within(&gate, &added, 401, Duration::ZERO).await,
        401
    );
    keys(&gate, "keys.json", &["revoke", "new"]).await;
    // The calls themselves are what makes it look; the last one that is let through is the one
    // beside which it looks.
    let gone = answers_within(&gate, &rotated, 401, Duration::from_secs(2)).await;
    assert_eq!(gone, 401);
    assert_eq!(answers_within(&gate, KEY, 200, PATIENCE).await, 200);
}

#[tokio::test]
async fn nobody_who_reads_the_log_is_no_reason_to_stop() {
    let server = ModelServer::start(Settings::default()).await;
    let folder = folder();
    let (_reserved, addr) = reserve_port();
    let mut command = command(
        folder.path(),
        &server.url(),
        &[("PORT", &addr.port().to_string())],
    );
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let started = Instant::now();
    let health = loop {
        match wire::exchange(addr, "GET /health", &[], b"").await {
            Ok(reply) => break reply,
            Err(_) => assert!(started.elapsed() < PATIENCE),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(health.status, 200);
    let body = ask().to_string();
    for _ in 0..5 {
        let headers = [("x-api-key", KEY)];
        let reply = wire::exchange(addr, &format!("POST {CHAT}"), &headers, body.as_bytes()).await;
        assert_eq!(reply.expect("an answer").status, 200);
    }
    let id = child.id().to_string();
    let mut kill = Command::new("kill");
    kill.args(["-TERM", &id]);
    assert!(output(kill).await.status.success());
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let ended = tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("it ends")
        .expect("it ran");
    assert_eq!(ended.expect("a status").code(), Some(0));
    let path = folder.path().join("data/tollgate.db");
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display()))
        .await
        .expect("the table");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM usage")
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(rows, 5);
}
