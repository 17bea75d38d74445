//! The plain walk of a call: who asks, what goes upstream, what comes back, what is written down.

use serde_json::json;

use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{Gate, KEY};

#[tokio::test]
async fn a_call_is_answered_metered_and_kept() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let body =
        json!({"model": "opencode-llm", "messages": [{"role": "user", "content": "Hello there"}]});
    let reply = gate.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("server"), "");
    let rows = gate.rows(1).await;
    let call = server
        .call(reply.header("x-request-id"))
        .expect("the call reached the model server");
    assert_eq!(rows[0]["prompt_tokens"], call.prompt_tokens);
    assert_eq!(rows[0]["completion_tokens"], call.completion_tokens);
    assert_eq!(rows[0]["outcome"], "complete");
    assert_eq!(rows[0]["counted_by"], "engine");
    assert_eq!(rows[0]["model"], "opencode-llm");
    assert_eq!(call.json()["model"], rows[0]["served_model"]);
    assert!(call.headers.get("x-api-key").is_none());
    assert!(gate.stop().await.success());
    let table = gate.table().await;
    assert_eq!(table.len(), 1);
    assert_eq!(table[0].0, reply.header("x-request-id"));
    let log = serde_json::to_string(&gate.log()).expect("text");
    assert!(!log.contains(KEY), "no key in the log");
}
