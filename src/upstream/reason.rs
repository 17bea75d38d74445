//! What the body of an error says, in the shapes that the servers have for it. Pure; knows nothing of
//! what becomes of the call.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::stream::Api;

/// Longer texts are cut where they are put into another shape: some servers quote whole requests.
const TEXT_BYTES: usize = 2000;

/// An upstream's own words.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    pub text: String,
    /// The upstream's `code`, or else its `type`.
    pub code: Option<String>,
    /// Its `type`.
    pub kind: Option<String>,
    /// Clients can read it as it came: an object `error` with a `message`.
    pub is_readable: bool,
}

impl Reason {
    /// Reads a JSON body; `None` if it gives no reason.
    ///
    /// | shape | of |
    /// | --- | --- |
    /// | `{"error":{"message","type","code"}}` | OpenAI, vLLM, llama.cpp, LocalAI, Ollama |
    /// | `{"error":"text","error_type"}` | TGI, LM Studio, Ollama's own routes, vLLM for a key |
    /// | `{"object":"error","message","code"}` | FastChat, older vLLM |
    /// | `{"detail":"text"}`, `{"detail":[{"loc","msg"}]}` | FastAPI and what is made with it |
    pub fn read(body: &[u8]) -> Option<Self> {
        let Value::Object(body) = serde_json::from_slice(body).ok()? else {
            return None;
        };
        match body.get("error") {
            Some(Value::Object(error)) => {
                let text = error.get("message")?.as_str()?;
                return Some(Self {
                    text: text.to_owned(),
                    code: code(error),
                    kind: member(error, "type"),
                    is_readable: true,
                });
            }
            Some(Value::String(text)) => return Self::other(text, &body),
            _ => {}
        }
        if let Some(Value::String(text)) = body.get("message") {
            return Self::other(text, &body);
        }
        match body.get("detail")? {
            Value::String(text) => Self::other(text, &body),
            Value::Object(error) => Self::other(error.get("message")?.as_str()?, error),
            Value::Array(faults) => {
                let faults: Vec<String> = faults.iter().filter_map(fault).collect();
                Self::other(&faults.join("; "), &body)
            }
            _ => None,
        }
    }

    /// A text that stands for the whole body.
    pub fn plain(body: &[u8]) -> Option<Self> {
        Self::other(std::str::from_utf8(body).ok()?, &Map::new())
    }

    fn other(text: &str, about: &Map<String, Value>) -> Option<Self> {
        let text = text.trim();
        let end = text.floor_char_boundary(TEXT_BYTES);
        (!text.is_empty()).then(|| Self {
            text: text[..end].to_owned(),
            code: code(about),
            kind: member(about, "type"),
            is_readable: false,
        })
    }

    /// The text in the shape that clients can read.
    pub fn to_body(&self, status: StatusCode, api: Api) -> Bytes {
        let (kind, code) = match status.as_u16() {
            404 => ("not_found_error", "model_not_found"),
            413 => ("request_too_large", "body_too_large"),
            429 => ("rate_limit_error", "rate_limit_exceeded"),
            _ => ("invalid_request_error", "invalid_request"),
        };
        let code = self.code.as_deref().unwrap_or(code);
        let object = match api {
            Api::Messages => {
                json!({"type": "error", "error": {"type": kind, "message": self.text}})
            }
            _ => {
                json!({"error": {"message": self.text, "type": kind, "param": null, "code": code}})
            }
        };
        object.to_string().into()
    }

    /// Whether one of the phrases stands in the text, whatever its letters' case.
    pub fn speaks_of(&self, phrases: &[&str]) -> bool {
        let text = self.text.to_ascii_lowercase();
        phrases.iter().any(|phrase| text.contains(phrase))
    }

    /// Whether a word stands in the text, whatever its letters' case.
    pub fn has_word(&self, word: &str) -> bool {
        let mut words = self.text.split(|c: char| !c.is_alphanumeric());
        words.any(|it| it.eq_ignore_ascii_case(word))
    }
}

fn code(error: &Map<String, Value>) -> Option<String> {
    ["code", "type", "error_type"]
        .iter()
        .find_map(|name| member(error, name))
}

fn member(error: &Map<String, Value>, name: &str) -> Option<String> {
    match error.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A fault of `FastAPI`'s: where, and what. What was sent is left out.
fn fault(fault: &Value) -> Option<String> {
    let text = fault.get("msg")?.as_str()?;
    let place = fault.get("loc").and_then(Value::as_array)?;
    let place: Vec<String> = place
        .iter()
        .map(|step| {
            step.as_str()
                .map_or_else(|| step.to_string(), str::to_owned)
        })
        .collect();
    Some(format!("{}: {text}", place.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_error_tells_its_text_and_its_code() {
        let long = "é".repeat(TEXT_BYTES);
        let cases = [
            (
                r#"{"error":{"message":"m","type":"t","param":null,"code":400}}"#,
                Some(("m", Some("400"), true)),
            ),
            (
                r#"{"error":{"message":"m","type":"t","code":null}}"#,
                Some(("m", Some("t"), true)),
            ),
            (
                r#"{"error":"m","error_type":"validation"}"#,
                Some(("m", Some("validation"), false)),
            ),
            (r#"{"error":"m"}"#, Some(("m", None, false))),
            (
                r#"{"object":"error","message":"m","code":40303}"#,
                Some(("m", Some("40303"), false)),
            ),
            (r#"{"detail":"m"}"#, Some(("m", None, false))),
            (
                r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options",0],"msg":"Extra inputs","input":{"a":1}},{"loc":["body"],"msg":"x"}]}"#,
                Some(("body.stream_options.0: Extra inputs; body: x", None, false)),
            ),
            (
                r#"{"detail":{"message":"m","code":"c"}}"#,
                Some(("m", Some("c"), false)),
            ),
            (r#"{"error":{"code":5}}"#, None),
            (r#"{"error":null,"detail":[]}"#, None),
            (r#"{"error":" "}"#, None),
            (r#"["m"]"#, None),
            ("m", None),
        ];
        for (body, expected) in cases {
            let read = Reason::read(body.as_bytes());
            let seen = read
                .as_ref()
                .map(|it| (it.text.as_str(), it.code.as_deref(), it.is_readable));
            assert_eq!(seen, expected, "{body}");
        }
        let cut = Reason::plain(long.as_bytes()).expect("a text");
        assert_eq!(cut.text.len(), TEXT_BYTES);
    }
}
