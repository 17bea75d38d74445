//! The fake Secret Manager against Google's own command line tool: what one writes, the other reads.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::fakes::google::secret_manager::{Call, Kind, Order, SecretManager};

const TOKEN: &str = "ya29.a-token-for-tests";

/// The tool with a bare environment, a token from a file and the fake in Google's place.
struct Gcloud {
    folder: TempDir,
    endpoint: String,
}

impl Gcloud {
    /// `None`, and a line that says so, where the tool is not installed.
    fn beside(server: &SecretManager) -> Option<Self> {
        let version = Command::new("gcloud")
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        if !version.is_ok_and(|output| output.status.success()) {
            println!("skipped: gcloud is not installed, so the fake was not held against it");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), TOKEN).expect("a token file");
        Some(Self {
            folder,
            endpoint: format!("{}/", server.url()),
        })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, line: &str) -> Output {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Command::new("gcloud")
            .args(line.split_whitespace())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder.path())
            .env("CLOUDSDK_CONFIG", self.folder.path().join("config"))
            .env("CLOUDSDK_CORE_PROJECT", "p")
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "1")
            .env(
                "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
                self.folder.path().join("token"),
            )
            .env(
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER",
                &self.endpoint,
            )
            .stdin(Stdio::null())
            .output()
            .expect("gcloud runs")
    }

    /// Standard output of what must go well.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "gcloud {line}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Standard error of what must fail.
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "gcloud {line} went well");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn write(path: &str, text: &str) {
    std::fs::write(Path::new(path), text).expect("a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcloud_makes_reads_and_removes_secrets_of_the_fake() {
    let server = SecretManager::start().await;
    server.require_tokens(&[TOKEN]);
    let Some(gcloud) = Gcloud::beside(&server) else {
        return;
    };
    let file = gcloud.path("payload.json");
    write(&file, "{\"a\": \"sk-0123456789abcdef\"}\n");
    gcloud.ok("secrets create keys --replication-policy=automatic --labels=team=ml");
    gcloud.ok(&format!("secrets versions add keys --data-file={file}"));
    assert_eq!(
        server.payload("p", "keys"),
        "{\"a\": \"sk-0123456789abcdef\"}\n"
    );
    server.put("p", "keys", "{\"b\": \"written here\"}");
    let read = gcloud.ok("secrets versions access latest --secret=keys");
    assert_eq!(read, "{\"b\": \"written here\"}");
    let shown = gcloud.ok("secrets describe keys --format=json");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["labels"]["team"], "ml");
    assert_eq!(shown["etag"], server.secret("p", "keys")["etag"]);
    let listed = gcloud.ok("secrets list --filter=labels.team=ml --format=value(name)");
    assert_eq!(listed.trim(), "keys");
    let etag = shown["etag"].as_str().expect("an etag");
    gcloud.ok(&format!(
        "secrets update keys --update-annotations=note=x --etag={etag}"
    ));
    let stale = gcloud.fails(&format!(
        "secrets update keys --update-annotations=note=y --etag={etag}"
    ));
    assert!(stale.contains("FAILED_PRECONDITION"), "{stale}");
    assert_eq!(server.secret("p", "keys")["annotations"]["note"], "x");
    gcloud.ok("secrets versions disable 2 --secret=keys");
    let refused = gcloud.fails("secrets versions access latest --secret=keys");
    assert!(refused.contains("DISABLED"), "{refused}");
    let states = gcloud.ok("secrets versions list keys --format=value(name,state)");
    assert_eq!(states, "2\tdisabled\n1\tenabled\n");
    gcloud.ok("secrets versions enable 2 --secret=keys");
    gcloud.ok("secrets versions destroy 1 --secret=keys");
    let one = gcloud.ok("secrets versions describe 1 --secret=keys --format=value(state)");
    assert_eq!(one.trim().to_lowercase(), "destroyed");
    gcloud.ok("secrets delete keys");
    assert!(server.secret("p", "keys").is_null());
    let gone = gcloud.fails("secrets describe keys");
    assert!(gone.contains("NOT_FOUND"), "{gone}");
    let calls = server.calls();
    let is_known = |call: &Call| call.kind.is_some() && call.token.as_deref() == Some(TOKEN);
    assert!(calls.iter().all(is_known), "{calls:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcloud_reads_the_refusals_of_the_fake() {
    let server = SecretManager::with("p", "keys", "{}").await;
    let Some(gcloud) = Gcloud::beside(&server) else {
        return;
    };
    let file = gcloud.path("large");
    write(&file, &"x".repeat((64 << 10) + 1));
    let add = format!("secrets versions add keys --data-file={file}");
    let large = gcloud.fails(&add);
    assert!(
        large.contains("65536") || large.contains("64KiB"),
        "{large}"
    );
    server.require_tokens(&["another"]);
    let unknown = gcloud.fails("secrets describe keys");
    assert!(unknown.contains("UNAUTHENTICATED"), "{unknown}");
    server.require_tokens(&[TOKEN]);
    server.next(Kind::Access, Order::Deny);
    let denied = gcloud.fails("secrets versions access latest --secret=keys");
    assert!(
        denied.contains("PERMISSION_DENIED") && denied.contains("secretmanager.versions.access"),
        "{denied}"
    );
}
