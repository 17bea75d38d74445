//! Estimates of tokens, for servers that report no usage. For rows alone: what a budget is charged is
//! never an estimate. Pure.

use memchr::{memchr, memmem};

use super::object::Object;

/// Bytes of text that a token stands for: English and code have between three and five.
const TOKEN_BYTES: u64 = 4;
/// What is around the text of a whole answer: its id, its model, its choice.
const FRAME_BYTES: u64 = 250;

/// Tokens of the prompt in a request's body: a quarter of the bytes of the members that make it, what
/// is encoded as base64 left out.
pub fn prompt(object: &Object) -> u64 {
    let is_prompt = |key: &str| {
        matches!(
            key,
            "messages" | "prompt" | "input" | "system" | "instructions" | "tools" | "functions"
        )
    };
    let members = object.members().filter(|(key, _)| is_prompt(key));
    let bytes: usize = members.map(|(_, json)| text_bytes(json.as_bytes())).sum();
    wide(bytes).div_ceil(TOKEN_BYTES)
}

/// Tokens of the text in a whole answer of this size, at least one.
pub fn completion(body_bytes: u64) -> u64 {
    (body_bytes.saturating_sub(FRAME_BYTES) / TOKEN_BYTES).max(1)
}

fn text_bytes(json: &[u8]) -> usize {
    let mut bytes = json.len();
    let mut at = 0;
    while let Some(found) = memmem::find(&json[at..], b";base64,") {
        let start = at + found;
        let length = memchr(b'"', &json[start..]).unwrap_or(json.len() - start);
        bytes -= length;
        at = start + length;
    }
    bytes
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_a_quarter_of_its_text() {
        let image = "A".repeat(4000);
        let content = "x".repeat(400);
        let of = |text: String| prompt(&Object::parse(text.into()).expect("an object"));
        let plain = of(format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"{content}"}}],"max_tokens":100000}}"#
        ));
        assert!((100..115).contains(&plain), "{plain}");
        let both = of(format!(
            r#"{{"messages":[{{"role":"user","content":[{{"url":"data:image/png;base64,{image}"}},"{content}",{{"url":"data:;base64,{image}"}}]}}]}}"#
        ));
        assert!((100..140).contains(&both), "{both}");
        assert_eq!(of(r#"{"prompt":"abcdef","suffix":"no"}"#.to_owned()), 2);
        assert_eq!(of(r#"{"model":"m"}"#.to_owned()), 0);
        assert_eq!(of(r#"{"prompt":";base64,"}"#.to_owned()), 1);
    }

    #[test]
    fn an_answer_has_one_token_at_least() {
        assert_eq!([0, 250, 254, 650].map(completion), [1, 1, 1, 100]);
    }
}
