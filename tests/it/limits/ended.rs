//! What a call costs its budget, by how it ended: the engine's count where it is known, nothing if
//! the engine never began, else a bound that the engine's count does not exceed.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::calls::{row_of, with};
use super::super::fakes::model_server::{Answer, Behaviour, Call, Fault, ModelServer, Settings};
use super::super::harness::{Gate, KEY};
use super::{
    CHAT, Cost, cost_of, every_route, every_route_served, hello, limited, limited_with, used,
    worked,
};

const BUDGET: u64 = 200_000;

async fn gate(server: &ModelServer) -> Gate {
    limited(server, json!({"token_limit": BUDGET})).await
}

fn streamed() -> Value {
    with(hello(4_000), "stream", json!(true))
}

/// The APIs that generate, with a maximum of 4,000.
fn generating() -> [(&'static str, Value); 4] {
    let said = json!([{"role": "user", "content": "Hello there"}]);
    [
        (CHAT, json!({"messages": said, "max_tokens": 4_000})),
        (
            "/v1/completions",
            json!({"prompt": "Hello there", "max_tokens": 4_000}),
        ),
        (
            "/v1/responses",
            json!({"input": "Hello there", "max_output_tokens": 4_000}),
        ),
        (
            "/v1/messages",
            json!({"messages": said, "max_tokens": 4_000}),
        ),
    ]
}

#[tokio::test]
async fn a_complete_answer_costs_what_the_engine_counted() {
    let server = every_route_served().await;
    let mut gate = gate(&server).await;
    let mut sum = 0;
    for (path, body) in every_route() {
        let reply = gate.post(path, &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let cost = cost_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(cost.charged, worked(&call), "{path}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["total_tokens"], cost.charged, "{path}");
        assert!(row.get("budget").is_none(), "{path}");
        sum += cost.charged;
        used(&gate, sum).await;
    }
    for (path, body) in generating() {
        let reply = gate.post(path, &with(body, "stream", json!(true))).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let cost = cost_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(cost.charged, worked(&call), "{path}");
        sum += cost.charged;
        used(&gate, sum).await;
    }
}

#[tokio::test]
async fn tool_calls_and_several_choices_cost_what_the_engine_counted() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&server).await;
    let tool = json!({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}}});
    for stream in [false, true] {
        server.next(Behaviour {
            call_tool: Some("look".to_owned()),
            ..Behaviour::default()
        });
        let body = with(hello(400), "tools", json!([tool]));
        let reply = gate.post(CHAT, &with(body, "stream", json!(stream))).await;
        assert!(reply.text().contains("look"), "{}", reply.text());
        let cost = cost_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        assert_eq!(cost.charged, worked(&call), "stream: {stream}");
    }
}

#[tokio::test]
async fn what_the_upstream_refuses_costs_nothing() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&server).await;
    let error = r#"{"error":{"message":"no","type":"x","param":null,"code":"y"}}"#;
    for status in [400, 401, 403, 404, 413, 418, 422, 429, 501, 503] {
        for answer in [
            Answer::json(status, error),
            Answer::html(status, "<p>no</p>"),
        ] {
            for body in [hello(400), streamed()] {
                server.next(Behaviour::answer(answer.clone()));
                let reply = gate.post(CHAT, &body).await;
                assert!(reply.status >= 400, "{status}");
                assert_eq!(reply.header("x-ratelimit-limit-tokens"), BUDGET.to_string());
                let cost = cost_of(&mut gate, &reply).await;
                assert_eq!(cost.charged, 0, "{status}: {cost:?}");
                assert!(cost.reserved > 400, "{cost:?}");
            }
        }
    }
    used(&gate, 0).await;
}

