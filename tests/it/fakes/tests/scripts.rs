//! The scripted engine counts, refuses and plays along as it should.

use serde_json::{Value, json};

use crate::fakes::golden;
use crate::fakes::model_server::{Dialect, ModelServer, Settings};
use crate::fakes::wire;

const CHAT: &str = "/v1/chat/completions";

async fn scripted(dialect: Dialect) -> ModelServer {
    ModelServer::start(Settings {
        dialect,
        ..Settings::default()
    })
    .await
}

fn said(text: &str) -> Value {
    json!({"model": "tiny-chat", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn a_prompt_over_the_context_is_refused_and_a_large_output_lowered() {
    let settings = Settings {
        max_model_len: 64,
        ..Settings::default()
    };
    let server = ModelServer::start(settings.clone()).await;
    let long = said(&"word ".repeat(100));
    let reply = wire::post(server.addr(), CHAT, &long).await;
    let text = reply.json()["error"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(reply.status, 400);
    assert!(text.contains("even without any output tokens"), "{text}");

    let mut body = said("Hi [[tokens=1000]]");
    body["max_tokens"] = json!(60);
    let reply = wire::post(server.addr(), CHAT, &body).await.json();
    assert_eq!(reply["usage"]["total_tokens"], 64);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");

    let older = ModelServer::start(Settings {
        refuses_overflow: true,
        ..settings
    })
    .await;
    let reply = wire::post(older.addr(), CHAT, &body).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.text().contains("in the completion"),
        "{}",
        reply.text()
    );
    let prompt = wire::post(older.addr(), "/tokenize", &body).await.json()["count"].clone();
    body["max_tokens"] = json!(64 - prompt.as_u64().expect("a count"));
    assert_eq!(wire::post(older.addr(), CHAT, &body).await.status, 200);
}

#[tokio::test]
async fn running_usage_is_each_choices_own_and_the_last_word_is_the_sum() {
    let server = scripted(Dialect::Python).await;
    let body = json!({
        "prompt": ["one", "two three four"], "max_tokens": 5, "n": 2, "temperature": 1,
        "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    });
    let reply = wire::post(server.addr(), "/v1/completions", &body).await;
    let events = golden::normal_events(&reply.body);
    let usages: Vec<&Value> = events.iter().map(|(_, event)| &event["usage"]).collect();
    let first = &events[0].1;
    assert_eq!(first["usage"]["completion_tokens"], 1);
    assert_eq!(events[2].1["choices"][0]["index"], 2);
    assert!(events[2].1["usage"]["prompt_tokens"].as_u64() > usages[0]["prompt_tokens"].as_u64());
    let last = usages[usages.len() - 2];
    assert_eq!(last["completion_tokens"], 20);
    let call = server.calls().pop().expect("a call");
    assert_eq!(json!(call.prompt_tokens), last["prompt_tokens"]);
    assert_eq!(call.completion_tokens, 20);
}

#[tokio::test]
async fn what_the_metrics_count_is_what_the_book_says() {
    let server = scripted(Dialect::Python).await;
    wire::post(server.addr(), CHAT, &said("Hi [[tokens=7]]")).await;
    wire::post(server.addr(), CHAT, &said("Hi again [[tokens=30]]")).await;
    let made: u64 = server
        .calls()
        .iter()
        .map(|call| call.completion_tokens)
        .sum();
    assert_eq!(made, 37);
    let read: u64 = server.calls().iter().map(|call| call.prompt_tokens).sum();
    let page = wire::exchange(server.addr(), "GET /metrics", &[], b"")
        .await
        .expect("a page")
        .text();
    let total = |name: &str, count: u64| {
        let line =
            format!("vllm:{name}_tokens_total{{engine=\"0\",model_name=\"tiny-chat\"}} {count}.0");
        assert!(page.contains(&line), "{line} in {page}");
    };
    total("prompt", read);
    total("generation", made);
}

#[tokio::test]
async fn a_server_that_is_not_vllm_knows_less() {
    let server = scripted(Dialect::Foreign).await;
    for path in ["/version", "/metrics"] {
        let reply = wire::exchange(server.addr(), &format!("GET {path}"), &[], b"").await;
        assert_eq!(reply.expect("an answer").status, 404);
    }
    assert_eq!(
        wire::post(server.addr(), "/tokenize", &said("Hi"))
            .await
            .status,
        404
    );
    let mut body = said("Hi");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let text = wire::post(server.addr(), CHAT, &body).await.text();
    assert_eq!(text.matches("\"usage\"").count(), 1);
    body["stream_options"]["continuous_usage_stats"] = json!(true);
    let reply = wire::post(server.addr(), CHAT, &body).await;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.json()["error"]["param"],
        "stream_options.continuous_usage_stats"
    );
}

#[tokio::test]
async fn a_key_guards_what_is_under_v1() {
    let settings = Settings {
        api_key: Some("sk-up".into()),
        ..Settings::default()
    };
    let server = ModelServer::start(settings).await;
    let reply = wire::post(server.addr(), CHAT, &said("Hi")).await;
    assert_eq!(
        (reply.status, reply.json()),
        (401, json!({"error": "Unauthorized"}))
    );
    let headers = [
        ("authorization", "Bearer sk-up"),
        ("x-request-id", "abc-123"),
    ];
    let body = said("Hi").to_string();
    let line = format!("POST {CHAT}");
    let reply = wire::exchange(server.addr(), &line, &headers, body.as_bytes()).await;
    assert_eq!(reply.expect("an answer").json()["id"], "chatcmpl-abc-123");
    assert_eq!(
        wire::post(server.addr(), "/tokenize", &said("Hi"))
            .await
            .status,
        200
    );
    assert_eq!(
        server
            .call("abc-123")
            .expect("the call")
            .header("authorization"),
        "Bearer sk-up"
    );
    assert_eq!(server.model_calls().len(), 2);
}

#[tokio::test]
async fn a_pooling_server_embeds_ranks_scores_and_listens() {
    let server = ModelServer::start(Settings {
        pooling: true,
        ..Settings::default()
    })
    .await;
    let embed = |format: &str| json!({"input": ["same", "same"], "encoding_format": format});
    let reply = wire::post(server.addr(), "/v1/embeddings", &embed("float"))
        .await
        .json();
    assert_eq!(reply["data"][0]["embedding"], reply["data"][1]["embedding"]);
    assert_eq!(reply["usage"]["prompt_tokens"], 2);
    let packed = wire::post(server.addr(), "/v1/embeddings", &embed("base64"))
        .await
        .json();
    assert!(packed["data"][0]["embedding"].is_string());
    let body = json!({"query": "a cat", "documents": ["zzz zzz", "a cat"], "top_n": 1});
    let ranked = wire::post(server.addr(), "/v1/rerank", &body).await.json();
    assert_eq!(ranked["results"][0]["index"], 1);
    assert_eq!(ranked["results"].as_array().map(Vec::len), Some(1));
    let body = json!({"text_1": "a", "text_2": ["a", "b"]});
    let scored = wire::post(server.addr(), "/v1/score", &body).await.json();
    assert_eq!(scored["data"].as_array().map(Vec::len), Some(2));

    for (stream, path) in [("false", "transcriptions"), ("true", "translations")] {
        let field = |name: &str, more: &str, value: &str| {
            format!(
                "--XX\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n{value}\r\n"
            )
        };
        let body = field("model", "", "tiny-chat")
            + &field("stream", "", stream)
            + &field(
                "file",
                "; filename=\"a.wav\"\r\nContent-Type: audio/wav",
                "12345",
            )
            + "--XX--\r\n";
        let headers = [("content-type", "multipart/form-data; boundary=XX")];
        let line = format!("POST /v1/audio/{path}");
        let reply = wire::exchange(server.addr(), &line, &headers, body.as_bytes()).await;
        let reply = reply.expect("an answer");
        let words: String = match stream {
            "true" => golden::chat_content(&reply.body)[0]["text"]
                .as_str()
                .unwrap_or("")
                .into(),
            _ => reply.json()["text"].as_str().unwrap_or("").into(),
        };
        assert_eq!(words, "I heard 5 bytes.");
    }
}

/// Tools with the names and fields that OpenCode's have.
fn agent_tools() -> Value {
    let tool = |name: &str, properties: &[&str]| {
        let properties: Value = properties
            .iter()
            .map(|key| ((*key).to_owned(), json!({"type": "string"})))
            .collect();
        let parameters = json!({"type": "object", "properties": properties});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    json!([
        tool("bash", &["command", "timeout", "description"]),
        tool("read", &["filePath", "offset"]),
        tool("write", &["content", "filePath"]),
    ])
}

/// The turn of an agent as OpenCode plays it: tools with its names, results as tool messages.
#[tokio::test]
async fn the_agents_turn_plays_through() {
    let server = scripted(Dialect::Python).await;
    let tools = agent_tools();
    let title = wire::post(server.addr(), CHAT, &said("Title for: [[agent]] make x"))
        .await
        .json();
    assert_eq!(
        title["choices"][0]["message"]["content"],
        "A scripted session"
    );

    let mut messages = vec![
        json!({"role": "system", "content": "You are an agent."}),
        json!({"role": "user", "content": "\"[[agent]] Make /tmp/x/hello.txt, please\""}),
    ];
    let expected = [
        (
            "write",
            json!({"content": "written by the scripted agent\n", "filePath": "/tmp/x/hello.txt"}),
        ),
        (
            "bash",
            json!({"command": "cat '/tmp/x/hello.txt'", "description": "Shows the file"}),
        ),
        ("read", json!({"filePath": "/tmp/x/hello.txt"})),
    ];
    for (at, (name, arguments)) in expected.into_iter().enumerate() {
        let body = json!({"messages": messages, "tools": tools, "stream": true});
        let reply = wire::post(server.addr(), CHAT, &body).await;
        let choice = golden::chat_content(&reply.body)[0].clone();
        assert_eq!(choice["finish"], "tool_calls", "{}", reply.text());
        assert_eq!(choice["name"], name);
        let sent: Value =
            serde_json::from_str(choice["arguments"].as_str().unwrap_or("")).expect("JSON");
        assert_eq!(sent, arguments);
        let call = json!({"id": format!("call_{at}"), "type": "function",
            "function": {"name": name, "arguments": choice["arguments"]}});
        messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
        messages.push(json!({"role": "tool", "tool_call_id": format!("call_{at}"),
            "content": format!("result {at}")}));
    }
    let body = json!({"messages": messages, "tools": tools});
    let last = wire::post(server.addr(), CHAT, &body).await.json();
    let text = last["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default();
    assert!(
        text.contains("<<result 0>> <<result 1>> <<result 2>>"),
        "{text}"
    );
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
}
