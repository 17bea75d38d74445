//! A gateway between a model server and a table of BigQuery, and what became of its calls.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::fakes::google::bigquery::{BigQuery, Operation};
use crate::fakes::model_server::{ModelServer, Settings};
use crate::harness::{Gate, PATIENCE};

pub const PROJECT: &str = "my-project";
pub const DATASET: &str = "metering";
pub const TABLE: &str = "usage";

/// Three programs, and the calls that were answered.
pub struct Bench {
    pub gate: Gate,
    pub bigquery: BigQuery,
    pub model_server: ModelServer,
    pub admitted: BTreeSet<String>,
}

/// Where the rows of all calls are.
#[derive(Debug)]
pub struct Figures {
    pub admitted: usize,
    pub in_table: usize,
    /// Rows of the table beyond the first of each call.
    pub duplicates: usize,
    pub in_log_only: usize,
}

impl Bench {
    /// With a table that was made long ago.
    pub async fn new(settings: &[(&str, &str)]) -> Self {
        let bigquery = BigQuery::with_dataset(PROJECT, DATASET).await;
        bigquery.make_table(PROJECT, DATASET, &resource());
        Self::before(bigquery, settings).await
    }

    /// With BigQuery as it is.
    pub async fn before(bigquery: BigQuery, settings: &[(&str, &str)]) -> Self {
        let model_server = ModelServer::start(Settings::default()).await;
        let gate = gate(&model_server, &bigquery, settings).await;
        Self {
            gate,
            bigquery,
            model_server,
            admitted: BTreeSet::new(),
        }
    }

    /// Makes calls, all at once.
    pub async fn call(&mut self, count: usize) {
        let body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]});
        let calls = (0..count).map(|_| self.gate.post("/v1/chat/completions", &body));
        for reply in join_all(calls).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
            self.admitted
                .insert(reply.header("x-request-id").to_owned());
        }
    }

    /// Request ids in the table, as often as they are there.
    pub fn table(&self) -> Vec<String> {
        let rows = self.bigquery.rows(PROJECT, DATASET, TABLE);
        rows.iter().map(|row| text(&row["request_id"])).collect()
    }

    /// Waits until the rows of so many calls are in the table.
    pub async fn until_in_table(&self, calls: usize) {
        let here = || self.table().into_iter().collect::<BTreeSet<_>>().len();
        eventually(&format!("{calls} rows in the table"), || async {
            here() >= calls
        })
        .await;
    }

    /// Waits until rows were sent so often.
    pub async fn until_sent(&self, times: usize) {
        let is_insert = |operation| operation == Operation::InsertAll;
        eventually(&format!("{times} inserts"), || async {
            let calls = self.bigquery.calls();
            calls
                .iter()
                .filter(|call| is_insert(call.operation))
                .count()
                >= times
        })
        .await;
    }

    /// The part of `/admin/status` about rows.
    pub async fn status(&self) -> Value {
        self.gate.admin("/admin/status").await.json()["rows"].clone()
    }

    /// Waits until the gateway says such a thing of its sink.
    pub async fn until_failing(&self, words: &str) -> String {
        let said = || async { text(&self.status().await["failing"]) };
        let speaks = |said: String| !said.is_empty() && said.contains(words);
        eventually(words, || async { speaks(said().await) }).await;
        said().await
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.gate.admin("/metrics").await.text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// The one log line with these words in its message, once it is there.
    pub async fn told_once(&self, words: &str) -> Value {
        eventually(words, || async { !self.told(words).is_empty() }).await;
        let told = self.told(words);
        assert_eq!(told.len(), 1, "{told:#?}");
        told[0].clone()
    }

    /// The log lines that an operator looks for after rows went missing: `docs/operations.md`.
    pub fn alarms(&self) -> Vec<Value> {
        let mut lines = self.told("in the log alone");
        lines.retain(|line| text(&line["message"]).contains("rows"));
        lines
    }

    /// The log lines so far with these words in their message.
    pub fn told(&self, words: &str) -> Vec<Value> {
        let mut lines = self.gate.log();
        lines.retain(|line| text(&line["message"]).contains(words));
        lines
    }

    /// Holds table and log against the calls: each has one line in the log, and in the table there
    /// is nothing else.
    pub async fn figures(&mut self) -> Figures {
        let logged = self.gate.rows(self.admitted.len()).await;
        let logged: Vec<String> = logged.iter().map(|row| text(&row["request_id"])).collect();
        let distinct: BTreeSet<String> = logged.iter().cloned().collect();
        assert_eq!(logged.len(), distinct.len(), "each call has one line");
        assert_eq!(distinct, self.admitted);
        let table = self.table();
        let in_table: BTreeSet<String> = table.iter().cloned().collect();
        assert!(in_table.is_subset(&self.admitted));
        Figures {
            admitted: self.admitted.len(),
            in_table: in_table.len(),
            duplicates: table.len() - in_table.len(),
            in_log_only: self.admitted.len() - in_table.len(),
        }
    }
}

pub async fn gate(
    model_server: &ModelServer,
    bigquery: &BigQuery,
    settings: &[(&str, &str)],
) -> Gate {
    let url = bigquery.url();
    let mut all = vec![
        ("BIGQUERY_ENDPOINT", url.as_str()),
        ("BIGQUERY_DATASET", DATASET),
        ("GCP_PROJECT", PROJECT),
    ];
    all.extend_from_slice(settings);
    Gate::with(&model_server.url(), &all).await
}

/// The table as the gateway makes it.
pub fn resource() -> Value {
    let columns: Value =
        serde_json::from_str(include_str!("../../../schema/usage.json")).expect("columns");
    json!({
        "tableReference": {"projectId": PROJECT, "datasetId": DATASET, "tableId": TABLE},
        "schema": {"fields": columns},
        "timePartitioning": {"type": "DAY", "field": "started_at"},
        "clustering": {"fields": ["key_name", "model"]},
    })
}

/// The same without some columns.
pub fn resource_without(names: &[&str]) -> Value {
    let mut resource = resource();
    let fields = resource["schema"]["fields"]
        .as_array_mut()
        .expect("columns");
    fields.retain(|field| !names.contains(&text(&field["name"]).as_str()));
    resource
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Looks again until it is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let looks = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, looks).await;
    assert!(in_time.is_ok(), "did not happen: {what}");
}
