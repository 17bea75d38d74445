//! Which instance it was: columns of rows and links to traces, from Cloud Run's metadata server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::calls::{chat, row_of, with};
use super::fakes::google::metadata::{INSTANCE_ID, Metadata, PROJECT, REGION, Trouble};
use super::fakes::model_server::{ModelServer, Settings};
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";

fn plain() -> Value {
    with(chat(), "stream", json!(false))
}

#[tokio::test]
async fn rows_and_traces_carry_what_the_metadata_server_says_of_the_instance() {
    let metadata = Metadata::start().await;
    let server = ModelServer::start(Settings::default()).await;
    let host = metadata.host();
    let cloud_run = [
        ("K_SERVICE", "gate"),
        ("K_REVISION", "gate-7"),
        ("HOST", "127.0.0.1"),
        ("GCE_METADATA_HOST", &host),
    ];
    let mut gate = Gate::with(&server.url(), &cloud_run).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", traceparent.as_str()),
    ];
    let body = plain().to_string();
    let reply = gate
        .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(row["region"], REGION);
    assert_eq!(row["instance_id"], INSTANCE_ID);
    assert_eq!(
        (&row["service"], &row["revision"]),
        (&json!("gate"), &json!("gate-7"))
    );
    let link = format!("projects/{PROJECT}/traces/{trace}");
    assert!(Value::from(gate.log()).to_string().contains(&link));
    let status = gate.admin("/admin/status").await.json();
    assert_eq!(status["instance"], INSTANCE_ID);
}

#[tokio::test]
async fn a_metadata_server_that_tells_nothing_keeps_no_gateway_from_starting() {
    let metadata = Metadata::start().await;
    let server = ModelServer::start(Settings::default()).await;
    let host = metadata.host();
    let cloud_run = [
        ("K_SERVICE", "gate"),
        ("HOST", "127.0.0.1"),
        ("GCE_METADATA_HOST", &host),
    ];
    for trouble in [Trouble::Fails(500), Trouble::Hangs] {
        metadata.heal();
        metadata.trouble("", trouble);
        let began = Instant::now();
        let mut gate = Gate::with(&server.url(), &cloud_run).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?}");
        let reply = gate.post(CHAT, &plain()).await;
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["region"], "");
        assert_eq!(row["instance_id"].as_str().map(str::len), Some(8));
        let log = gate.log();
        let warnings = log.iter().filter(|line| line["severity"] == "WARNING");
        let warnings: Vec<_> = warnings
            .filter(|line| line["message"].to_string().contains("metadata server"))
            .collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}
