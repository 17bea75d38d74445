//! A secret, and the program as somebody runs it who changes the keys in it.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::OLD;
use crate::fakes::google::secret_manager::{Call, Kind, Order, SecretManager};

const LOCK: &str = "tollgate-lock";

/// A secret `s` of the project `p` and somebody who changes its keys.
pub struct Bench {
    pub server: SecretManager,
    folder: TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(OLD).await
    }

    pub async fn with(payload: &str) -> Self {
        Self {
            server: SecretManager::with("p", "s", payload).await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub async fn empty() -> Self {
        Self {
            server: SecretManager::start().await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// `tollgate keys` with these arguments and nothing else that names a place.
    pub fn bare(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("SECRET_MANAGER_ENDPOINT", self.server.url())
            .arg("keys")
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = self.bare(line);
        command.args(["--project", "p", "--secret", "s"]);
        command
    }

    pub async fn run(&self, line: &str) -> Shown {
        finish(self.command(line)).await
    }

    pub fn payload(&self) -> Value {
        serde_json::from_str(&self.server.payload("p", "s")).expect("JSON")
    }

    pub fn names(&self) -> BTreeSet<String> {
        let payload = self.payload();
        payload
            .as_object()
            .expect("entries")
            .keys()
            .cloned()
            .collect()
    }

    pub fn lock(&self) -> Value {
        self.server.secret("p", "s")["annotations"][LOCK].clone()
    }

    /// A writer that holds the lock and gets no further.
    pub async fn hold(&self) -> Child {
        self.server.next(Kind::Access, Order::Swallow);
        let writer = self.command("add doomed").spawn().expect("a writer");
        let is_held = |calls: &[Call]| calls.iter().any(|call| call.kind == Some(Kind::Access));
        self.server.wait_for(is_held).await;
        assert!(self.lock().is_string());
        writer
    }

    /// Fails unless the newest version holds `name` with the key that was shown.
    pub fn assert_key(&self, name: &str, shown: &Shown) {
        let key = shown.out.strip_suffix('\n').expect("a line");
        assert!(key.starts_with("sk-") && key.len() == 46, "{shown:?}");
        let hash = Sha256::digest(key)
            .iter()
            .fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
        let payload = self.payload();
        assert_eq!(payload[name]["sha256"], hash.as_str(), "{name}: {payload}");
        assert!(!self.server.payload("p", "s").contains(key));
        assert!(!shown.notes.contains(key));
    }
}

/// What a verb printed, and how it ended.
#[derive(Debug)]
pub struct Shown {
    pub code: Option<i32>,
    pub out: String,
    pub notes: String,
}

impl From<Output> for Shown {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            notes: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

pub async fn finish(mut command: Command) -> Shown {
    let run = tokio::task::spawn_blocking(move || command.output().expect("tollgate runs"));
    run.await.expect("an end").into()
}

pub async fn end(child: Child) -> Shown {
    let end = tokio::task::spawn_blocking(move || child.wait_with_output().expect("an end"));
    end.await.expect("an end").into()
}

pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}
