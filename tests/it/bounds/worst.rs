//! The worst engine there could be behind a vLLM's routes: a token for each byte of what is left of a
//! text after the longest way to normalise it, a wordy template that prints all JSON with indentation,
//! and answers that never end before they must. It counts as vLLM does, also what `usage` leaves out.

use serde_json::{Map, Value, json};

/// Its context.
pub const CONTEXT: u64 = 40_000;
/// What its template writes: always, with tools, around a message, around a tool or a call of one.
const PREAMBLE: u64 = 37;
const TOOLS_PREAMBLE: u64 = 211;
const AROUND_MESSAGE: u64 = 40;
const AROUND_TOOL: u64 = 20;
/// Around a text that is not put through the template.
const AROUND_TEXT: u64 = 2;
const AROUND_PAIR: u64 = 90;

/// What a call made it count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub prompt: u64,
    pub output: u64,
}

/// What it counts for a call; `None` for one that it refuses.
pub fn work(path: &str, body: &Map<String, Value>) -> Option<Work> {
    let prompts = prompts(path, body)?;
    let limits: &[&str] = match path {
        "/v1/chat/completions" => &["max_completion_tokens", "max_tokens"],
        "/v1/completions" | "/v1/messages" => &["max_tokens"],
        "/v1/responses" => &["max_output_tokens"],
        _ => &[],
    };
    if limits.is_empty() {
        let prompt = prompts.iter().sum();
        return Some(Work { prompt, output: 0 });
    }
    let mut most = None;
    for name in limits {
        let value = whole(body.get(*name))?;
        most = most.or(value);
    }
    if most.is_none() && path == "/v1/completions" {
        most = Some(16);
    }
    let echoes = body.get("echo") == Some(&json!(true)) && path == "/v1/completions";
    let most = match most {
        Some(0) if echoes => Some(1),
        Some(0) => return None,
        most => most,
    };
    let (choices, beams) = if path.ends_with("completions") {
        let n = whole(body.get("n"))?.unwrap_or(1);
        let best_of = whole(body.get("best_of"))?.unwrap_or(1);
        (n.max(best_of), truthy(body.get("use_beam_search"))?)
    } else {
        (1, false)
    };
    if choices == 0 {
        return None;
    }
    let mut work = Work::default();
    for prompt in prompts {
        let room = CONTEXT.checked_sub(prompt).filter(|room| *room > 0)?;
        let output = most.map_or(room, |most| most.min(room));
        if whole(body.get("min_tokens"))?.is_some_and(|least| least > output) {
            return None;
        }
        if beams {
            // The first step has one beam. Each is a call of its own.
            for step in 0..output {
                let beams = if step == 0 { 1 } else { choices };
                work.prompt += beams * (prompt + step);
                work.output += beams;
            }
        } else {
            work.prompt += prompt * choices;
            work.output += output * choices;
        }
    }
    Some(work)
}

