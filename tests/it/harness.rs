//! The gateway as a child process, driven as its users drive it: environment, sockets, log lines
//! and signals.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Row as _, SqlitePool};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::fakes::model_server::ModelServer;
use super::fakes::wire::{Reply, Wire};

/// A key without rights.
pub const KEY: &str = "sk-test-0123456789abcdef";
/// An admin key.
pub const ADMIN: &str = "sk-admin-0123456789abcdef";
/// How long anything may take that is not supposed to take long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway; killed on drop.
pub struct Gate {
    child: Child,
    pub addr: SocketAddr,
    pub folder: TempDir,
    lines: Arc<Mutex<Vec<Value>>>,
    written: watch::Receiver<usize>,
}

impl Gate {
    /// In front of a model server, with two keys and nothing else set.
    pub async fn before(server: &ModelServer) -> Self {
        Self::with(&server.url(), &[]).await
    }

    /// In front of any URL, with more settings.
    pub async fn with(upstream: &str, settings: &[(&str, &str)]) -> Self {
        let keys = json!({"test": KEY, "ops": {"key": ADMIN, "admin": true}});
        Self::with_keys(upstream, settings, &keys).await
    }

    /// With a key set of its own.
    pub async fn with_keys(upstream: &str, settings: &[(&str, &str)], keys: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("keys.json"), keys.to_string()).expect("a keys file");
        let command = command(folder.path(), upstream, settings);
        Self::run(folder, command).await
    }

    /// By a command of its own, in a folder that goes with it.
    pub async fn run(folder: TempDir, mut command: Command) -> Self {
        let mut child = command.spawn().expect("the gateway starts");
        let stdout = child.stdout.take().expect("its log");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (tell, mut written) = watch::channel(0);
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                kept.lock().expect("the lines").push(line);
                tell.send_modify(|count| *count += 1);
            }
        });
        let find = || {
            let lines = lines.lock().expect("the lines");
            let line = lines
                .iter()
                .find(|line| line["message"] == "tollgate listens")?;
            line["address"].as_str()?.parse().ok()
        };
        let addr = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(addr) = find() {
                    return addr;
                }
                written.changed().await.expect("the gateway lives");
            }
        });
        let addr = addr.await.expect("the gateway listens");
        Self {
            child,
            addr,
            folder,
            lines,
            written,
        }
    }

    /// The next process on the same files, with nothing else set; this one must have ended.
    pub async fn again(&mut self, upstream: &str) -> Self {
        let other = tempfile::tempdir().expect("a folder");
        let folder = std::mem::replace(&mut self.folder, other);
        let command = command(folder.path(), upstream, &[]);
        Self::run(folder, command).await
    }

    /// A fresh connection.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.addr).await.expect("a connection")
    }

    /// One request on a connection of its own, with the plain key unless headers bring another.
    pub async fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let has_key = headers
            .iter()
            .any(|(name, _)| matches!(*name, "x-api-key" | "authorization"));
        let mut all: Vec<(&str, &str)> = if has_key {
            Vec::new()
        } else {
            vec![("x-api-key", KEY)]
        };
        all.extend_from_slice(headers);
        let mut wire = self.wire().await;
        wire.send(line, &all, body).await.expect("sent");
        wire.reply().await.expect("an answer")
    }

    /// A JSON call with the plain key.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.ask(
            &format!("POST {path}"),
            &headers,
            body.to_string().as_bytes(),
        )
        .await
    }

    /// A GET with the admin key.
    pub async fn admin(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path}"), &[("x-api-key", ADMIN)], b"")
            .await
    }

    /// The usage rows in the log, once there are `count`.
    pub async fn rows(&mut self, count: usize) -> Vec<Value> {
        let lines = self.lines.clone();
        let rows = || -> Vec<Value> {
            let lines = lines.lock().expect("the lines");
            lines
                .iter()
                .filter(|line| line["message"] == "usage")
                .map(|line| line["usage"].clone())
                .collect()
        };
        let enough = async {
            while rows().len() < count {
                self.written.changed().await.expect("the gateway lives");
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, enough).await.is_ok();
        let rows = rows();
        assert!(in_time, "{} rows of {count}: {rows:#?}", rows.len());
        rows
    }

    /// Every log line so far.
    pub fn log(&self) -> Vec<Value> {
        self.lines.lock().expect("the lines").clone()
    }

    /// Sends a signal, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// SIGTERM, and how the process ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// How the process ends, within bounds.
    pub async fn ended(&mut self) -> ExitStatus {
        for _ in 0..2_000 {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the gateway does not end: {:#?}", self.log());
    }

    /// The rows in the embedded table: request id, prompt and completion tokens, outcome.
    pub async fn table(&self) -> Vec<(String, i64, i64, String)> {
        let path = self.folder.path().join("data/tollgate.db");
        let pool = SqlitePool::connect(&format!("sqlite://{}", path.display()))
            .await
            .expect("the table");
        let rows =
            sqlx::query("SELECT request_id, prompt_tokens, completion_tokens, outcome FROM usage")
                .fetch_all(&pool)
                .await
                .expect("rows");
        rows.iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port for a gateway, kept from everybody else as long as the socket lives: it is bound and does
/// not listen, and who sets address reuse, as the gateway does, may bind it too.
pub fn reserve_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("address reuse");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let addr = socket.local_addr().expect("an address");
    (socket, addr)
}

/// The program with a bare environment.
pub fn command(folder: &Path, upstream: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .current_dir(folder)
        .env_clear()
        .env("PORT", "0")
        .env("VLLM_ENDPOINT", upstream)
        .env("API_KEYS_FILE", "keys.json")
        .env("DATA_DIR", "data")
        .env("LOG_FORMAT", "json")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
