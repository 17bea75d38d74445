//! The whole of it as it lives on Google Cloud: a key is made, three instances take it without a
//! restart, what they serve is in BigQuery by the engine's own count, and a revoked key is out.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::calls::{streaming, with};
use super::fakes::google::bigquery::BigQuery;
use super::fakes::google::metadata::Metadata;
use super::fakes::google::secret_manager::SecretManager;
use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{Gate, PATIENCE, command};

const PROJECT: &str = "cloud-project";
const SECRET: &str = "vllm-api-keys";
const DATASET: &str = "llm";
/// Keys are refreshed this often, so that the test need not wait for the usual half minute.
const REFRESH: Duration = Duration::from_secs(2);

/// Google's services, on loopback.
struct Cloud {
    metadata: Metadata,
    secrets: SecretManager,
    rows: BigQuery,
}

impl Cloud {
    async fn start() -> Self {
        let metadata = Metadata::start().await;
        let secrets = SecretManager::start().await;
        secrets.require_tokens_of(&metadata);
        let rows = BigQuery::with_dataset(PROJECT, DATASET).await;
        Self {
            metadata,
            secrets,
            rows,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("API_KEYS_FILE", String::new()),
            ("GCP_PROJECT", PROJECT.to_owned()),
            ("GCE_METADATA_HOST", self.metadata.host()),
            ("SECRET_MANAGER_ENDPOINT", self.secrets.url()),
            ("BIGQUERY_ENDPOINT", self.rows.url()),
        ]
    }

    /// An instance as Cloud Run starts it.
    async fn instance(&self, upstream: &str) -> Gate {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = command(folder.path(), upstream, &[]);
        command
            .envs(self.settings())
            .env("HOST", "127.0.0.1")
            .env("K_SERVICE", "tollgate")
            .env("K_REVISION", "tollgate-00001-abc")
            .env("BIGQUERY_DATASET", DATASET)
            .env("LABELS", "team=ml-platform")
            .env("KEY_REFRESH_SECONDS", REFRESH.as_secs().to_string());
        Gate::run(folder, command).await
    }

    /// `tollgate keys ...` on the secret, as an administrator runs it: what it prints.
    async fn keys(&self, arguments: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = self.administrator(&folder);
        command
            .arg("keys")
            .args(arguments)
            .args(["--project", PROJECT, "--secret", SECRET]);
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.expect("a thread").expect("tollgate keys runs");
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {notes}");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }

    fn administrator(&self, folder: &TempDir) -> Command {
        let mut command = command(folder.path(), "http://127.0.0.1:9", &[]);
        command.envs(self.settings()).stderr(Stdio::piped());
        command
    }

    fn table(&self) -> Vec<Value> {
        let table = (PROJECT, DATASET, "usage");
        self.rows.distinct_rows(table, "request_id")
    }
}

/// Every API, streamed and whole, with this key: the ids of the calls.
async fn call_all(gate: &Gate, key: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for (path, body) in streaming() {
        for stream in [true, false] {
            let body = with(body.clone(), "stream", json!(stream)).to_string();
            let headers = [("content-type", "application/json"), ("x-api-key", key)];
            let line = format!("POST {path}");
            let reply = gate.ask(&line, &headers, body.as_bytes()).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            ids.push(reply.header("x-request-id").to_owned());
        }
    }
    ids
}

async fn status_with(gate: &Gate, key: &str) -> u16 {
    gate.ask("GET /v1/models", &[("x-api-key", key)], b"")
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_and_dies_on_three_instances_and_every_token_is_in_the_table() {
    let cloud = Cloud::start().await;
    let server = ModelServer::start(Settings::default()).await;
    cloud.keys(&["add", "ops", "--admin", "--create"]).await;
    let url = server.url();
    let mut instances = join_all((0..3).map(|_| cloud.instance(&url))).await;

    let key = cloud.keys(&["add", "dev", "--label", "squad=search"]).await;
    let called = join_all(instances.iter().map(|gate| call_all(gate, &key))).await;
    let ids: Vec<String> = called.into_iter().flatten().collect();

    let give_up_at = Instant::now() + PATIENCE;
    while cloud.table().len() < ids.len() {
        assert!(Instant::now() < give_up_at, "{} rows", cloud.table().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let table = cloud.table();
    for id in &ids {
        let row = table.iter().find(|row| row["request_id"] == id.as_str());
        let row = row.unwrap_or_else(|| panic!("no row of {id}"));
        let call = server.call(id).expect("a call");
        let counts = (&row["prompt_tokens"], &row["completion_tokens"]);
        let engine = (call.prompt_tokens, call.completion_tokens);
        assert_eq!(counts, (&json!(engine.0), &json!(engine.1)), "{row}");
        assert_eq!(row["key_name"], "dev");
        let labels =
            json!([{"key": "team", "value": "ml-platform"}, {"key": "squad", "value": "search"}]);
        assert_eq!(row["labels"], labels);
    }

    cloud.keys(&["revoke", "dev"]).await;
    tokio::time::sleep(REFRESH).await;
    for gate in &instances {
        assert_eq!(status_with(gate, &key).await, 401);
    }

    for gate in &mut instances {
        assert!(gate.stop().await.success());
    }
    assert_eq!(cloud.table().len(), ids.len(), "refusals leave no row");
    println!(
        "{} calls on three instances, {} rows",
        ids.len(),
        table.len()
    );
}
