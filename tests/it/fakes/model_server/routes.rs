//! The scripted server's routes: (method, path) and body in, the plan of an answer out. It plays no
//! answers and keeps no book.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::ask::{self, Limits};
use super::behaviour::Behaviour;
use super::chat::{self, Frame, Usage};
use super::engine::{self, Task};
use super::journal::Call;
use super::plan::Plan;
use super::pooling;
use super::refusal::{Dialect, Refusal, Shape};
use super::responses;
use super::tokens;

const PYTHON_STREAM: &str = "text/event-stream; charset=utf-8";

/// A request before its answer.
pub struct Asked<'a> {
    pub limits: &'a Limits,
    /// Whether embeddings, rerank, score and audio are served.
    pub pooling: bool,
    pub behaviour: &'a Behaviour,
    pub call: &'a Call,
    /// All calls of this engine so far, for the metrics.
    pub calls: &'a [Call],
    /// When the engine was started, in seconds since 1970.
    pub started: u64,
}

/// Whether a call makes the model work: what faults are meant for. A count of tokens that carries no
/// request id was asked by a gateway for itself.
pub fn is_model_call(call: &Call) -> bool {
    let path = call.path.as_str();
    if path == "/v1/messages/count_tokens" && call.request_id().is_empty() {
        return false;
    }
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path != "/models"
        && matches!(path.split('/').nth(1), Some(first) if first != "health")
        && !matches!(
            path,
            "/version" | "/metrics" | "/tokenize" | "/detokenize" | "/ping" | "/load"
        )
}

/// The answer to a request.
pub fn plan(asked: &Asked<'_>) -> Plan {
    let shape = if asked.call.path.starts_with("/v1/messages") {
        Shape::Anthropic
    } else {
        Shape::OpenAi
    };
    let made = match asked.call.method {
        Method::GET => get(asked),
        Method::POST => post(asked),
        _ => Err(if known(asked) {
            Refusal::WrongMethod
        } else {
            Refusal::NoRoute
        }),
    };
    let mut plan = made.unwrap_or_else(|refusal| refusal.plan(asked.limits.dialect, shape));
    plan.failure = failure(asked);
    if asked.limits.dialect == Dialect::Python {
        plan.headers.push(("server".into(), "uvicorn".into()));
        plan.headers.push(("vary".into(), "Origin".into()));
    }
    plan
}

fn get(asked: &Asked<'_>) -> Result<Plan, Refusal> {
    let Limits {
        dialect,
        model,
        context,
        ..
    } = asked.limits;
    let python = *dialect == Dialect::Python;
    match asked.call.path.as_str() {
        "/health" | "/ping" if *dialect != Dialect::Rust || asked.call.path == "/health" => {
            Ok(Plan::bytes(200, "", ""))
        }
        "/load" if python => Ok(Plan::json(200, &json!({"server_load": 0}))),
        "/version" if python => Ok(Plan::json(200, &json!({"version": "0.32.0"}))),
        "/version" if *dialect == Dialect::Rust => Ok(Plan::json(
            200,
            &json!({"version": "0.32.0", "rust_frontend_version": "0.32.0"}),
        )),
        "/metrics" if *dialect != Dialect::Foreign => {
            let mut text = metrics(model, asked.calls);
            if python {
                let started = asked.started.to_string();
                text.extend(["process_start_time_seconds ", &started, ".0\n"]);
            }
            Ok(Plan::bytes(
                200,
                "text/plain; version=1.0.0; charset=utf-8",
                text,
            ))
        }
        "/v1/models" => {
            let owner = match dialect {
                Dialect::Python => "vllm",
                Dialect::Rust => "vllm-frontend-rs",
                Dialect::Foreign => "somebody",
            };
            let mut card =
                json!({"id": model, "object": "model", "created": now(), "owned_by": owner});
            if *dialect != Dialect::Foreign {
                card["root"] = json!("./model");
                card["parent"] = Value::Null;
                card["max_model_len"] = json!(context);
            }
            Ok(Plan::json(200, &json!({"object": "list", "data": [card]})))
        }
        _ if known(asked) => Err(Refusal::WrongMethod),
        _ => Err(Refusal::NoRoute),
    }
}

