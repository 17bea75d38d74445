//! Google's own `bq` talks to the fake of BigQuery: what the real client accepts is what the
//! gateway's client meets.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fakes::google::bigquery::{BigQuery, Operation};

const TOKEN: &str = "token-of-a-test";

/// `bq` with a home of its own.
struct Bq {
    program: PathBuf,
    api: String,
    home: TempDir,
}

impl Bq {
    /// `None` where it is not installed; then it is said what is skipped.
    fn of(server: &BigQuery) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join("bq"));
        let Some(program) = found.into_iter().find_map(|bq| bq.canonicalize().ok()) else {
            eprintln!("skipped: the fake of BigQuery with the real bq: bq is not installed");
            return None;
        };
        let discovery = program
            .parent()
            .map(|bin| bin.join("../platform/bq/discovery_next/bigquery.json"));
        let Some(discovery) = discovery.filter(|document| document.is_file()) else {
            eprintln!(
                "skipped: the fake of BigQuery with the real bq: it has no description of its API"
            );
            return None;
        };
        server.serve_discovery(&discovery);
        server.require_bearer(TOKEN);
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), TOKEN).expect("a token file");
        Some(Self {
            program,
            api: server.url(),
            home,
        })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let home = self.home.path();
        Command::new(&self.program)
            .args([
                "--api",
                &self.api,
                "--project_id=p-1",
                "--format=json",
                "--headless",
            ])
            .args(arguments)
            .current_dir(home)
            .env("HOME", home)
            .env("BIGQUERYRC", home.join("bigqueryrc"))
            .env("CLOUDSDK_CONFIG", home.join("gcloud"))
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", home.join("token"))
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            .output()
            .expect("bq runs")
    }

    /// What it printed, when it ended well.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let shown = shown(&output);
        assert!(output.status.success(), "{arguments:?}: {shown}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }
}

fn shown(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_bq_makes_fills_shows_and_queries_a_table() {
    let server = BigQuery::start().await;
    let Some(bq) = Bq::of(&server) else { return };
    bq.ok(&["mk", "--dataset", "--label=team:ml", "p-1:llm"]);
    let again = bq.run(&["mk", "--dataset", "p-1:llm"]);
    assert!(
        shown(&again).contains("already exists"),
        "{}",
        shown(&again)
    );

    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/usage.json");
    bq.ok(&[
        "mk",
        "--table",
        "--time_partitioning_type=DAY",
        "--time_partitioning_field=started_at",
        "--clustering_fields=key_name,model",
        "--label=environment:production",
        "p-1:llm.usage",
        schema.to_str().expect("a path"),
    ]);
    let table = bq.json(&["show", "p-1:llm.usage"]);
    assert_eq!(table["timePartitioning"]["field"], "started_at");
    assert_eq!(table["clustering"]["fields"], json!(["key_name", "model"]));
    let written: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(&schema).expect("a schema")).expect("JSON");
    let shown_fields = table["schema"]["fields"].as_array().expect("columns");
    assert_eq!(shown_fields.len(), written.len());
    assert_eq!(shown_fields[12]["type"], "BOOLEAN");

    let rows = bq.home.path().join("rows.json");
    let row = |id: &str, tokens: i64| row(id, tokens).to_string();
    std::fs::write(&rows, [row("a", 3), row("b", 4)].join("\n")).expect("rows");
    bq.ok(&["insert", "p-1:llm.usage", rows.to_str().expect("a path")]);
    assert_eq!(server.rows("p-1", "llm", "usage").len(), 2);
    assert_eq!(server.calls_of(Operation::InsertAll).len(), 1);

    let wrong = json!({"request_id": "c", "no_such": 1}).to_string();
    std::fs::write(&rows, wrong).expect("rows");
    let refused = bq.run(&["insert", "p-1:llm.usage", rows.to_str().expect("a path")]);
    assert!(!refused.status.success());
    assert!(
        shown(&refused).contains("no such field: no_such"),
        "{}",
        shown(&refused)
    );
    let head = bq.json(&["head", "-n", "1", "p-1:llm.usage"]);
    assert_eq!(head[0]["request_id"], "a", "{head}");
    assert_eq!(head[0]["started_at"], "2026-11-01 10:00:00", "{head}");

    let missing = bq.run(&["show", "p-1:llm.nothing"]);
    assert!(
        shown(&missing).contains("Not found: Table p-1:llm.nothing"),
        "{}",
        shown(&missing)
    );

    if BigQuery::can_query_or_says_so("bq query") {
        query(&bq);
    }
    bq.ok(&["rm", "-f", "-t", "p-1:llm.usage"]);
    assert_eq!(server.table("p-1", "llm", "usage"), None);
}

fn query(bq: &Bq) {
    let sums = bq.json(&[
        "query",
        "--use_legacy_sql=false",
        "--parameter=name:STRING:ci",
        "SELECT key_name, COUNT(*) AS requests, SUM(total_tokens) AS total, MIN(started_at) AS first \
         FROM `p-1.llm.usage` WHERE key_name = @name GROUP BY 1",
    ]);
    assert_eq!(
        sums,
        json!([{"key_name": "ci", "requests": "2", "total": "7", "first": "2026-11-01 10:00:00"}])
    );
    let wrong = bq.run(&[
        "query",
        "--use_legacy_sql=false",
        "SELECT no_such FROM llm.usage",
    ]);
    assert!(!wrong.status.success(), "{}", shown(&wrong));
    let missing = bq.run(&[
        "query",
        "--use_legacy_sql=false",
        "SELECT 1 FROM llm.nothing",
    ]);
    assert!(
        shown(&missing).contains("Not found: Table"),
        "{}",
        shown(&missing)
    );
}

/// A row with every required column.
fn row(id: &str, tokens: i64) -> Value {
    json!({
        "request_id": id, "started_at": "2026-11-01T10:00:00Z", "finished_at": "2026-11-01T10:00:01Z",
        "principal": "service", "key_name": "ci", "upstream": "u", "endpoint": "/v1/chat/completions",
        "stream": true, "status": 200, "outcome": "complete", "prompt_tokens": 1, "cached_tokens": 0,
        "completion_tokens": tokens - 1, "total_tokens": tokens, "counted_by": "engine", "attempts": 1,
        "wait_ms": 0, "duration_ms": 1000, "request_bytes": 10, "response_bytes": 20, "service": "",
        "revision": "", "instance_id": "i", "region": "", "labels": [{"key": "team", "value": "ml"}],
    })
}