/// The tokens of each prompt.
pub fn prompts(path: &str, body: &Map<String, Value>) -> Option<Vec<u64>> {
    let member = |name: &str| body.get(name).filter(|value| !value.is_null());
    let list = |name: &str| {
        member(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    match path {
        "/v1/completions" => {
            let suffix = member("suffix").map_or(0, text);
            let mut prompts = member("prompt").map_or(Some(Vec::new()), ids_or_texts)?;
            for prompt in &mut prompts {
                *prompt += suffix + AROUND_TEXT;
            }
            prompts.extend(member("prompt_embeds").map(|_| CONTEXT - 1));
            (!prompts.is_empty()).then_some(prompts)
        }
        "/v1/embeddings" => {
            let mut prompts = ids_or_texts(member("input")?)?;
            for prompt in &mut prompts {
                *prompt += AROUND_TEXT;
            }
            Some(prompts)
        }
        "/v1/rerank" | "/v1/score" => pairs(body),
        "/v1/responses" => {
            let mut messages: Vec<Value> = match member("input")? {
                Value::Array(items) => items.iter().map(from_item).collect(),
                input => vec![json!({"role": "user", "content": input})],
            };
            if let Some(system) = member("instructions") {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
            let tools = list("tools")
                .into_iter()
                .map(|tool| json!({"function": tool}));
            Some(vec![chat(body, &messages, &tools.collect::<Vec<_>>())])
        }
        "/v1/messages" | "/v1/messages/count_tokens" => {
            let mut messages: Vec<Value> = list("messages").iter().flat_map(from_blocks).collect();
            if let Some(system) = member("system") {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
            let tools = list("tools").into_iter().map(|tool| {
                json!({"function": {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]}})
            });
            Some(vec![chat(body, &messages, &tools.collect::<Vec<_>>())])
        }
        "/tokenize" if member("prompt").is_some() => {
            Some(vec![text(member("prompt")?) + AROUND_TEXT])
        }
        _ => Some(vec![chat(body, &list("messages"), &list("tools"))]),
    }
}

fn pairs(body: &Map<String, Value>) -> Option<Vec<u64>> {
    let side = |names: [&str; 2]| {
        let value = names.iter().find_map(|name| body.get(*name))?;
        ids_or_texts(value)
    };
    let (one, two) = (side(["query", "text_1"])?, side(["documents", "text_2"])?);
    match (&one[..], &two[..]) {
        ([query], documents) => Some(
            documents
                .iter()
                .map(|document| query + document + AROUND_PAIR)
                .collect(),
        ),
        (one, two) if one.len() == two.len() => Some(
            one.iter()
                .zip(two)
                .map(|(one, two)| one + two + AROUND_PAIR)
                .collect(),
        ),
        _ => None,
    }
}

/// A text, a list of texts, a list of ids, or a list of such lists.
fn ids_or_texts(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::String(_) => Some(vec![text(value)]),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) if items.iter().all(Value::is_number) => Some(vec![items.len() as u64]),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(_) => Some(text(item)),
                Value::Array(ids) => Some(ids.len() as u64),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn from_item(item: &Value) -> Value {
    match item["type"].as_str() {
        Some("function_call") => json!({"role": "assistant", "tool_calls": [{"function": item}]}),
        Some("function_call_output") => json!({"role": "tool", "content": item["output"]}),
        _ => item.clone(),
    }
}

fn from_blocks(message: &Value) -> Vec<Value> {
    let Some(blocks) = message["content"].as_array() else {
        return vec![message.clone()];
    };
    let mut messages = Vec::new();
    for block in blocks {
        messages.push(match block["type"].as_str() {
            Some("tool_use") => {
                let call = json!({"name": block["name"], "arguments": block["input"].to_string()});
                json!({"role": "assistant", "tool_calls": [{"id": block["id"], "function": call}]})
            }
            Some("tool_result") => json!({"role": "tool", "content": block["content"]}),
            Some("thinking") => json!({"role": "assistant", "content": block["thinking"]}),
            _ => json!({"content": [block]}),
        });
    }
    messages.push(json!({"role": message["role"]}));
    messages
}

/// A chat put through the template.
fn chat(body: &Map<String, Value>, messages: &[Value], tools: &[Value]) -> u64 {
    let own_template = body.get("chat_template").is_some_and(Value::is_string)
        || body
            .get("chat_template_kwargs")
            .is_some_and(|kwargs| kwargs.get("chat_template").is_some());
    if own_template {
        return CONTEXT - 1;
    }
    let mut tokens = PREAMBLE;
    if !tools.is_empty() {
        tokens += TOOLS_PREAMBLE;
    }
    for tool in tools {
        let function = &tool["function"];
        let mut dumped = json!({"name": function["name"], "description": function["description"], "parameters": function["parameters"]});
        if !function["strict"].is_null() {
            dumped["strict"] = function["strict"].clone();
        }
        tokens += AROUND_TOOL + printed(&json!([{"type": "function", "function": dumped}]));
    }
    for message in messages {
        tokens += AROUND_MESSAGE + text(&message["role"]);
        for name in ["name", "reasoning_content", "tool_call_id"] {
            tokens += text(&message[name]);
        }
        match &message["content"] {
            Value::Array(parts) => {
                for part in parts {
                    match part["type"].as_str() {
                        Some("text" | "input_text" | "output_text") => {
                            tokens += 1 + text(&part["text"]);
                        }
                        _ => return CONTEXT - 1,
                    }
                }
            }
            content => tokens += text(content),
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            let arguments = function["arguments"].as_str().unwrap_or_default();
            let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
            let call = json!({"name": function["name"], "arguments": arguments});
            tokens += AROUND_TOOL + printed(&call);
        }
    }
    for name in ["documents", "response_format"] {
        if let Some(value) = body.get(name) {
            tokens += printed(value);
        }
    }
    tokens
}

/// A string's tokens; nothing for what is none.
fn text(value: &Value) -> u64 {
    value.as_str().unwrap_or_default().chars().map(letter).sum()
}

fn letter(letter: char) -> u64 {
    match letter {
        _ if letter.is_ascii() => 1,
        '\u{fdfa}' | '\u{fdfb}' => 33,
        '\u{3300}'..='\u{3357}' | '\u{337f}' | '\u{321d}' | '\u{321e}' => 18,
        _ => 3 * letter.len_utf8() as u64,
    }
}

/// JSON as Python prints it with an indentation of four, in ASCII or not, whichever is longer.
fn printed(value: &Value) -> u64 {
    let (mut in_ascii, mut as_it_is) = (0, 0);
    for letter_ in indented(value, 0).chars() {
        as_it_is += letter(letter_);
        in_ascii += if letter_.is_ascii() {
            1
        } else {
            6 * letter_.len_utf16() as u64
        };
    }
    in_ascii.max(as_it_is)
}

fn indented(value: &Value, level: usize) -> String {
    let line = |level: usize| format!("\n{}", " ".repeat(4 * level));
    let items: Vec<String> = match value {
        Value::Array(items) => items.iter().map(|item| indented(item, level + 1)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| format!("{}: {}", string(key), indented(value, level + 1)))
            .collect(),
        Value::String(text) => return string(text),
        Value::Number(number) if number.is_f64() => {
            return format!("{:?}", number.as_f64().unwrap_or_default());
        }
        other => return other.to_string(),
    };
    let (open, close) = if value.is_array() {
        ('[', ']')
    } else {
        ('{', '}')
    };
    if items.is_empty() {
        return format!("{open}{close}");
    }
    let inner: Vec<String> = items.iter().map(|item| line(level + 1) + item).collect();
    format!("{open}{}{}{close}", inner.join(","), line(level))
}

/// As Python writes it: the control characters in six letters, DEL as it is.
fn string(text: &str) -> String {
    Value::from(text).to_string()
}

/// A figure as pydantic reads it; the outer `None` for what it refuses.
#[expect(clippy::option_option, reason = "refused, absent, and a figure")]
fn whole(value: Option<&Value>) -> Option<Option<u64>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Bool(flag)) => Some(Some(u64::from(*flag))),
        Some(Value::String(digits)) => digits.trim().parse().ok().map(Some),
        Some(Value::Number(number)) => {
            let value = number.as_f64()?;
            let is_whole = value.fract() == 0.0 && (0.0..1e18).contains(&value);
            is_whole.then(|| format!("{value:.0}").parse().ok())
        }
        Some(_) => None,
    }
}

/// A flag as pydantic reads it.
fn truthy(value: Option<&Value>) -> Option<bool> {
    match value {
        None => Some(false),
        Some(Value::Bool(flag)) => Some(*flag),
        Some(Value::Number(number)) => Some(number.as_f64() == Some(1.0)),
        Some(Value::String(word)) => Some(matches!(
            word.as_str(),
            "yes" | "true" | "on" | "1" | "y" | "t"
        )),
        Some(_) => None,
    }
}