fn post(asked: &Asked<'_>) -> Result<Plan, Refusal> {
    if !known(asked) {
        return Err(Refusal::NoRoute);
    }
    let path = asked.call.path.as_str();
    if path.starts_with("/v1/audio/") {
        return pooling::audio(asked);
    }
    let body = ask::object(&asked.call.headers, &asked.call.body)?;
    match path {
        "/tokenize" => tokenize(asked.limits, &body),
        "/detokenize" => {
            asked.limits.check(&body, &[("tokens", "list")])?;
            let ids = body["tokens"].as_array().into_iter().flatten();
            let ids: Vec<u32> = ids
                .filter_map(|id| u32::try_from(id.as_u64()?).ok())
                .collect();
            Ok(Plan::json(200, &json!({"prompt": tokens::text(&ids)})))
        }
        "/v1/messages/count_tokens" => {
            let task = asked.limits.message(&body, true)?;
            let count = tokens::count(&task.prompts[0]);
            let original = json!({"original_input_tokens": count});
            let counted = json!({"input_tokens": count, "context_management": original});
            Ok(Plan::json(200, &counted))
        }
        "/v1/embeddings" => pooling::embeddings(asked, &body),
        "/v1/rerank" => pooling::rerank(asked, &body),
        "/v1/score" => pooling::score(asked, &body),
        _ => generate(asked, path, &body),
    }
}

fn generate(
    asked: &Asked<'_>,
    path: &str,
    body: &serde_json::Map<String, Value>,
) -> Result<Plan, Refusal> {
    let limits = asked.limits;
    let task = match path {
        "/v1/chat/completions" => limits.chat(body)?,
        "/v1/completions" => limits.completion(body)?,
        "/v1/responses" => limits.response(body)?,
        _ => limits.message(body, false)?,
    };
    let made = engine::generate(&task, asked.behaviour, asked.call.number);
    let frame = frame(asked, body, &task);
    let (prompt, total) = (made.prompt_total(), made.completion_total());
    let echo = responses::Echo {
        tools: responses::shown_tools(body.get("tools")),
        tool_choice: if task.tools.is_empty() {
            json!("none")
        } else {
            json!("auto")
        },
        max_output_tokens: task.max_tokens,
        temperature: body
            .get("temperature")
            .and_then(Value::as_f64)
            .unwrap_or(1.0),
    };
    if body.get("stream").and_then(Value::as_bool).unwrap_or(false) {
        let events = match path {
            "/v1/chat/completions" => chat::chat_events(&frame, &made),
            "/v1/completions" => chat::completion_events(&frame, &made),
            "/v1/responses" => responses::response_events(&frame, &echo, &made),
            _ => responses::message_events(&frame, &made),
        };
        return Ok(match limits.dialect {
            Dialect::Rust => {
                let mut plan = Plan::stream("text/event-stream", prompt, events);
                plan.headers
                    .push(("cache-control".into(), "no-cache".into()));
                plan
            }
            Dialect::Python | Dialect::Foreign => Plan::stream(PYTHON_STREAM, prompt, events),
        });
    }
    let answer = match path {
        "/v1/chat/completions" => chat::chat(&frame, &made),
        "/v1/completions" => chat::completion(&frame, &made),
        "/v1/responses" => responses::response(&frame, &echo, &made),
        _ => responses::message(&frame, &made),
    };
    Ok(Plan::generated(&answer, prompt, total))
}

fn frame(asked: &Asked<'_>, body: &serde_json::Map<String, Value>, task: &Task) -> Frame {
    let options = body.get("stream_options").cloned().unwrap_or(Value::Null);
    let wants = |key: &str| options[key].as_bool().unwrap_or(false);
    let echoes = body.get("echo").and_then(Value::as_bool).unwrap_or(false);
    let name = match asked.call.path.as_str() {
        "/v1/completions" => "cmpl-",
        "/v1/responses" => "resp_",
        _ => "chatcmpl-",
    };
    let sent = Some(asked.call.request_id()).filter(|id| !id.is_empty() && name != "resp_");
    let own = match asked.limits.dialect {
        Dialect::Rust => format!("{:08x}", asked.call.number + 1),
        Dialect::Python | Dialect::Foreign => format!("{:016x}", asked.call.number + 1),
    };
    let usage = match (wants("include_usage"), wants("continuous_usage_stats")) {
        _ if asked.behaviour.no_usage => Usage::Nowhere,
        (false, _) => Usage::Plain,
        (true, false) => Usage::Last,
        (true, true) => Usage::Running,
    };
    Frame {
        dialect: asked.limits.dialect,
        id: format!("{name}{}", sent.unwrap_or(&own)),
        created: now(),
        model: asked.limits.model.clone(),
        usage,
        cached: asked.behaviour.cached_tokens,
        named_tool: task
            .forced_tool
            .as_ref()
            .is_some_and(|tool| !tool.is_empty()),
        echo: echoes.then(|| task.prompts.clone()),
    }
}

