//! What can be wrong behind the gateway: the model server, its credentials, the key's budget.

use serde_json::json;

use super::super::fakes::model_server::{Answer, Behaviour, Fault, ModelServer, Settings};
use super::super::harness::{Gate, KEY};
use super::with_key;

/// vLLM's words when it was started without its flags for tools.
const NO_TOOLS: &str = r#"{"error":{"message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","param":null,"code":400}}"#;

async fn said_of(gate: &Gate, more: &[&str]) -> super::Said {
    let url = format!("http://{}", gate.addr);
    let mut arguments = vec![url.as_str()];
    arguments.extend_from_slice(more);
    with_key(&arguments).await
}

/// A model server and a gateway before it.
async fn pair() -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    (server, gate)
}

fn text(content: &str) -> Behaviour {
    let message = json!({"role": "assistant", "content": content});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7});
    let body = json!({
        "id": "chatcmpl-x", "object": "chat.completion", "created": 1, "model": "tiny-chat",
        "choices": [choice], "usage": usage,
    });
    Behaviour::answer(Answer::json(200, body.to_string()))
}

#[tokio::test]
async fn no_model_is_known() {
    let (server, gate) = pair().await;
    server.on(
        "/v1/models",
        Behaviour::answer(Answer::json(200, r#"{"object":"list","data":[]}"#)),
    );
    let said = said_of(&gate, &[]).await;
    said.breaks_at("models", &["empty", "VLLM_ENDPOINT", "--model"]);
}

#[tokio::test]
async fn the_named_model_is_not_there() {
    let (server, gate) = pair().await;
    let said = said_of(&gate, &["--model", "large-chat"]).await;
    said.breaks_at("models", &["large-chat", "tiny-chat", "MODEL_ALIASES"]);
    assert_eq!(server.model_calls().len(), 0);
}

#[tokio::test]
async fn the_model_server_is_not_there() {
    let server = ModelServer::refusing(Settings::default());
    let gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "1")]).await;
    let said = said_of(&gate, &[]).await;
    said.breaks_at("chat", &["upstream_unreachable", "VLLM_ENDPOINT"]);
}

#[tokio::test]
async fn the_model_server_never_comes_within_the_wait() {
    let server = ModelServer::refusing(Settings::default());
    let gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "60")]).await;
    let said = said_of(&gate, &["--wait", "6"]).await;
    said.breaks_at("chat", &["within 6 s", "starting", "--wait", "its log"]);
    let waits = "chat: waiting for the model server (starting), 5 s of 6 s at the most\n";
    assert!(said.err.starts_with(waits), "{said:?}");
}

#[tokio::test]
async fn the_model_server_hangs() {
    let (server, gate) = pair().await;
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    let said = said_of(&gate, &["--wait", "2"]).await;
    said.breaks_at("chat", &["within 2 s", "hangs"]);
}

#[tokio::test]
async fn the_model_server_refuses_the_gateways_credential() {
    let server = ModelServer::start(Settings {
        api_key: Some("right".to_owned()),
        ..Settings::default()
    })
    .await;
    for settings in [&[][..], &[("VLLM_API_KEY", "wrong")]] {
        let gate = Gate::with(&server.url(), settings).await;
        let said = said_of(&gate, &[]).await;
        said.breaks_at("chat", &["upstream_error", "VLLM_API_KEY", "--api-key"]);
    }
}

#[tokio::test]
async fn the_model_server_fails() {
    let (server, gate) = pair().await;
    server.next(Behaviour::answer(Answer::html(500, "<h1>Oops</h1>")));
    let said = said_of(&gate, &[]).await;
    said.breaks_at("chat", &["upstream_error", "log", "x-request-id"]);
}

#[tokio::test]
async fn the_model_is_none_for_chats() {
    let (server, gate) = pair().await;
    server.next(Behaviour::answer(Answer::json(
        200,
        r#"{"object":"list","data":[{"embedding":[0.1]}]}"#,
    )));
    let said = said_of(&gate, &[]).await;
    said.breaks_at("chat", &["no chat completion", "--model"]);
}

#[tokio::test]
async fn the_keys_budget_is_used_up() {
    let server = ModelServer::start(Settings::default()).await;
    let keys = json!({"test": {"key": KEY, "token_limit": 1}});
    let gate = Gate::with_keys(&server.url(), &[], &keys).await;
    let said = said_of(&gate, &[]).await;
    said.breaks_at("chat", &["token_limit_exceeded", "token_limit"]);
    assert!(said.hop("key").1.contains("0 of 1 tokens"), "{said:?}");
}

#[tokio::test]
async fn the_key_may_not_call_the_model() {
    let server = ModelServer::start(Settings::default()).await;
    let keys = json!({"test": {"key": KEY, "models": ["another"]}});
    let gate = Gate::with_keys(&server.url(), &[], &keys).await;
    let said = said_of(&gate, &[]).await;
    said.breaks_at("chat", &["model_not_allowed", "--model", "`models`"]);
}

#[tokio::test]
async fn a_stream_has_no_proper_end() {
    for fault in [Fault::EndEarly { after: 3 }, Fault::Cut { after: 3 }] {
        let (server, gate) = pair().await;
        server.next(Behaviour::default());
        server.next(Behaviour::fault(fault));
        let said = said_of(&gate, &[]).await;
        said.breaks_at("stream", &["ended with an error", "finish_reason", "log"]);
    }
}

#[tokio::test]
async fn a_stream_without_usage_is_a_warning() {
    let (server, gate) = pair().await;
    server.always(Behaviour {
        no_usage: true,
        ..Behaviour::default()
    });
    let said = said_of(&gate, &[]).await;
    said.is_fine();
    assert!(
        said.out.contains("warning: the stream tells no usage"),
        "{said:?}"
    );
}

#[tokio::test]
async fn the_model_server_was_not_started_with_tool_calling() {
    const REMEDY: [&str; 2] = [
        "model server was not started with tool calling",
        "--enable-auto-tool-choice --tool-call-parser",
    ];
    let (server, gate) = pair().await;
    for _ in 0..2 {
        server.next(Behaviour::default());
    }
    server.next(Behaviour::answer(Answer::json(400, NO_TOOLS)));
    said_of(&gate, &[]).await.breaks_at("tool_call", &REMEDY);
    // One that knows no tools says something, whatever is asked.
    for _ in 0..2 {
        server.next(Behaviour::default());
    }
    server.next(text("It is warm in Paris."));
    server.next(text("It is warm in Paris."));
    said_of(&gate, &[]).await.breaks_at("tool_call", &REMEDY);
    // One without the right parser lets the model's own spelling through.
    for _ in 0..2 {
        server.next(Behaviour::default());
    }
    let call = r#"<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>"#;
    server.next(text(call));
    let said = said_of(&gate, &[]).await;
    said.breaks_at("tool_call", &["came as text", "--tool-call-parser"]);
    // Some fail at tools with an error of their own, which the gateway does not repeat.
    for _ in 0..2 {
        server.next(Behaviour::default());
    }
    server.next(Behaviour::answer(Answer::json(
        500,
        r#"{"error":{"message":"tools param requires --jinja flag","type":"server_error","code":500}}"#,
    )));
    let said = said_of(&gate, &[]).await;
    said.breaks_at("tool_call", &["a chat works", "--jinja"]);
}
