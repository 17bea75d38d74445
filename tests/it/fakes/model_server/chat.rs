//! Chat completions and text completions as the servers shape them, from what the engine made. It
//! knows no HTTP; whether usage is shown, and where, follows the stream options as received.

use serde_json::{Map, Value, json};

use super::engine::{Delta, Generation, Step, Whole};
use super::plan::{Event, Events};
use super::refusal::Dialect;
use super::tokens;

/// Where an answer speaks of usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    Nowhere,
    /// In plain answers, not in streams.
    Plain,
    /// In a stream, after its last token.
    Last,
    /// On each event of a stream, and after its last token.
    Running,
}

/// What all parts of one answer share.
pub struct Frame {
    pub dialect: Dialect,
    pub id: String,
    pub created: u64,
    pub model: String,
    pub usage: Usage,
    /// Cached tokens of the prompt, where the server shows them.
    pub cached: Option<u64>,
    /// A tool was forced by its name.
    pub named_tool: bool,
    /// The prompts to give back before the text (completions with `echo`).
    pub echo: Option<Vec<String>>,
}

const FINGERPRINT: &str = "vllm-0.32.0-5c217ed1";
const KIND: &str = "chat.completion.chunk";

/// A plain chat completion.
pub fn chat(frame: &Frame, made: &Generation) -> Value {
    let choices = made.wholes().into_iter().enumerate();
    let choices: Vec<Value> = choices
        .map(|(at, whole)| chat_choice(frame, at, &whole))
        .collect();
    let mut answer = head(frame, "chat.completion");
    answer.insert("choices".into(), json!(choices));
    let usage = plain_usage(frame, made);
    close(
        frame,
        &mut answer,
        usage,
        &["prompt_logprobs", "prompt_token_ids", "prompt_text"],
    );
    Value::Object(answer)
}

/// A streamed chat completion, `[DONE]` included.
pub fn chat_events(frame: &Frame, made: &Generation) -> Vec<Event> {
    let mut events = Events::default();
    for at in 0..made.choices() {
        let role = match frame.dialect {
            Dialect::Rust => json!({"role": "assistant"}),
            Dialect::Python | Dialect::Foreign => json!({"role": "assistant", "content": ""}),
        };
        let mut choice = json!({"index": at, "delta": role});
        if frame.dialect != Dialect::Rust {
            choice["logprobs"] = Value::Null;
            choice["finish_reason"] = Value::Null;
        }
        let running = running(frame, made.prompt_of(at), 0, true);
        let mut chunk = chunk(frame, KIND, &choice, running);
        if frame.dialect == Dialect::Python {
            chunk.insert("prompt_token_ids".into(), Value::Null);
            chunk.insert("prompt_text".into(), Value::Null);
        }
        events.data(&Value::Object(chunk));
    }
    for step in &made.steps {
        events.grow(step.grew);
        for choice in chat_deltas(frame, step) {
            let ends = choice["finish_reason"].is_string();
            let running = running(frame, made.prompt_of(step.choice), step.tokens, true);
            let mut chunk = chunk(frame, KIND, &choice, running);
            stamp(frame, &mut chunk, ends);
            events.data(&Value::Object(chunk));
        }
    }
    end(frame, KIND, made, events)
}

/// A plain text completion.
pub fn completion(frame: &Frame, made: &Generation) -> Value {
    let wholes = made.wholes().into_iter().enumerate();
    let choice = |(at, whole): (usize, Whole)| {
        let text = format!("{}{}", echoed(frame, made, at), whole.text);
        let mut choice = json!({
            "index": at, "text": text, "logprobs": null,
            "finish_reason": whole.reason, "stop_reason": whole.stop,
        });
        let nulls: &[&str] = match frame.dialect {
            Dialect::Python => &[
                "token_ids",
                "prompt_logprobs",
                "prompt_token_ids",
                "routed_experts",
            ],
            Dialect::Rust => &["prompt_logprobs", "token_ids", "prompt_token_ids"],
            Dialect::Foreign => &[],
        };
        for null in nulls {
            choice[*null] = Value::Null;
        }
        choice
    };
    let choices: Vec<Value> = wholes.map(choice).collect();
    let mut answer = head(frame, "text_completion");
    answer.insert("choices".into(), json!(choices));
    let usage = plain_usage(frame, made);
    close(frame, &mut answer, usage, &[]);
    Value::Object(answer)
}

