//! Single oddities that several makes share.

use serde_json::{Value, json};

use super::{
    Answer, Behaviour, CHAT, Gate, LIMITED, events, gate_before, known, row_of, server_of, streamed,
};

/// A refusal of members that the server does not know, in a shape of its own.
fn refusals() -> [(u16, Value, Value); 4] {
    let extra = |place: &str| json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options", place], "msg": "Extra inputs are not permitted"}]});
    [
        (
            400,
            json!({"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
            Value::Null,
        ),
        (
            422,
            json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
            Value::Null,
        ),
        (422, extra("include_usage"), Value::Null),
        (400, json!({"error": "unknown field"}), Value::Null),
    ]
}

#[tokio::test]
async fn a_server_that_refuses_stream_options_is_asked_once_more_without_and_not_again() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "FastChat")
        .expect("a make");
    for (status, refusal, expected) in refusals() {
        let server = server_of(&make).await;
        let mut gate = gate_before(&server).await;
        server.next(Behaviour::answer(Answer::json(status, refusal.to_string())));
        for (call, attempts) in [(1, 2), (2, 1), (3, 1)] {
            server.next(Behaviour::answer(events(make.stream)));
            let reply = gate.post(CHAT, &streamed(&make)).await;
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (200, make.stream),
                "{refusal}"
            );
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["attempts"], attempts, "call {call}: {refusal}");
            assert_eq!(row["counted_by"], "estimate");
            let calls = server.model_calls();
            assert_eq!(calls.len(), call + 1, "{refusal}");
            assert_eq!(
                calls.last().expect("a call").json()["stream_options"],
                expected
            );
        }
    }
}

#[tokio::test]
async fn a_refusal_of_something_else_comes_once_and_teaches_nothing() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "llama.cpp")
        .expect("a make");
    let server = server_of(&make).await;
    let gate = gate_before(&server).await;
    let refusal = r#"{"error":{"message":"temperature must be a number","type":"t","code":400}}"#;
    server.next(Behaviour::answer(Answer::json(400, refusal)));
    let reply = gate.post(CHAT, &streamed(&make)).await;
    assert_eq!((reply.status, reply.text().as_str()), (400, refusal));
    assert_eq!(server.model_calls().len(), 1);
    // A member of the client's own: the same again, and usage is still asked for.
    let own = r#"{"error":{"message":"Unrecognized request argument supplied: foo","type":"t","code":400}}"#;
    for _ in 0..2 {
        server.next(Behaviour::answer(Answer::json(400, own)));
    }
    let reply = gate.post(CHAT, &streamed(&make)).await;
    assert_eq!((reply.status, reply.text().as_str()), (400, own));
    server.next(Behaviour::answer(events(make.stream)));
    gate.post(CHAT, &streamed(&make)).await;
    let calls = server.model_calls();
    assert_eq!(
        calls.last().expect("a call").json()["stream_options"]["include_usage"],
        true
    );
}

#[tokio::test]
async fn the_older_name_of_the_maximum_is_used_where_the_newer_is_refused() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "llama.cpp")
        .expect("a make");
    let server = server_of(&make).await;
    let gate = gate_before(&server).await;
    let refusal = r#"{"error":"Unknown field: max_completion_tokens"}"#;
    server.next(Behaviour::answer(Answer::json(422, refusal)));
    let mut asked = streamed(&make);
    asked["max_completion_tokens"] = 50.into();
    for _ in 0..2 {
        server.next(Behaviour::answer(events(make.stream)));
        assert_eq!(gate.post(CHAT, &asked).await.status, 200);
        let calls = server.model_calls();
        let sent = calls.last().expect("a call").json();
        assert_eq!(
            (&sent["max_tokens"], &sent["max_completion_tokens"]),
            (&json!(50), &Value::Null)
        );
    }
    assert_eq!(server.model_calls().len(), 3);
}

#[tokio::test]
async fn a_bounded_call_names_its_maximum_so_that_every_server_knows_it() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "Ollama")
        .expect("a make");
    let server = server_of(&make).await;
    let gate = gate_before(&server).await;
    let mut asked = streamed(&make);
    asked["max_completion_tokens"] = 50.into();
    for (key, expected) in [(super::KEY, Value::Null), (LIMITED, json!(50))] {
        server.next(Behaviour::answer(events(make.stream)));
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let body = asked.to_string();
        let reply = gate
            .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let calls = server.model_calls();
        let sent = calls.last().expect("a call").json();
        assert_eq!(
            (&sent["max_completion_tokens"], &sent["max_tokens"]),
            (&json!(50), &expected)
        );
    }
}

