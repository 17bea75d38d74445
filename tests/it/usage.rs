//! Usage is always asked for, and shown as the client asked for it: the client sees what it would
//! have seen without the gateway.

use serde_json::{Value, json};

use super::calls::{chat, completion, row_of, streaming, with};
use super::fakes::golden::normal_events;
use super::fakes::model_server::{Behaviour, Dialect, ModelServer, Settings};
use super::fakes::raw::Raw;
use super::fakes::wire;
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";

fn options() -> Vec<Value> {
    vec![
        Value::Null,
        json!({}),
        json!({"include_usage": false}),
        json!({"include_usage": true}),
        json!({"include_usage": true, "continuous_usage_stats": false}),
        json!({"include_usage": true, "continuous_usage_stats": true}),
        json!({"include_usage": false, "continuous_usage_stats": true}),
        json!({"continuous_usage_stats": true}),
    ]
}

#[tokio::test]
async fn a_client_sees_the_usage_that_it_asked_for() {
    for dialect in [Dialect::Python, Dialect::Rust, Dialect::Foreign] {
        let server = ModelServer::start(Settings {
            dialect,
            ..Settings::default()
        })
        .await;
        let mut gate = Gate::before(&server).await;
        for (path, body) in [(CHAT, chat()), ("/v1/completions", completion())] {
            for options in options() {
                let body = with(body.clone(), "stream_options", options.clone());
                let direct = wire::post(server.addr(), path, &body).await;
                let reply = gate.post(path, &body).await;
                let what = format!("{dialect:?} {path} {options}");
                assert_eq!(
                    normal_events(&reply.body),
                    normal_events(&direct.body),
                    "{what}"
                );
                if direct.status != 200 {
                    // A server that does not know the options that the client sent.
                    assert_eq!(reply.status, direct.status, "{what}");
                    continue;
                }
                let row = row_of(&mut gate, &reply).await;
                let call = server.call(reply.header("x-request-id")).expect("a call");
                assert_eq!(row["counted_by"], "engine", "{what}");
                assert_eq!(row["completion_tokens"], call.completion_tokens, "{what}");
                assert_eq!(row["prompt_tokens"], call.prompt_tokens, "{what}");
                let sent = &call.json()["stream_options"];
                assert_eq!(sent["include_usage"], true, "{what}");
                let is_vllm = dialect != Dialect::Foreign;
                assert_eq!(sent["continuous_usage_stats"] == true, is_vllm, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn options_that_stand_twice_cannot_switch_the_count_off() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let body = r#"{"stream": true, "messages": [{"role": "user", "content": "Hello"}],
        "stream_options": {"include_usage": true, "include_us\u0061ge": false}}"#;
    let headers = [("content-type", "application/json")];
    let reply = gate
        .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await;
    assert_eq!(
        (reply.status, reply.json()["error"]["code"].as_str()),
        (400, Some("invalid_request"))
    );
    assert!(server.model_calls().is_empty());
}

#[tokio::test]
async fn servers_that_count_otherwise_are_counted_and_shown_as_they_are() {
    let server = Raw::start().await;
    let mut gate = Gate::with(&server.url(), &[]).await;
    let chunk = |usage: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}},\"finish_reason\":null}}]{usage}}}\n\n"
        )
    };
    let last = |usage: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]{usage}}}\n\n"
        )
    };
    let count = ",\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}";
    let null = ",\"usage\":null";
    let done = "data: [DONE]\n\n";
    let asks = with(chat(), "stream_options", json!({"include_usage": true}));
    for (sent, hidden, by) in [
        // Usage on the last chunk with content.
        (
            [chunk(""), last(count), done.into()].concat(),
            [chunk(""), last(""), done.into()].concat(),
            "engine",
        ),
        // Null on every chunk, then the count.
        (
            [
                chunk(null),
                last(null),
                format!("data: {{\"choices\":[]{count}}}\n\n"),
                done.into(),
            ]
            .concat(),
            [chunk(""), last(""), done.into()].concat(),
            "engine",
        ),
        // Never a word of usage.
        (
            [chunk(""), last(""), done.into()].concat(),
            [chunk(""), last(""), done.into()].concat(),
            "estimate",
        ),
    ] {
        for (body, shown) in [(&chat(), &hidden), (&asks, &sent)] {
            server.next_stream(sent.as_bytes(), true);
            let reply = gate.post(CHAT, body).await;
            assert_eq!(&reply.text(), shown);
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["counted_by"], by, "{sent}");
            assert_eq!(row["outcome"], "complete");
            if by == "engine" {
                assert_eq!(
                    (&row["prompt_tokens"], &row["completion_tokens"]),
                    (&json!(7), &json!(2))
                );
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_usage_is_estimated() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    server.always(Behaviour {
        no_usage: true,
        ..Behaviour::default()
    });
    for (path, body) in streaming().into_iter().take(2) {
        let reply = gate.post(path, &body).await;
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["counted_by"], "estimate", "{path}: {row}");
        let made = server
            .call(reply.header("x-request-id"))
            .expect("a call")
            .completion_tokens;
        let told = row["completion_tokens"].as_u64().expect("a count");
        assert!(told.abs_diff(made) <= 3, "{path}: {told}, in truth {made}");
    }
    let mut plain = chat();
    plain["stream"] = json!(false);
    let reply = gate.post(CHAT, &plain).await;
    assert_eq!(row_of(&mut gate, &reply).await["counted_by"], "estimate");
}

#[tokio::test]
async fn the_fingerprint_stands_where_it_stands_without_the_gateway() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let two = with(with(chat(), "n", json!(2)), "temperature", json!(1));
    // The first stream teaches what the others show even before their usage chunk.
    for body in [chat(), two] {
        let direct = wire::post(server.addr(), CHAT, &body).await;
        let reply = gate.post(CHAT, &body).await;
        assert_eq!(normal_events(&reply.body), normal_events(&direct.body));
        assert!(reply.text().contains("system_fingerprint"));
    }
}

#[tokio::test]
async fn cached_tokens_are_part_of_the_prompt() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    server.always(Behaviour {
        cached_tokens: Some(3),
        ..Behaviour::default()
    });
    for (path, body) in streaming() {
        for stream in [true, false] {
            let reply = gate
                .post(path, &with(body.clone(), "stream", json!(stream)))
                .await;
            let row = row_of(&mut gate, &reply).await;
            let call = server.call(reply.header("x-request-id")).expect("a call");
            assert_eq!(row["cached_tokens"], 3, "{path} {stream}: {row}");
            assert_eq!(row["prompt_tokens"], call.prompt_tokens, "{path} {stream}");
            assert_eq!(
                row["completion_tokens"], call.completion_tokens,
                "{path} {stream}"
            );
            assert_eq!(row["counted_by"], "engine", "{path} {stream}");
        }
    }
}