/// A streamed text completion, `[DONE]` included.
pub fn completion_events(frame: &Frame, made: &Generation) -> Vec<Event> {
    let mut events = Events::default();
    let mut begun = vec![false; made.choices()];
    for step in &made.steps {
        events.grow(step.grew);
        let first = !std::mem::replace(&mut begun[step.choice], true);
        let echo = Some(echoed(frame, made, step.choice)).filter(|text| first && !text.is_empty());
        let mut text = echo.clone().unwrap_or_default();
        if let Delta::Text(piece) = &step.delta {
            text += piece;
        }
        let finish = step.finish.as_ref();
        let stop = finish.and_then(|finish| finish.stop.clone());
        let reason = finish.map(|finish| finish.reason.clone());
        let mut choices = Vec::new();
        if frame.dialect == Dialect::Python {
            choices.push(json!({
                "index": step.choice, "text": text, "logprobs": null, "finish_reason": reason,
                "stop_reason": stop,
                "prompt_token_ids": echo.map(|prompt| tokens::ids(&prompt)), "token_ids": null,
            }));
        } else {
            if !text.is_empty() {
                choices.push(json!({"index": step.choice, "text": text}));
            }
            if let Some(reason) = reason {
                choices.push(json!({"index": step.choice, "text": "", "finish_reason": reason}));
            }
        }
        for choice in choices {
            let ends = choice["finish_reason"].is_string();
            let running = running(frame, made.prompt_of(step.choice), step.tokens, false);
            let mut chunk = chunk(frame, "text_completion", &choice, running);
            stamp(frame, &mut chunk, ends);
            events.data(&Value::Object(chunk));
        }
    }
    end(frame, "text_completion", made, events)
}

fn chat_choice(frame: &Frame, at: usize, whole: &Whole) -> Value {
    let mut message = json!({"role": "assistant", "content": whole.text});
    if whole.call.is_some() {
        message["content"] = if frame.named_tool {
            json!("")
        } else {
            Value::Null
        };
    }
    if frame.dialect == Dialect::Python {
        for null in ["refusal", "annotations", "audio", "function_call"] {
            message[null] = Value::Null;
        }
    }
    if let Some((id, name, arguments)) = &whole.call {
        let function = json!({"name": name, "arguments": arguments});
        message["tool_calls"] = json!([{"id": id, "type": "function", "function": function}]);
    }
    if frame.dialect != Dialect::Foreign {
        message["reasoning"] = Value::Null;
    }
    let mut choice = json!({
        "index": at, "message": message, "logprobs": null,
        "finish_reason": reason(frame, &whole.reason),
    });
    if frame.dialect != Dialect::Foreign {
        choice["stop_reason"] = json!(whole.stop);
        choice["token_ids"] = Value::Null;
    }
    if frame.dialect == Dialect::Python {
        choice["routed_experts"] = Value::Null;
    }
    choice
}

/// The choices of a step's chunks: Python sends one, the others the end in one of its own.
fn chat_deltas(frame: &Frame, step: &Step) -> Vec<Value> {
    let python = frame.dialect == Dialect::Python;
    let call = |call: Value| {
        let mut delta = json!({});
        if python {
            delta["content"] = Value::Null;
        }
        delta["tool_calls"] = json!([call]);
        delta
    };
    let delta = match &step.delta {
        Delta::Text(text) => json!({"content": text}),
        Delta::CallName { id, name } => {
            call(json!({"id": id, "type": "function", "index": 0, "function": {"name": name}}))
        }
        Delta::CallArguments(piece) => call(json!({"index": 0, "function": {"arguments": piece}})),
        Delta::Nothing => json!({}),
    };
    let reason = step
        .finish
        .as_ref()
        .map(|finish| reason(frame, &finish.reason));
    if python {
        let mut choice = json!({"index": step.choice, "delta": delta, "logprobs": null, "finish_reason": reason});
        if let Some(finish) = &step.finish {
            choice["stop_reason"] = json!(finish.stop);
        }
        choice["token_ids"] = Value::Null;
        return vec![choice];
    }
    let mut choices = Vec::new();
    if !matches!(step.delta, Delta::Nothing) {
        let mut choice = json!({"index": step.choice, "delta": delta});
        if frame.dialect == Dialect::Foreign {
            choice["finish_reason"] = Value::Null;
        }
        choices.push(choice);
    }
    if let Some(reason) = reason {
        choices.push(json!({"index": step.choice, "delta": {}, "finish_reason": reason}));
    }
    choices
}

fn reason(frame: &Frame, reason: &str) -> String {
    let named = frame.named_tool && reason == "tool_calls";
    if named {
        "stop".to_owned()
    } else {
        reason.to_owned()
    }
}

fn echoed(frame: &Frame, made: &Generation, choice: usize) -> String {
    let prompts = frame.echo.as_deref().unwrap_or_default();
    prompts
        .get(choice / made.choices_per_prompt)
        .cloned()
        .unwrap_or_default()
}

