//! What `tollgate check` says of the services that the configuration names.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::fakes::google::bigquery::{BigQuery, Fault, Operation};
use super::super::fakes::google::metadata::{ACCOUNT, IDENTITY, Metadata, PROJECT, Trouble};
use super::super::fakes::google::secret_manager::{Kind, Order, SecretManager};
use super::super::harness::reserve_port;
use super::tollgate;

const SECRET: &str = "vllm-api-keys";
const DATASET: &str = "usage_rows";
const KEY: &str = "sk-known-to-nobody-0123456789";

/// What `check` ended with.
struct Checked {
    code: Option<i32>,
    report: Value,
    /// Standard output and standard error.
    said: String,
    took: Duration,
}

impl Checked {
    /// The result and the text of a check.
    fn of(&self, name: &str) -> (&str, &str) {
        let checks = self.report["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no {name}: {}", self.said));
        let part = |key: &str| check[key].as_str().expect("a text");
        (part("result"), part("text"))
    }

    fn list(&self, name: &str) -> String {
        self.report[name].to_string()
    }
}

/// The services of a gateway on Cloud Run.
struct Services {
    metadata: Metadata,
    secrets: SecretManager,
    bigquery: BigQuery,
}

impl Services {
    async fn start() -> Self {
        let keys = json!({"ci": KEY, "ops": {"key": "sk-another-0123456789abcdef"}, "bad": null});
        Self {
            metadata: Metadata::start().await,
            secrets: SecretManager::with(PROJECT, SECRET, &keys.to_string()).await,
            bigquery: BigQuery::with_dataset(PROJECT, DATASET).await,
        }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let (secrets, bigquery) = (self.secrets.url(), self.bigquery.url());
        let host = self.metadata.host();
        variables(&[
            ("K_SERVICE", "gate"),
            ("GCE_METADATA_HOST", &host),
            ("SECRET_MANAGER_ENDPOINT", &secrets),
            ("BIGQUERY_ENDPOINT", &bigquery),
            ("BIGQUERY_DATASET", DATASET),
            ("VLLM_ENDPOINT", "https://m-abc-ew.a.run.app"),
        ])
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Runs it beside the servers, which live on this thread.
async fn check(variables: Vec<(String, String)>, more: &'static [&'static str]) -> Checked {
    let began = Instant::now();
    let output = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let pairs: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let arguments = [&["check", "--json"], more].concat();
        tollgate(folder.path(), &pairs, &arguments)
    });
    let output = output.await.expect("it ran");
    let said = [output.stdout.clone(), output.stderr].concat();
    Checked {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout).expect("a report"),
        said: String::from_utf8(said).expect("text"),
        took: began.elapsed(),
    }
}

