//! Streams that make their client wait get comments, so that nothing on the way takes them for dead;
//! what was decided before the upstream spoke is kept when it does.

use std::time::Duration;

use super::calls::{before_error, row_of, streaming};
use super::fakes::golden::normal_events;
use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::Gate;

const COMMENT: &str = ": keep-alive\n\n";
const SLOW: Duration = Duration::from_millis(2600);

async fn eager(server: &ModelServer) -> Gate {
    Gate::with(&server.url(), &[("KEEPALIVE_SECONDS", "1")]).await
}

fn comments(reply: &Reply) -> usize {
    reply.text().matches(COMMENT).count()
}

#[tokio::test]
async fn a_late_head_is_preceded_by_comments() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = eager(&server).await;
    let (path, body) = streaming().into_iter().next().expect("chat");
    let usual = normal_events(&gate.post(path, &body).await.body);
    server.next(Behaviour {
        head_delay: SLOW,
        ..Behaviour::default()
    });
    let reply = gate.post(path, &body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(reply.header("x-accel-buffering"), "no");
    assert_eq!(comments(&reply), 2, "{}", reply.text());
    assert!(reply.text().starts_with(COMMENT));
    assert_eq!(normal_events(&reply.body), usual);
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(
        (&row["outcome"], &row["counted_by"]),
        (&"complete".into(), &"engine".into())
    );
    let first = row["first_byte_ms"].as_u64().expect("a time");
    assert!(first >= 2500, "comments are no data: {first} ms");
    assert_eq!(row["response_bytes"], reply.body.len());
}

#[tokio::test]
async fn silence_between_events_is_filled_with_comments() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = eager(&server).await;
    let (path, body) = streaming().into_iter().next().expect("chat");
    server.next(Behaviour::tokens(2).paced(SLOW));
    let reply = gate.post(path, &body).await;
    assert_eq!(comments(&reply), 4, "{}", reply.text());
    // Whole events stand between the comments.
    let without = reply.text().replace(COMMENT, "");
    assert!(
        without
            .split_inclusive("\n\n")
            .all(|event| event.starts_with("data: "))
    );
    assert!(without.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_refusal_after_the_head_is_an_event_and_the_row_keeps_its_status() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = eager(&server).await;
    for (path, body) in streaming() {
        let refusal = "{\n  \"error\": {\"message\": \"no\\nsuch thing\",\n \"type\": \"BadRequestError\", \"param\": null, \"code\": 400}\n}";
        let answer = Some(Answer::json(400, refusal));
        server.on(
            path,
            Behaviour {
                head_delay: SLOW,
                answer,
                ..Behaviour::default()
            },
        );
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}");
        let events = normal_events(&reply.body);
        assert_eq!(events.len(), 1, "{path}: {}", reply.text());
        let (name, error) = &events[0];
        let object = match path {
            "/v1/responses" => error,
            _ => &error["error"],
        };
        assert_eq!(object["message"], "no\nsuch thing", "{path}: {error}");
        let named = matches!(path, "/v1/responses" | "/v1/messages");
        assert_eq!(name, if named { "error" } else { "" }, "{path}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["status"], 200, "{path}");
        assert_eq!(row["error_code"], "400", "{path}");
        assert_eq!(row["outcome"], "complete", "{path}");
    }
}

#[tokio::test]
async fn a_failure_after_the_head_is_an_error_event() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = eager(&server).await;
    for (path, body) in streaming() {
        let answer = Some(Answer::html(500, "<h1>500</h1>"));
        server.on(
            path,
            Behaviour {
                head_delay: SLOW,
                answer,
                ..Behaviour::default()
            },
        );
        let reply = gate.post(path, &body).await;
        assert_eq!(before_error(path, &reply, 502), [], "{path}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["status"], 200, "{path}");
        assert_eq!(row["error_code"], "upstream_error", "{path}");
        assert_eq!(row["outcome"], "upstream_error", "{path}");
    }
}

#[tokio::test]
async fn a_plain_call_waits_without_a_head() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = eager(&server).await;
    let body = serde_json::json!({"messages": [{"role": "user", "content": "Hello"}]});
    server.next(Behaviour {
        head_delay: SLOW,
        ..Behaviour::default()
    });
    let reply = gate.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["object"],
        "chat.completion",
        "{}",
        reply.text()
    );
    // Nor does a route without streams begin one.
    server.next(Behaviour {
        head_delay: SLOW,
        answer: Some(Answer::json(200, "{\"data\":[]}")),
        ..Behaviour::default()
    });
    let reply = gate
        .post(
            "/v1/embeddings",
            &serde_json::json!({"input": "a", "stream": true}),
        )
        .await;
    assert_eq!(reply.text(), "{\"data\":[]}");
}