#[tokio::test]
async fn a_count_of_the_first_choice_alone_does_not_pay_for_the_others() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "llama.cpp")
        .expect("a make");
    let server = server_of(&make).await;
    let mut gate = gate_before(&server).await;
    // Each choice has its own chunks, and its own count at the end.
    let second = make.stream.replace("\"index\":0", "\"index\":1");
    let count = make.stream.find("data: {\"choices\":[],").expect("a count");
    let (chunks, end) = make.stream.split_at(count);
    let usage = end.trim_end_matches("data: [DONE]\n\n");
    let both = format!("{chunks}{}{usage}{usage}data: [DONE]\n\n", &second[..count]);
    server.next(Behaviour::answer(events(&both)));
    let mut asked = streamed(&make);
    asked["n"] = 2.into();
    asked["max_tokens"] = 50.into();
    let row = charged_whole(&mut gate, &asked).await;
    assert_eq!(
        (&row["prompt_tokens"], &row["completion_tokens"]),
        (&json!(20), &json!(6))
    );
    // A whole answer counts the first, and nobody sees the rest.
    server.next(Behaviour::answer(Answer::json(200, make.plain)));
    asked["stream"] = false.into();
    charged_whole(&mut gate, &asked).await;
}

/// The row of a call of the limited key that must cost all that was reserved.
async fn charged_whole(gate: &mut Gate, asked: &Value) -> Value {
    let headers = [("content-type", "application/json"), ("x-api-key", LIMITED)];
    let body = asked.to_string();
    let reply = gate
        .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = row_of(gate, &reply).await;
    let (reserved, charged) = super::cost_of(gate, reply.header("x-request-id"));
    assert_eq!(charged, reserved, "{row}");
    row
}

#[tokio::test]
async fn an_error_of_the_server_s_own_is_wrapped_and_not_shown() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "llama-cpp-python")
        .expect("a make");
    let server = server_of(&make).await;
    let gate = gate_before(&server).await;
    let trace = r#"{"error":{"message":"File \"/srv/llama_cpp/app.py\", line 376","type":"internal_server_error","param":null,"code":null}}"#;
    server.next(Behaviour::answer(Answer::json(500, trace)));
    let reply = gate.post(CHAT, &streamed(&make)).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (502, &json!("upstream_error"))
    );
    assert!(!reply.text().contains("app.py"), "{}", reply.text());
    // A route that llama.cpp was not started with.
    let unsupported = r#"{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`","type":"not_supported_error"}}"#;
    server.next(Behaviour::answer(Answer::json(501, unsupported)));
    let reply = gate.post("/v1/embeddings", &json!({"input": "tide"})).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (502, &json!("upstream_error"))
    );
}

#[tokio::test]
async fn plain_words_of_a_refusal_are_shown_and_pages_are_not() {
    let make = known::makes()
        .into_iter()
        .find(|make| make.name == "TGI")
        .expect("a make");
    let server = server_of(&make).await;
    let gate = gate_before(&server).await;
    let words = Answer {
        body: "Failed to deserialize the JSON body: tools: invalid type".to_owned(),
        ..Answer::empty(422).header("content-type", "text/plain; charset=utf-8")
    };
    server.next(Behaviour::answer(words));
    let reply = gate.post(CHAT, &streamed(&make)).await;
    super::check_error(
        &reply,
        422,
        "Failed to deserialize the JSON body: tools: invalid type",
        "TGI",
    );
    server.next(Behaviour::answer(Answer::html(422, "<h1>no</h1>")));
    let reply = gate.post(CHAT, &streamed(&make)).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (422, &json!("invalid_request"))
    );
    assert!(!reply.text().contains("<h1>"));
    server.next(Behaviour::answer(Answer::json(
        422,
        r#"{"error":"no tools","error_type":"tool_error"}"#,
    )));
    let reply = gate.post("/v1/messages", &streamed(&make)).await;
    let expected =
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no tools"}});
    assert_eq!((reply.status, reply.json()), (422, expected));
}