fn head(frame: &Frame, kind: &str) -> Map<String, Value> {
    let mut head = Map::new();
    head.insert("id".into(), json!(frame.id));
    head.insert("object".into(), json!(kind));
    head.insert("created".into(), json!(frame.created));
    head.insert("model".into(), json!(frame.model));
    head
}

fn chunk(frame: &Frame, kind: &str, choice: &Value, usage: Option<Value>) -> Map<String, Value> {
    let mut chunk = head(frame, kind);
    chunk.insert("choices".into(), json!([choice]));
    if let Some(usage) = usage {
        chunk.insert("usage".into(), usage);
    }
    chunk
}

/// Python's fingerprint stands on the chunk that ends a choice, unless a usage chunk is to come.
fn stamp(frame: &Frame, chunk: &mut Map<String, Value>, ends: bool) {
    if ends && frame.dialect == Dialect::Python && frame.usage < Usage::Last {
        chunk.insert("system_fingerprint".into(), json!(FINGERPRINT));
    }
}

fn running(frame: &Frame, prompt: u64, made: u64, chat: bool) -> Option<Value> {
    if frame.usage < Usage::Running || frame.dialect == Dialect::Foreign {
        return None;
    }
    let mut usage = counts(prompt, made);
    match frame.dialect {
        Dialect::Rust => rust_details(&mut usage, None),
        _ if chat => usage["completion_tokens_details"] = Value::Null,
        _ => {}
    }
    Some(usage)
}

fn counts(prompt: u64, made: u64) -> Value {
    json!({"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made})
}

fn rust_details(usage: &mut Value, cached: Option<u64>) {
    usage["prompt_tokens_details"] = json!(cached.map(|cached| json!({"cached_tokens": cached})));
    usage["completion_tokens_details"] = json!({"reasoning_tokens": 0});
}

fn plain_usage(frame: &Frame, made: &Generation) -> Option<Value> {
    if frame.usage == Usage::Nowhere {
        return None;
    }
    let mut usage = counts(made.prompt_total(), made.completion_total());
    match frame.dialect {
        Dialect::Rust => rust_details(&mut usage, frame.cached),
        Dialect::Python => {
            usage["prompt_tokens_details"] = json!(frame.cached.map(|cached| json!({
                "cached_tokens": cached, "created_cache_tokens": 0, "multimodal_tokens": null
            })));
            usage["completion_tokens_details"] = Value::Null;
        }
        Dialect::Foreign => {}
    }
    Some(usage)
}

/// What follows the choices of a plain answer.
fn close(frame: &Frame, answer: &mut Map<String, Value>, usage: Option<Value>, nulls: &[&str]) {
    let mut put = |key: &str, value: Value| {
        answer.insert(key.to_owned(), value);
    };
    match frame.dialect {
        Dialect::Python => {
            put("service_tier", Value::Null);
            put("system_fingerprint", json!(FINGERPRINT));
            put("usage", json!(usage));
        }
        Dialect::Rust => {
            put("usage", json!(usage));
            put("system_fingerprint", Value::Null);
        }
        Dialect::Foreign => {
            if let Some(usage) = usage {
                put("usage", usage);
            }
            return;
        }
    }
    let rust = frame.dialect == Dialect::Rust;
    for null in nulls
        .iter()
        .filter(|null| !(rust && **null == "prompt_text"))
    {
        put(null, Value::Null);
    }
    put("kv_transfer_params", Value::Null);
    put("ec_transfer_params", Value::Null);
    if !rust {
        put("metrics", Value::Null);
    }
}

/// The chunk of usage, if it was asked for, and `[DONE]`.
fn end(frame: &Frame, kind: &str, made: &Generation, mut events: Events) -> Vec<Event> {
    if frame.usage >= Usage::Last {
        let mut usage = counts(made.prompt_total(), made.completion_total());
        match (frame.dialect, frame.cached) {
            (Dialect::Rust, cached) => rust_details(&mut usage, cached),
            (Dialect::Python, Some(cached)) => {
                usage["prompt_tokens_details"] =
                    json!({"cached_tokens": cached, "created_cache_tokens": 0});
            }
            _ => {}
        }
        let mut chunk = head(frame, kind);
        chunk.insert("choices".into(), json!([]));
        chunk.insert("usage".into(), usage);
        if frame.dialect == Dialect::Python {
            chunk.insert("system_fingerprint".into(), json!(FINGERPRINT));
        }
        events.data(&Value::Object(chunk));
    }
    events.done();
    events.finish()
}
