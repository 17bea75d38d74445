//! A start without keys: what cannot pass ends it with one message before anybody could connect; what
//! may pass does not.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use super::super::fakes::google::secret_manager::Order;
use super::super::harness::reserve_port;
use super::*;

/// A start that ends by itself: how, after what it said, and that nobody could connect meanwhile.
struct Failed {
    output: Output,
    /// Whether a file was left behind.
    left: bool,
}

async fn start(secrets: &SecretManager, settings: &[(&str, &str)]) -> Failed {
    let folder = tempfile::tempdir().expect("a folder");
    let (_kept, addr) = reserve_port();
    let port = addr.port().to_string();
    let mut command = command(
        folder.path(),
        "http://127.0.0.1:9",
        &[("API_KEYS_FILE", "")],
    );
    command
        .envs(on_cloud_run(secrets))
        .env("PORT", port)
        .envs(settings.iter().copied())
        .stderr(Stdio::piped());
    let output = ended(command, addr).await;
    let left = std::fs::read_dir(folder.path()).expect("a folder").count() > 0;
    Failed { output, left }
}

async fn ended(mut command: Command, addr: SocketAddr) -> Output {
    let mut child: Child = command.spawn().expect("the gateway starts");
    until(async || {
        assert!(TcpStream::connect(addr).is_err(), "it is open to clients");
        child.try_wait().expect("a status")
    })
    .await;
    child.wait_with_output().expect("what it said")
}

/// Ends with this code; each of the words is in the message.
fn check(name: &str, failed: &Failed, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&failed.output.stderr);
    let log = String::from_utf8_lossy(&failed.output.stdout);
    assert_eq!(
        failed.output.status.code(),
        Some(code),
        "{name}: {said}{log}"
    );
    assert!(!failed.left, "{name} left something behind");
    assert!(!log.contains("tollgate listens"), "{name}: {log}");
    for word in words {
        assert!(said.contains(word), "{name}: {word} is not in: {said}");
    }
    if code == 1 {
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        assert!(said.starts_with("tollgate: "), "{name}: {said}");
        assert!(!log.contains("ERROR"), "{name} is told twice: {log}");
    }
    for key in [KEY, ADMIN] {
        assert!(!said.contains(key) && !log.contains(key), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_start_without_right_to_the_secret_says_which_role_is_missing() {
    let secrets = vault(&two_keys()).await;
    secrets.always(Kind::Access, Some(Order::Deny));
    let failed = start(&secrets, &[]).await;
    let role = "roles/secretmanager.secretAccessor";
    check("no right", &failed, 1, &[role, SECRET, PROJECT]);
    assert_eq!(secrets.calls().len(), 1, "asked once");
}

#[tokio::test]
async fn nobody_can_connect_while_the_keys_are_being_loaded() {
    let secrets = SecretManager::start().await;
    secrets.next(Kind::Access, Order::Delay(Duration::from_millis(700)));
    let failed = start(&secrets, &[]).await;
    check(
        "slow",
        &failed,
        1,
        &["there is no", SECRET, PROJECT, "tollgate keys add"],
    );
}

#[tokio::test]
async fn a_start_without_a_version_that_can_be_read_says_so() {
    let secrets = vault(&two_keys()).await;
    let pinned = [("API_KEYS_SECRET_NAME", "vllm-api-keys/versions/4")];
    check(
        "no version",
        &start(&secrets, &pinned).await,
        1,
        &["there is no", "versions/4", "names the version"],
    );
    put(&secrets, &two_keys());
    secrets.disable(PROJECT, SECRET, 2);
    check(
        "disabled",
        &start(&secrets, &[]).await,
        1,
        &["disabled", "enable it", "add a version", SECRET],
    );
    let pinned = [("API_KEYS_SECRET_NAME", "vllm-api-keys/versions/2")];
    check(
        "disabled and named",
        &start(&secrets, &pinned).await,
        1,
        &["disabled", "enable it", "name another version", SECRET],
    );
    secrets.put(PROJECT, SECRET, &format!("[\"{KEY}\"]"));
    check(
        "no object",
        &start(&secrets, &[]).await,
        1,
        &["version 3", SECRET, "no JSON object"],
    );
    secrets.put(PROJECT, SECRET, "");
    check(
        "empty",
        &start(&secrets, &[]).await,
        1,
        &["version 4", "is empty"],
    );
    only_accesses(&secrets.calls());
}

#[tokio::test]
async fn a_start_without_project_or_credentials_says_what_to_set() {
    let secrets = vault(&two_keys()).await;
    let (_kept, nobody) = reserve_port();
    let nobody = nobody.to_string();
    let settings = [("GCP_PROJECT", ""), ("GCE_METADATA_HOST", nobody.as_str())];
    check(
        "no project",
        &start(&secrets, &settings).await,
        1,
        &["GCP_PROJECT"],
    );
    assert_eq!(secrets.calls().len(), 0);
    let machine = Metadata::start().await;
    machine.trouble(metadata::TOKEN, metadata::Trouble::Fails(404));
    let host = machine.host();
    let settings = [("GCE_METADATA_HOST", host.as_str())];
    check(
        "no account",
        &start(&secrets, &settings).await,
        1,
        &["credentials", SECRET],
    );
    machine.heal();
    secrets.require_tokens(&["another"]);
    check(
        "refused",
        &start(&secrets, &settings).await,
        1,
        &["credentials", SECRET],
    );
    check(
        "no token",
        &start(&secrets, &[]).await,
        1,
        &["credentials", SECRET],
    );
}

#[tokio::test]
async fn a_wrong_configuration_ends_before_anybody_is_asked() {
    let secrets = vault(&two_keys()).await;
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("LABELS", "Team=ML Platform")], "LABELS"),
        (&[("GCP_PROJECT", "My Project")], "GCP_PROJECT"),
        (&[("API_KEYS_SECRET_NAME", "a b")], "API_KEYS_SECRET_NAME"),
        (
            &[
                ("API_KEYS_SECRET_NAME", "a"),
                ("API_KEYS_FILE", "Cargo.toml"),
            ],
            "API_KEYS_SECRET_NAME",
        ),
        (
            &[("SECRET_MANAGER_ENDPOINT", "http://10.0.0.1:80")],
            "SECRET_MANAGER_ENDPOINT",
        ),
        (
            &[("GCE_METADATA_HOST", "evil.example:80")],
            "GCE_METADATA_HOST",
        ),
    ];
    for (settings, word) in cases {
        check(word, &start(&secrets, settings).await, 64, &[word]);
    }
    assert_eq!(secrets.calls().len(), 0);
}