#[tokio::test]
async fn what_fails_without_a_count_costs_what_was_reserved() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&server).await;
    let mut sum = 0;
    // The head of a stream comes before anything is generated.
    for (body, is_charged) in [(hello(400), true), (streamed(), false)] {
        let error = Answer::json(500, r#"{"error":{"message":"no"}}"#);
        server.next(Behaviour::answer(error));
        let reply = gate.post(CHAT, &body).await;
        let cost = cost_of(&mut gate, &reply).await;
        let expected = if is_charged { cost.reserved } else { 0 };
        assert_eq!(cost.charged, expected, "an error: {body}");
        sum += cost.charged;
    }
    for (name, behaviour) in [
        (
            "a bad gateway",
            Behaviour::answer(Answer::html(502, "<p>no</p>")),
        ),
        (
            "a late one",
            Behaviour::answer(Answer::html(504, "<p>no</p>")),
        ),
        ("no answer", Behaviour::fault(Fault::HangUpBeforeHead)),
        ("half an answer", Behaviour::fault(Fault::Cut { after: 0 })),
    ] {
        for body in [hello(400), streamed()] {
            server.next(behaviour.clone());
            let reply = gate.post(CHAT, &body).await;
            let cost = cost_of(&mut gate, &reply).await;
            assert_eq!(cost.charged, cost.reserved, "{name}");
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(
                row["total_tokens"], 0,
                "{name}: the row shows what is known"
            );
            sum += cost.charged;
        }
    }
    used(&gate, sum).await;
}

#[tokio::test]
async fn a_stream_that_breaks_costs_its_last_count_and_what_may_have_gone_on() {
    let server = ModelServer::start(Settings::default()).await;
    let settings = [("UPSTREAM_IDLE_SECONDS", "1")];
    let mut gate = limited_with(&server, json!({"token_limit": BUDGET}), &settings).await;
    let mut sum = 0;
    for fault in [
        Fault::Cut { after: 30 },
        Fault::EndEarly { after: 30 },
        Fault::EngineError { after: 30 },
        Fault::Mute { after: 30 },
    ] {
        let behaviour = Behaviour {
            fault: fault.clone(),
            tokens: Some(300),
            ..Behaviour::default()
        };
        server.next(behaviour.paced(Duration::from_millis(10)));
        let reply = gate.post(CHAT, &streamed()).await;
        let cost = cost_of(&mut gate, &reply).await;
        let call = server.call(reply.header("x-request-id")).expect("a call");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["counted_by"], "running", "{fault:?}");
        check_bound(&cost, &call, &row);
        sum += cost.charged;
    }
    used(&gate, sum).await;
}

/// A charge that the engine's count does not exceed, and the row's count below it.
fn check_bound(cost: &Cost, call: &Call, row: &Value) {
    let known = row["total_tokens"].as_u64().expect("a count");
    let shown = format!("{cost:?}, engine {}, row {known}", worked(call));
    assert!(worked(call) <= cost.charged, "{shown}");
    assert!(known <= cost.charged && known > 0, "{shown}");
    assert!(cost.charged <= cost.reserved, "{shown}");
    assert!(
        cost.charged < cost.reserved,
        "it was worth counting: {shown}"
    );
}

/// When a client leaves.
enum Leaves {
    BeforeHead,
    After(usize),
}

/// Calls, leaves, and returns the row.
async fn leave(
    server: &ModelServer,
    gate: &mut Gate,
    path: &str,
    body: &Value,
    leaves: Leaves,
) -> (Call, Value) {
    let called = |calls: &[Call]| calls.iter().filter(|call| call.path == path).count();
    let before = called(&server.calls());
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    wire.send(
        &format!("POST {path}"),
        &headers,
        body.to_string().as_bytes(),
    )
    .await
    .expect("sent");
    server.wait_for(|calls| called(calls) > before).await;
    if let Leaves::After(chunks) = leaves {
        assert_eq!(wire.head().await.expect("a head").status, 200);
        for _ in 0..chunks {
            wire.chunk().await.expect("an event");
        }
    }
    drop(wire);
    let gone = |calls: &[Call]| {
        calls
            .iter()
            .rfind(|call| call.path == path)
            .is_some_and(|call| call.disconnected_at().is_some())
    };
    let calls = server.wait_for(gone).await;
    let call = calls
        .into_iter()
        .rfind(|call| call.path == path)
        .expect("a call");
    let mut wanted = 1;
    loop {
        let rows = gate.rows(wanted).await;
        if let Some(row) = rows
            .iter()
            .find(|row| row["request_id"] == call.request_id())
        {
            return (call, row.clone());
        }
        wanted = rows.len() + 1;
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_costs_what_was_reserved() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&server).await;
    server.always(Behaviour {
        head_delay: Duration::from_mins(1),
        ..Behaviour::default()
    });
    let mut sum = 0;
    for (path, body) in generating() {
        for stream in [false, true] {
            let body = with(body.clone(), "stream", json!(stream));
            let (call, _) = Box::pin(leave_at_once(&server, &mut gate, path, &body)).await;
            let cost = Cost::of(&gate, call.request_id());
            assert_eq!(cost.charged, cost.reserved, "{path}");
            sum += cost.charged;
        }
    }
    used(&gate, sum).await;
}

