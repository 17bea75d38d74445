//! A tokenizer that needs no vocabulary: a token is a run of at most four bytes, and white space
//! begins a new one. Its id holds the bytes themselves, so that ids can be turned back into text.

use serde_json::Value;

const TOKEN_BYTES: usize = 4;

/// The tokens of a text; put together they are the text.
pub fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut after_space = true;
    for (at, letter) in text.char_indices() {
        let space = letter.is_whitespace();
        let full = at + letter.len_utf8() - start > TOKEN_BYTES;
        if at > start && (full || (space && !after_space)) {
            pieces.push(&text[start..at]);
            start = at;
        }
        after_space = space;
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

/// How many tokens a text has.
pub fn count(text: &str) -> u64 {
    pieces(text).len() as u64
}

/// The ids of a text's tokens.
pub fn ids(text: &str) -> Vec<u32> {
    let id = |piece: &&str| {
        piece
            .bytes()
            .rev()
            .fold(0, |id, byte| (id << 8) | u32::from(byte))
    };
    pieces(text).iter().map(id).collect()
}

/// The text of ids that `ids` made.
pub fn text(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids
        .iter()
        .flat_map(|id| id.to_le_bytes())
        .filter(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A chat put through the template: what the model would be given to read.
pub fn chat_prompt(system: Option<&Value>, messages: &[Value], tools: Option<&Value>) -> String {
    let tools = tools.filter(|tools| tools.as_array().is_some_and(|list| !list.is_empty()));
    let mut prompt = Vec::new();
    prompt.extend(tools.map(|tools| format!("<tools>{tools}</tools>\n")));
    prompt.extend(system.map(|system| format!("<system>{}\n", flat(system))));
    for message in messages {
        let role = message["role"].as_str().unwrap_or_default();
        let calls = message.get("tool_calls").filter(|calls| calls.is_array());
        let calls = calls.map_or_else(String::new, Value::to_string);
        prompt.push(format!("<{role}>{}{calls}\n", flat(&message["content"])));
    }
    prompt.concat() + "<assistant>"
}

/// Content as one text: a string, parts, blocks, or nothing.
pub fn flat(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(part).collect(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn part(part: &Value) -> String {
    match part {
        Value::String(text) => text.clone(),
        _ => match part.get("text").and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => part.get("content").map_or_else(|| part.to_string(), flat),
        },
    }
}