fn tokenize(limits: &Limits, body: &serde_json::Map<String, Value>) -> Result<Plan, Refusal> {
    limits.check(body, &[])?;
    let text = match (body.get("prompt"), body.get("messages")) {
        (Some(Value::String(prompt)), _) => prompt.clone(),
        (None, Some(Value::Array(messages))) => {
            tokens::chat_prompt(None, messages, body.get("tools"))
        }
        (got, _) => {
            let got = got.cloned().unwrap_or(Value::Null);
            return Err(Refusal::WrongType {
                field: "prompt".into(),
                wanted: "string",
                got,
            });
        }
    };
    let strings = body
        .get("return_token_strs")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let ids = tokens::ids(&text);
    Ok(Plan::json(
        200,
        &json!({
            "count": ids.len(), "max_model_len": limits.context, "tokens": ids,
            "token_strs": strings.then(|| tokens::pieces(&text)),
        }),
    ))
}

fn known(asked: &Asked<'_>) -> bool {
    let python = asked.limits.dialect == Dialect::Python;
    match asked.call.path.as_str() {
        "/v1/chat/completions" | "/v1/completions" | "/v1/models" | "/health" => true,
        "/tokenize" | "/detokenize" | "/version" | "/metrics" => {
            asked.limits.dialect != Dialect::Foreign
        }
        "/v1/responses" | "/v1/messages" | "/v1/messages/count_tokens" => python,
        "/v1/embeddings"
        | "/v1/rerank"
        | "/v1/score"
        | "/v1/audio/transcriptions"
        | "/v1/audio/translations" => asked.pooling,
        _ => false,
    }
}

/// What a stream of this route says when the engine dies.
fn failure(asked: &Asked<'_>) -> Vec<bytes::Bytes> {
    let text = "EngineCore encountered an issue. See stack trace (above) for the root cause.";
    let error = match asked.limits.dialect {
        Dialect::Rust => json!({"error": {"message": "Internal server error",
            "type": "server_error", "param": null, "code": "server_error"}}),
        Dialect::Python | Dialect::Foreign => json!({"error": {"message": text,
            "type": "InternalServerError", "param": null, "code": 500}}),
    };
    match asked.call.path.as_str() {
        "/v1/messages" => {
            let error = json!({"type": "error",
                "error": {"type": "internal_error", "message": text}});
            vec![format!("event: error\ndata: {error}\n\n").into()]
        }
        "/v1/responses" => {
            let error = json!({"type": "error", "code": "500", "message": text, "param": null,
                "sequence_number": 2});
            vec![format!("event: error\ndata: {error}\n\n").into()]
        }
        _ => vec![
            format!("data: {error}\n\n").into(),
            "data: [DONE]\n\n".into(),
        ],
    }
}

/// The counters of vLLM that a gateway's figures can be held against.
fn metrics(model: &str, calls: &[Call]) -> String {
    let sum = |count: fn(&Call) -> u64| calls.iter().map(count).sum::<u64>();
    let ended = |end: fn(&Call) -> bool| {
        calls
            .iter()
            .filter(|call| call.prompt_tokens > 0 && end(call))
            .count() as u64
    };
    let running = calls.iter().filter(|call| call.is_under_way()).count() as u64;
    let rows = [
        ("num_requests_running", "", running),
        (
            "prompt_tokens_total",
            "",
            // Each choice counts the prompt anew, other than in the usage.
            sum(|call| call.prompt_tokens * call.json()["n"].as_u64().unwrap_or(1)),
        ),
        (
            "generation_tokens_total",
            "",
            sum(|call| call.completion_tokens),
        ),
        (
            "request_success_total",
            ",finished_reason=\"stop\"",
            ended(Call::finished),
        ),
        (
            "request_success_total",
            ",finished_reason=\"abort\"",
            ended(|call| call.disconnected_at().is_some()),
        ),
    ];
    let line = |(name, more, value)| {
        format!("vllm:{name}{{engine=\"0\"{more},model_name=\"{model}\"}} {value}.0\n")
    };
    rows.map(line).concat()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
