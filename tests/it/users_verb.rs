//! `tollgate users` beside a running gateway, on both databases; and what a user gets back when the
//! gateway was killed.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::calls::{chat, with};
use super::expect::refusal;
use super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::fakes::postgres;
use super::fakes::wire::Reply;
use super::harness::{Gate, PATIENCE, command};

const CHAT: &str = "POST /v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");
const PASSWORD: &str = "correct horse battery";
const LEASE_SECONDS: u64 = 15;
const LIMIT: u64 = 1_000_000;

/// The settings of gateway and verbs alike.
fn settings(database: &str) -> Vec<(&str, &str)> {
    vec![
        ("DATABASE_URL", database),
        ("JWT_SECRET_KEY", "a secret of forty bytes for these tests."),
        ("KEY_REFRESH_SECONDS", "1"),
        ("LEASE_SECONDS", "15"),
    ]
}

/// Runs the program in this folder with this on its standard input; tasks go on meanwhile.
async fn tollgate(folder: &Path, database: &str, line: &str, input: &str) -> Output {
    let mut command = command(folder, "http://127.0.0.1:1", &settings(database));
    command
        .args(line.split(' '))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("it starts");
        let mut pipe = child.stdin.take().expect("its input");
        // It need not read it.
        let _unread = pipe.write_all(input.as_bytes());
        drop(pipe);
        child.wait_with_output().expect("it ends")
    });
    run.await.expect("it runs")
}

/// What was printed, when it ended well.
async fn printed(folder: &Path, database: &str, line: &str) -> String {
    let output = tollgate(folder, database, line, PASSWORD).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A call once it is answered as wished: changes count within a second.
async fn until(status: u16, ask: impl AsyncFn() -> Reply) -> Reply {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let reply = ask().await;
        if reply.status == status {
            return reply;
        }
        assert!(Instant::now() < give_up_at, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn the_verbs_work(database: &str) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with(&server.url(), &settings(database)).await;
    let folder = gate.folder.path();
    let run = async |line: &str| printed(folder, database, line).await;
    let key = run("users add Ada --password-stdin")
        .await
        .trim()
        .to_owned();
    let call = async || {
        gate.ask(
            CHAT,
            &[JSON, ("x-api-key", &key)],
            chat().to_string().as_bytes(),
        )
        .await
    };
    assert_eq!(call().await.status, 200, "a new user's key works at once");
    let credentials = json!({"username": "ada", "password": PASSWORD}).to_string();
    let log_in = async || {
        gate.ask("POST /auth/token", &[JSON], credentials.as_bytes())
            .await
    };
    assert_eq!(log_in().await.status, 200);

    run("users set-limit ada 1").await;
    let refused = until(429, call).await;
    refusal(&refused, 429, "token_limit_exceeded");
    run("users set-limit ada 1000000").await;
    until(200, call).await;
    run("users disable ada").await;
    refusal(&until(403, call).await, 403, "user_disabled");
    run("users enable ada").await;
    until(200, call).await;
    run("users set-password ada --password-stdin").await;

    let list: Value = serde_json::from_str(&run("users list --json").await).expect("JSON");
    assert_eq!(
        (&list[0]["username"], &list[0]["token_limit"]),
        (&json!("ada"), &json!(LIMIT))
    );
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    let again = tollgate(folder, database, "users add ada --password-stdin", PASSWORD).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stdout.is_empty());
    let told = gate.log().iter().map(Value::to_string).collect::<String>();
    assert!(!told.contains(&key) && !told.contains(PASSWORD));
}

#[tokio::test]
async fn users_are_managed_beside_a_gateway_on_the_embedded_database() {
    the_verbs_work("sqlite://users.db").await;
}

#[tokio::test]
async fn users_are_managed_beside_a_gateway_on_postgres() {
    let Some(database) = postgres::database().await else {
        return;
    };
    the_verbs_work(&database.url).await;
}

/// What the table of users says of the one user.
async fn used(folder: &Path, database: &str) -> u64 {
    let list = printed(folder, database, "users list --json").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    list[0]["tokens_used"].as_u64().expect("tokens")
}

/// A gateway that was killed when a user had made five calls and was in the stream of a sixth.
async fn killed_in_a_stream(server: &ModelServer, database: &str) -> (Gate, Instant) {
    let mut gate = Gate::with(&server.url(), &settings(database)).await;
    let add = format!("users add ada --token-limit {LIMIT} --password-stdin");
    let key = printed(gate.folder.path(), database, &add).await;
    let headers = [JSON, ("x-api-key", key.trim())];
    for _ in 0..5 {
        assert_eq!(
            gate.ask(CHAT, &headers, chat().to_string().as_bytes())
                .await
                .status,
            200
        );
    }
    // One call is in its stream when the end comes.
    server.next(Behaviour {
        token_delay: Duration::from_secs(1),
        ..Behaviour::tokens(500)
    });
    let mut wire = gate.wire().await;
    let long = with(chat(), "max_tokens", json!(500)).to_string();
    wire.send(CHAT, &headers, long.as_bytes())
        .await
        .expect("sent");
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let killed_at = Instant::now();
    gate.signal("KILL");
    gate.ended().await;
    (gate, killed_at)
}

#[tokio::test]
async fn what_a_killed_gateway_had_leased_and_not_used_comes_back_by_its_log() {
    let database = "sqlite://users.db";
    let server = ModelServer::start(Settings::default()).await;
    let (mut gate, killed_at) = killed_in_a_stream(&server, database).await;
    let folder = gate.folder.path();
    let lines: Vec<String> = gate.log().iter().map(Value::to_string).collect();
    std::fs::write(folder.join("log"), lines.join("\n")).expect("a log");
    // Not before the lease has expired is it anybody's but its owner's.
    let credited = loop {
        let said = printed(folder, database, "usage reconcile log").await;
        if said.contains("charged leases:") {
            break said;
        }
        assert!(
            killed_at.elapsed() < 3 * Duration::from_secs(LEASE_SECONDS),
            "{said}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(
        credited.contains("of user:") && credited.contains("calls without an end: 1"),
        "{credited}"
    );
    let reserved = gate
        .log()
        .into_iter()
        .rfind(|line| line["message"] == "reserved");
    let open = reserved.expect("a reservation")["budget"]["tokens"]
        .as_u64()
        .expect("tokens");
    let ended: u64 = gate
        .rows(5)
        .await
        .iter()
        .map(|row| row["total_tokens"].as_u64().expect("tokens"))
        .sum();
    assert_eq!(used(gate.folder.path(), database).await, ended + open);
    let folder = gate.folder.path();
    let again = printed(folder, database, "usage reconcile log").await;
    assert!(again.contains("credited: 0 tokens of 0"), "{again}");
    assert_eq!(used(folder, database).await, ended + open);

    let csv = printed(folder, database, "usage --by user --format csv").await;
    let total = format!(",{ended},0,0");
    let line = csv.lines().nth(1).expect("a line");
    assert!(
        line.starts_with("ada,5,") && line.ends_with(&total),
        "{csv}"
    );
}
