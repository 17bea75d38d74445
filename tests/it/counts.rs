//! What a row counts is what the engine counted, however the answer is framed and wherever it ends.

use std::time::Duration;

use serde_json::json;

use super::calls::{chat, completion, row_of, streaming, with};
use super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::fakes::raw::Raw;
use super::harness::{Gate, KEY};

#[tokio::test]
async fn a_client_that_leaves_after_the_head_is_charged_the_engine_s_running_count() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let two_prompts = with(
        completion(),
        "prompt",
        json!(["The quick brown fox", "The lazy"]),
    );
    let [chat, text, ..] = streaming();
    for (path, body) in [chat, text, ("/v1/completions", two_prompts)] {
        for more in [json!(1), json!(3)] {
            server.next(Behaviour::tokens(200).paced(Duration::from_millis(10)));
            let body = with(with(body.clone(), "n", more), "max_tokens", json!(400)).to_string();
            let mut wire = gate.wire().await;
            let headers = [("x-api-key", KEY), ("content-type", "application/json")];
            wire.send(&format!("POST {path}"), &headers, body.as_bytes())
                .await
                .expect("sent");
            wire.head().await.expect("a head");
            for _ in 0..20 {
                wire.chunk().await.expect("an event");
            }
            drop(wire);
            let calls = server
                .wait_for(|calls| {
                    calls
                        .last()
                        .is_some_and(|call| call.disconnected_at().is_some())
                })
                .await;
            let call = calls.last().expect("a call");
            let mut wanted = 1;
            let row = loop {
                let rows = gate.rows(wanted).await;
                if let Some(row) = rows
                    .iter()
                    .find(|row| row["request_id"] == call.request_id())
                {
                    break row.clone();
                }
                wanted = rows.len() + 1;
            };
            assert_eq!(
                (&row["outcome"], &row["counted_by"], &row["status"]),
                (&json!("client_abort"), &json!("running"), &json!(200))
            );
            assert_eq!(
                row["prompt_tokens"], call.prompt_tokens,
                "each prompt once, however many choices"
            );
            let told = row["completion_tokens"].as_u64().expect("a count");
            assert!(
                told >= 15 && told <= call.completion_tokens && told + 10 > call.completion_tokens,
                "{told} of {}",
                call.completion_tokens
            );
        }
    }
}

#[tokio::test]
async fn large_answers_pass_whole_and_are_counted() {
    let server = ModelServer::start(Settings {
        max_model_len: 10_000_000,
        ..Settings::default()
    })
    .await;
    let mut gate = Gate::before(&server).await;
    let text = "word ".repeat(40_000);
    for stream in [false, true] {
        server.next(Behaviour::text(&text));
        let reply = gate
            .post(
                "/v1/chat/completions",
                &with(
                    with(chat(), "stream", json!(stream)),
                    "max_tokens",
                    json!(9_000_000),
                ),
            )
            .await;
        assert!(reply.complete && reply.body.len() > text.len());
        let row = row_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(row["completion_tokens"], call.completion_tokens);
        assert_eq!(row["response_bytes"], reply.body.len());
        assert_eq!(row["outcome"], "complete");
        assert_eq!(reply.header("content-length").is_empty(), stream);
    }
}

#[tokio::test]
async fn a_plain_answer_is_counted_however_http_frames_it() {
    let server = Raw::start().await;
    let mut gate = Gate::with(&server.url(), &[]).await;
    let body = r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    let (first, second) = body.split_at(90);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let framed = [
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
        format!(
            "{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        ),
        format!("{head}connection: close\r\n\r\n{body}"),
    ];
    for answer in framed {
        server.next(answer.clone());
        let reply = gate
            .post("/v1/chat/completions", &json!({"messages": []}))
            .await;
        assert_eq!(reply.text(), body, "{answer}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(
            (&row["prompt_tokens"], &row["completion_tokens"]),
            (&json!(5), &json!(2)),
            "{answer}"
        );
        assert_eq!(
            (&row["outcome"], &row["counted_by"]),
            (&json!("complete"), &json!("engine")),
            "{answer}"
        );
    }
    // Shorter than announced: the client must see that it is, and the row that it was cut.
    server.next(format!(
        "{head}content-length: {}\r\n\r\n{first}",
        body.len()
    ));
    let reply = gate
        .post("/v1/chat/completions", &json!({"messages": []}))
        .await;
    assert!(!reply.complete);
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(
        (&row["outcome"], &row["error_code"]),
        (&json!("upstream_error"), &json!("upstream_error"))
    );
}