#[tokio::test]
async fn services_that_let_the_gateway_in_are_named() {
    let services = Services::start().await;
    services.secrets.require_tokens_of(&services.metadata);
    let checked = check(services.variables(), &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    let (result, text) = checked.of("API_KEYS_SECRET_NAME");
    assert_eq!(result, "ok");
    assert!(
        text.starts_with("2 keys") && text.contains(SECRET),
        "{text}"
    );
    let (result, text) = checked.of("UPSTREAM_AUTH");
    assert_eq!(result, "ok");
    for word in [ACCOUNT, "https://m-abc-ew.a.run.app"] {
        assert!(text.contains(word), "{text}");
    }
    let (result, text) = checked.of("BIGQUERY_DATASET");
    assert_eq!(result, "ok", "{text}");
    let warnings = checked.list("warnings");
    assert!(warnings.contains("`bad` is left out"), "{warnings}");
    assert!(services.bigquery.table(PROJECT, DATASET, "usage").is_none());
    let tokens = services.metadata.tokens().all();
    for secret in tokens.iter().map(String::as_str).chain([KEY]) {
        assert!(!checked.said.contains(secret));
    }
}

#[tokio::test]
async fn what_has_to_be_changed_is_a_fault() {
    let services = Services::start().await;
    services.metadata.trouble(IDENTITY, Trouble::Fails(404));
    let mut variables = services.variables();
    variables.push(("API_KEYS_SECRET_NAME".to_owned(), "other".to_owned()));
    variables.push(("BIGQUERY_DATASET".to_owned(), "elsewhere".to_owned()));
    let checked = check(variables, &[]).await;
    assert_eq!(checked.code, Some(64), "{}", checked.said);
    for name in ["API_KEYS_SECRET_NAME", "BIGQUERY_DATASET", "UPSTREAM_AUTH"] {
        assert_eq!(checked.of(name).0, "fault", "{}", checked.said);
        assert!(checked.said.contains(&format!("\n  {name}: ")));
    }
    assert_eq!(checked.report["ok"], false);
    assert_eq!(checked.report["faults"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn who_does_not_answer_could_not_be_checked() {
    let services = Services::start().await;
    services.metadata.trouble(IDENTITY, Trouble::Fails(503));
    services
        .secrets
        .always(Kind::Access, Some(Order::Refuse(503)));
    let (_kept, addr) = reserve_port();
    let mut variables = services.variables();
    variables.push(("BIGQUERY_ENDPOINT".to_owned(), format!("http://{addr}")));
    let checked = check(variables, &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    let warnings = checked.list("warnings");
    for name in ["API_KEYS_SECRET_NAME", "BIGQUERY_DATASET", "UPSTREAM_AUTH"] {
        assert_eq!(checked.of(name).0, "unknown", "{}", checked.said);
        let words = format!("{name}: could not be checked");
        assert!(warnings.contains(&words), "{warnings}");
    }
    assert!(checked.took < Duration::from_secs(20), "{:?}", checked.took);
}

#[tokio::test]
async fn who_hangs_does_not_hold_it() {
    let services = Services::start().await;
    services.metadata.trouble(IDENTITY, Trouble::Hangs);
    services.secrets.always(Kind::Access, Some(Order::Swallow));
    services.bigquery.always(Operation::Any, Fault::Never);
    let checked = check(services.variables(), &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    let checks = checked.report["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 3);
    assert!(checks.iter().all(|check| check["result"] == "unknown"));
    assert!(checked.took < Duration::from_secs(16), "{:?}", checked.took);
}

#[tokio::test]
async fn the_right_to_write_rows_is_asked_for_and_no_row_is_written() {
    let services = Services::start().await;
    let columns = json!([{"name": "request_id", "type": "STRING", "mode": "REQUIRED"}]);
    let table = json!({"tableReference": {"tableId": "usage"}, "schema": {"fields": columns}});
    services.bigquery.make_table(PROJECT, DATASET, &table);
    let checked = check(services.variables(), &[]).await;
    let (result, text) = checked.of("BIGQUERY_DATASET");
    assert_eq!(result, "ok", "{}", checked.said);
    assert!(
        text.contains("columns will be added: client_request_id"),
        "{text}"
    );
    assert!(!text.contains("not known"), "{text}");
    services.bigquery.withhold("bigquery.tables.updateData");
    let checked = check(services.variables(), &[]).await;
    assert_eq!(checked.code, Some(64), "{}", checked.said);
    let (result, text) = checked.of("BIGQUERY_DATASET");
    assert_ne!(result, "ok");
    assert!(text.contains("roles/bigquery.dataEditor"), "{text}");
    for changing in [
        Operation::InsertAll,
        Operation::TablesChange,
        Operation::TablesInsert,
    ] {
        assert!(services.bigquery.calls_of(changing).is_empty());
    }
}

#[tokio::test]
async fn offline_nobody_is_asked() {
    let services = Services::start().await;
    let checked = check(services.variables(), &["--offline"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    for name in ["API_KEYS_SECRET_NAME", "BIGQUERY_DATASET", "UPSTREAM_AUTH"] {
        assert_eq!(checked.of(name).0, "skipped");
    }
    assert_eq!(services.metadata.count(""), 0);
    assert!(services.secrets.calls().is_empty() && services.bigquery.calls().is_empty());
}

#[tokio::test]
async fn with_wrong_variables_nobody_is_asked() {
    let services = Services::start().await;
    let mut variables = services.variables();
    variables.push(("VLLM_ENDPOINT".to_owned(), "http://10.0.0.1".to_owned()));
    variables.push(("UPSTREAM_AUTH".to_owned(), "id_token".to_owned()));
    let checked = check(variables, &[]).await;
    assert_eq!(checked.code, Some(64));
    assert!(checked.said.contains("in clear"), "{}", checked.said);
    assert_eq!(services.metadata.count(""), 0);
}

#[tokio::test]
async fn a_persons_own_login_gives_no_id_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("adc.json");
    let login = json!({"type": "authorized_user", "client_id": "i", "client_secret": "s-hidden", "refresh_token": "r-hidden"});
    std::fs::write(&file, login.to_string()).expect("a file");
    let checked = check(
        variables(&[
            ("GOOGLE_APPLICATION_CREDENTIALS", &file.to_string_lossy()),
            ("VLLM_ENDPOINT", "https://m-abc-ew.a.run.app"),
            ("UPSTREAM_AUTH", "id_token"),
        ]),
        &[],
    );
    let checked = checked.await;
    assert_eq!(checked.code, Some(64), "{}", checked.said);
    let (result, text) = checked.of("UPSTREAM_AUTH");
    assert_eq!(result, "fault");
    assert!(text.contains("--impersonate-service-account"), "{text}");
    assert!(!checked.said.contains("hidden"), "{}", checked.said);
}