async fn leave_at_once(
    server: &ModelServer,
    gate: &mut Gate,
    path: &str,
    body: &Value,
) -> (Call, Value) {
    leave(server, gate, path, body, Leaves::BeforeHead).await
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_costs_its_last_count_and_what_may_have_gone_on() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = gate(&server).await;
    server.always(Behaviour::tokens(390).paced(Duration::from_millis(10)));
    let mut sum = 0;
    for (path, body) in generating() {
        let body = with(body, "stream", json!(true));
        for events in [5, 40] {
            let (call, row) = leave(&server, &mut gate, path, &body, Leaves::After(events)).await;
            assert_eq!(row["outcome"], "client_abort", "{path}");
            let cost = Cost::of(&gate, call.request_id());
            if row["counted_by"] == "running" {
                check_bound(&cost, &call, &row);
            } else {
                assert_eq!(
                    cost.charged, cost.reserved,
                    "{path}: a guess bounds nothing"
                );
            }
            sum += cost.charged;
        }
    }
    used(&gate, sum).await;
}

#[tokio::test]
async fn a_refusal_after_the_head_costs_nothing() {
    let server = ModelServer::start(Settings::default()).await;
    let settings = [("KEEPALIVE_SECONDS", "1")];
    let mut gate = limited_with(&server, json!({"token_limit": BUDGET}), &settings).await;
    server.next(Behaviour {
        head_delay: Duration::from_millis(1500),
        answer: Some(Answer::json(
            400,
            r#"{"error":{"message":"no","code":"y"}}"#,
        )),
        ..Behaviour::default()
    });
    let reply = gate.post(CHAT, &streamed()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(cost_of(&mut gate, &reply).await.charged, 0);
    used(&gate, 0).await;
}

#[tokio::test]
async fn what_never_reaches_an_upstream_costs_nothing() {
    let mut server = ModelServer::start(Settings::default()).await;
    let settings = [("COLD_START_WAIT_SECONDS", "1")];
    let mut gate = limited_with(&server, json!({"token_limit": BUDGET}), &settings).await;
    // The list is known after the first call, and with it that this model is none.
    assert_eq!(gate.post(CHAT, &hello(4)).await.status, 200);
    let reply = gate
        .post(CHAT, &with(hello(4), "model", json!("no-such")))
        .await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), BUDGET.to_string());
    server.stop().await;
    let reply = gate.post(CHAT, &hello(4)).await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert_eq!(cost_of(&mut gate, &reply).await.charged, 0);
    let rows = gate.rows(2).await;
    used(&gate, rows[0]["total_tokens"].as_u64().expect("tokens")).await;
}

#[tokio::test]
async fn what_the_end_of_the_process_cuts_is_settled_before_it() {
    let server = ModelServer::start(Settings::default()).await;
    let settings = [("DRAIN_SECONDS", "4")];
    let mut gate = limited_with(&server, json!({"token_limit": BUDGET}), &settings).await;
    server.next(Behaviour::tokens(390).paced(Duration::from_millis(50)));
    let mut wire = gate.wire().await;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    wire.send(
        &format!("POST {CHAT}"),
        &headers,
        streamed().to_string().as_bytes(),
    )
    .await
    .expect("sent");
    wire.head().await.expect("a head");
    wire.chunk().await.expect("an event");
    assert_eq!(gate.stop().await.code(), Some(0));
    let rows = gate.rows(1).await;
    assert_eq!(rows[0]["outcome"], "drained");
    let id = rows[0]["request_id"].as_str().expect("an id");
    let cost = Cost::of(&gate, id);
    check_bound(&cost, &server.call(id).expect("a call"), &rows[0]);
    // The next process finds it in the store.
    let next = gate.again(&server.url()).await;
    used(&next, cost.charged).await;
}
