//! The responses and messages routes as vLLM's Python server shapes them, from what the engine made
//! for one choice. It knows no HTTP.

use serde_json::{Value, json};

use super::chat::{Frame, Usage};
use super::engine::{Delta, Generation, Whole};
use super::plan::{Event, Events};

/// What a response object repeats of its request.
pub struct Echo {
    pub tools: Value,
    pub tool_choice: Value,
    pub max_output_tokens: u64,
    pub temperature: f64,
}

/// The tools of a request as a response repeats them.
pub fn shown_tools(tools: Option<&Value>) -> Value {
    let shown = tools
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|tool| {
            json!({
                "name": tool["name"], "parameters": tool["parameters"], "strict": tool["strict"],
                "type": "function", "allowed_callers": null, "async": null, "defer_loading": null,
                "description": tool["description"], "output_schema": null,
            })
        });
    Value::Array(shown.collect())
}

/// A plain response object.
pub fn response(frame: &Frame, echo: &Echo, made: &Generation) -> Value {
    let whole = made.wholes().remove(0);
    let status = if whole.reason == "length" {
        "incomplete"
    } else {
        "completed"
    };
    let output = json!([item(frame, &whole, "completed")]);
    object(frame, echo, status, &output, Some(made))
}

/// A streamed response.
pub fn response_events(frame: &Frame, echo: &Echo, made: &Generation) -> Vec<Event> {
    let whole = made.wholes().remove(0);
    let mut events = Numbered::default();
    let started = object(frame, echo, "in_progress", &json!([]), None);
    events.put("response.created", json!({"response": started}));
    events.put("response.in_progress", json!({"response": started}));
    let id = item_id(frame, &whole);
    let called = whole.call.is_some();
    let mut blank = item(frame, &whole, "in_progress");
    let part = |text: &str, logprobs: Value| json!({"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs});
    if called {
        blank["arguments"] = json!("");
    } else {
        blank["content"] = json!([]);
    }
    events.put(
        "response.output_item.added",
        json!({"item": blank, "output_index": 0}),
    );
    let at = json!({"content_index": 0, "item_id": id, "output_index": 0});
    if !called {
        events.put(
            "response.content_part.added",
            with(&at, "part", part("", json!([]))),
        );
    }
    for step in &made.steps {
        events.inner.grow(step.grew);
        match &step.delta {
            Delta::Text(text) => {
                let delta = with(&with(&at, "logprobs", json!([])), "delta", json!(text));
                events.put("response.output_text.delta", delta);
            }
            Delta::CallArguments(piece) => {
                let delta = json!({"delta": piece, "item_id": id, "output_index": 0});
                events.put("response.function_call_arguments.delta", delta);
            }
            Delta::CallName { .. } | Delta::Nothing => {}
        }
    }
    if let Some((_, name, arguments)) = &whole.call {
        let done = json!({"arguments": arguments, "item_id": id, "output_index": 0, "name": name});
        events.put("response.function_call_arguments.done", done);
    } else {
        let done = with(&with(&at, "logprobs", json!([])), "text", json!(whole.text));
        events.put("response.output_text.done", done);
        events.put(
            "response.content_part.done",
            with(&at, "part", part(&whole.text, Value::Null)),
        );
    }
    let done = item(frame, &whole, "completed");
    events.put(
        "response.output_item.done",
        json!({"item": done, "output_index": 0}),
    );
    events.put(
        "response.completed",
        json!({"response": response(frame, echo, made)}),
    );
    events.inner.finish()
}

/// A plain message.
pub fn message(frame: &Frame, made: &Generation) -> Value {
    let whole = made.wholes().remove(0);
    let block = match &whole.call {
        Some((id, name, arguments)) => {
            let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }
        None => json!({"type": "text", "text": whole.text}),
    };
    let mut message = json!({
        "id": frame.id, "type": "message", "role": "assistant", "content": [block],
        "model": frame.model, "stop_reason": stop_reason(&whole),
    });
    if let Some(stop) = &whole.stop {
        message["stop_sequence"] = json!(stop);
    }
    message["usage"] = message_usage(frame, made.prompt_total(), made.completion_total());
    message
}

/// A streamed message.
pub fn message_events(frame: &Frame, made: &Generation) -> Vec<Event> {
    let whole = made.wholes().remove(0);
    let mut events = Events::default();
    let put = |events: &mut Events, kind: &str, rest: Value| {
        let mut event = json!({"type": kind});
        for (key, value) in rest.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        events.named(kind, &event);
    };
    let message = json!({
        "id": frame.id, "type": "message", "role": "assistant", "content": [],
        "model": frame.model, "stop_reason": null, "stop_sequence": null,
        "usage": message_usage(frame, made.prompt_total(), 0),
    });
    put(&mut events, "message_start", json!({"message": message}));
    let block = match &whole.call {
        Some((id, name, _)) => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    };
    put(
        &mut events,
        "content_block_start",
        json!({"content_block": block, "index": 0}),
    );
    for step in &made.steps {
        events.grow(step.grew);
        let delta = match &step.delta {
            Delta::Text(text) => json!({"type": "text_delta", "text": text}),
            Delta::CallArguments(piece) => {
                json!({"type": "input_json_delta", "partial_json": piece})
            }
            Delta::CallName { .. } | Delta::Nothing => continue,
        };
        put(
            &mut events,
            "content_block_delta",
            json!({"delta": delta, "index": 0}),
        );
    }
    put(&mut events, "content_block_stop", json!({"index": 0}));
    let delta = json!({"stop_reason": stop_reason(&whole), "stop_sequence": whole.stop});
    let usage = message_usage(frame, made.prompt_total(), made.completion_total());
    put(
        &mut events,
        "message_delta",
        json!({"delta": delta, "usage": usage}),
    );
    put(&mut events, "message_stop", json!({}));
    events.finish()
}

/// Events that carry their number and their name.
#[derive(Default)]
struct Numbered {
    inner: Events,
    next: u64,
}

impl Numbered {
    fn put(&mut self, kind: &str, mut event: Value) {
        event["sequence_number"] = json!(self.next);
        event["type"] = json!(kind);
        self.next += 1;
        // vLLM has the keys in alphabetical order, but for the name of a call.
        let mut pairs: Vec<_> = event
            .as_object()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .collect();
        pairs.sort_by_key(|(key, _)| (key == "name", key.clone()));
        self.inner
            .named(kind, &Value::Object(pairs.into_iter().collect()));
    }
}

fn with(base: &Value, key: &str, value: Value) -> Value {
    let mut event = base.clone();
    event[key] = value;
    event
}

fn item_id(frame: &Frame, whole: &Whole) -> String {
    let kind = if whole.call.is_some() { "fc" } else { "msg" };
    format!("{kind}_{}", frame.id.rsplit('_').next().unwrap_or_default())
}

fn item(frame: &Frame, whole: &Whole, status: &str) -> Value {
    let id = item_id(frame, whole);
    match &whole.call {
        Some((call, name, arguments)) => json!({
            "arguments": arguments, "call_id": call, "name": name, "type": "function_call",
            "id": id, "async": null, "caller": null, "namespace": null, "status": status,
        }),
        None => json!({
            "id": id,
            "content": [{"annotations": [], "text": whole.text, "type": "output_text",
                         "logprobs": null}],
            "role": "assistant", "status": status, "type": "message", "phase": null,
        }),
    }
}

fn object(
    frame: &Frame,
    echo: &Echo,
    status: &str,
    output: &Value,
    made: Option<&Generation>,
) -> Value {
    let usage = made.filter(|_| frame.usage > Usage::Nowhere).map(|made| {
        let (input, output) = (made.prompt_total(), made.completion_total());
        json!({
            "input_tokens": input,
            "input_tokens_details": {
                "cached_tokens": frame.cached.unwrap_or(0), "cache_write_tokens": 0,
                "input_tokens_per_turn": [], "cached_tokens_per_turn": [],
            },
            "output_tokens": output,
            "output_tokens_details": {
                "reasoning_tokens": 0, "tool_output_tokens": 0,
                "output_tokens_per_turn": [], "tool_output_tokens_per_turn": [],
            },
            "total_tokens": input + output,
        })
    });
    let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
    json!({
        "id": frame.id, "created_at": frame.created, "incomplete_details": incomplete,
        "instructions": null, "metadata": null, "model": frame.model, "object": "response",
        "output": output, "parallel_tool_calls": true, "temperature": echo.temperature,
        "tool_choice": echo.tool_choice, "tools": echo.tools, "top_p": 1.0, "background": false,
        "max_output_tokens": echo.max_output_tokens, "max_tool_calls": null,
        "previous_response_id": null, "prompt": null, "reasoning": null, "service_tier": "auto",
        "status": status, "text": null, "top_logprobs": null, "truncation": "disabled",
        "usage": usage, "user": null, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "kv_transfer_params": null, "ec_transfer_params": null, "input_messages": null,
        "output_messages": null,
    })
}

fn stop_reason(whole: &Whole) -> String {
    match whole.reason.as_str() {
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        "stop" if whole.stop.is_some() => "stop_sequence",
        "stop" => "end_turn",
        other => other,
    }
    .to_owned()
}

/// Cached tokens stand beside `input_tokens`, not in them.
fn message_usage(frame: &Frame, prompt: u64, made: u64) -> Value {
    let cached = frame.cached.unwrap_or(0).min(prompt);
    let mut usage = json!({"input_tokens": prompt - cached, "output_tokens": made});
    if frame.cached.is_some() {
        usage["cache_creation_input_tokens"] = json!(0);
        usage["cache_read_input_tokens"] = json!(cached);
    }
    usage
}