#[tokio::test]
async fn trouble_that_may_pass_does_not_end_the_start() {
    let server = ModelServer::start(Settings::default()).await;
    for order in [
        Order::Refuse(503),
        Order::Html(502),
        Order::Refuse(429),
        Order::Drop,
    ] {
        let secrets = vault(&two_keys()).await;
        secrets.always(Kind::Access, Some(order.clone()));
        let gate = gate(&server.url(), &secrets, &[]).await;
        assert_eq!(
            gate.ask("GET /ready", &[], b"").await.status,
            503,
            "{order:?}"
        );
        assert_eq!(
            gate.ask("GET /health", &[], b"").await.status,
            200,
            "{order:?}"
        );
        let (reply, ()) = tokio::join!(knock(&gate, KEY), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            secrets.always(Kind::Access, None);
        });
        assert_eq!(reply.status, 200, "{order:?}: {}", reply.text());
        assert_eq!(
            gate.ask("GET /ready", &[], b"").await.status,
            200,
            "{order:?}"
        );
    }
}

#[tokio::test]
async fn a_start_that_failed_gets_ready_though_nobody_but_the_probe_asks() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    secrets.always(Kind::Access, Some(Order::Refuse(503)));
    let gate = gate(&server.url(), &secrets, &[]).await;
    let probe = async || gate.ask("GET /ready", &[], b"").await.status;
    let (before, began) = (secrets.calls().len(), Instant::now());
    for _ in 0..20 {
        assert_eq!(probe().await, 503);
    }
    let asked = secrets.calls().len() - before;
    // One fetch a second, of two attempts.
    let most = 2 * (1 + began.elapsed().as_secs());
    assert!(asked as u64 <= most, "{asked} calls for twenty probes");
    secrets.always(Kind::Access, None);
    until(async || (probe().await == 200).then_some(())).await;
}

/// As the model server's key somebody may set the very key that clients show.
#[tokio::test]
async fn a_clients_key_is_never_shown_to_the_model_server() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    secrets.always(Kind::Access, Some(Order::Refuse(503)));
    let gate = gate(&server.url(), &secrets, &[("VLLM_API_KEY", KEY)]).await;
    let shown = |from: usize| -> Vec<String> {
        let calls = server.calls().into_iter().skip(from);
        calls
            .map(|call| call.header("authorization").to_owned())
            .collect()
    };
    let ask = async |key: &str| {
        let headers = [("x-api-key", key), ("content-type", "application/json")];
        let body = chat().to_string();
        let path = "POST /v1/chat/completions";
        let reply = gate.ask(path, &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    // Without keys nobody knows whose it is.
    gate.ask("GET /v1/models", &[], b"").await;
    secrets.always(Kind::Access, None);
    ask(KEY).await;
    let before = server.calls().len();
    assert!(before > 0);
    assert_eq!(shown(0), vec![""; before]);
    put(&secrets, &json!({"ops": {"key": ADMIN, "admin": true}}));
    assert_eq!(reload(&gate).await.status, 200);
    ask(ADMIN).await;
    assert_eq!(shown(before), [format!("Bearer {KEY}")]);
    put(&secrets, &two_keys());
    assert_eq!(reload(&gate).await.status, 200);
    ask(KEY).await;
    assert_eq!(shown(before + 1), [""]);
    let told = || {
        Value::from(gate.log())
            .to_string()
            .contains("VLLM_API_KEY is a client's key")
    };
    until(async || told().then_some(())).await;
}

#[tokio::test]
async fn calls_wait_ten_seconds_for_the_first_keys_and_are_never_called_wrong() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = vault(&two_keys()).await;
    secrets.always(Kind::Access, Some(Order::Swallow));
    let gate = gate(&server.url(), &secrets, &[]).await;
    let began = Instant::now();
    let (known, unknown) = tokio::join!(knock(&gate, KEY), knock(&gate, NEW_KEY));
    let took = began.elapsed();
    for reply in [known, unknown] {
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "not_ready");
    }
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(12),
        "{took:?}"
    );
    secrets.always(Kind::Access, None);
    until(async || (knock(&gate, KEY).await.status == 200).then_some(())).await;
}
