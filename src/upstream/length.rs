//! Refusals for length, in the words of each server, and what the client gets for them: an error that
//! lets it shorten its conversation.

use http::StatusCode;
use serde_json::json;

use super::failure::{Refusal, Rejected, json_headers};
use super::reason::Reason;
use super::stream::Api;
use crate::error::Code;

/// How servers say that something is too long for the model.
const OF_LENGTH: [&str; 10] = [
    // vLLM, FastChat, llama-cpp-python, Ollama, LM Studio.
    "maximum context length",
    "max_model_len",
    "context length",
    "context window",
    // llama.cpp, LocalAI.
    "context size",
    "exceed_context_size",
    // TGI: with the output, and without.
    "max_new_tokens",
    "`inputs` must have less than",
    // Gateways before other servers.
    "prompt is too long",
    "prompt too long",
];
/// How they say that the asked output is a part of it.
const OF_OUTPUT: [&str; 6] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "output tokens",
    "completion",
];

/// Whether a refusal is about length, and what made it too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// The prompt alone does not fit.
    Prompt,
    /// Prompt and asked output together may not fit.
    Together,
}

impl Rejected {
    /// Reads the text for what it says of length.
    pub fn too_long(&self) -> Option<TooLong> {
        if !matches!(self.status.as_u16(), 400 | 413 | 422) {
            return None;
        }
        let reason = Reason::read(&self.body)?;
        if !reason.speaks_of(&OF_LENGTH)
            && reason.code.as_deref() != Some(Code::ContextLengthExceeded.as_str())
        {
            return None;
        }
        let prompt_alone = reason.speaks_of(&["even without any output tokens"]);
        Some(if prompt_alone || !reason.speaks_of(&OF_OUTPUT) {
            TooLong::Prompt
        } else {
            TooLong::Together
        })
    }

    /// A prompt that is too long, in the shape that lets clients shorten their conversation. The
    /// upstream's text is kept.
    pub fn into_context_refusal(self, api: Api) -> Refusal {
        let text = Reason::read(&self.body).map_or_else(
            || "the prompt is longer than the model's context".to_owned(),
            |reason| reason.text,
        );
        let code = Code::ContextLengthExceeded.as_str();
        let kind = "invalid_request_error";
        let object = match api {
            Api::Messages => json!({"type": "error", "error": {"type": kind, "message": text}}),
            _ => json!({"error": {"message": text, "type": kind, "param": null, "code": code}}),
        };
        Refusal {
            status: StatusCode::BAD_REQUEST,
            headers: json_headers(),
            body: object.to_string().into(),
            code: code.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_server_is_understood_when_it_speaks_of_length() {
        use TooLong::{Prompt, Together};
        let object =
            |text: &str| json!({"error": {"message": text, "type": "invalid_request_error"}});
        let words = |text: &str| json!({"error": text});
        let cases: [(u16, Value, Option<TooLong>); 12] = [
            (
                400,
                object(
                    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                ),
                Some(Prompt),
            ),
            (
                422,
                words(
                    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 100 `max_new_tokens`",
                ),
                Some(Together),
            ),
            (
                422,
                words(
                    "Input validation error: `inputs` must have less than 4000 tokens. Given: 5000",
                ),
                Some(Prompt),
            ),
            (
                400,
                words(
                    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input.",
                ),
                Some(Prompt),
            ),
            (
                400,
                words(
                    "Trying to keep the first 14538 tokens when context the overflows. However, the model is loaded with context length of only 2048 tokens, which is not enough.",
                ),
                Some(Prompt),
            ),
            (
                400,
                object("the input length exceeds the context length"),
                Some(Prompt),
            ),
            (
                400,
                json!({"object": "error", "message": "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens (2000 in the messages, 100 in the completion).", "code": 40303}),
                Some(Together),
            ),
            (
                400,
                object(
                    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, which exceeds this limit even without any output tokens.",
                ),
                Some(Prompt),
            ),
            (
                400,
                json!({"error": {"message": "too much", "code": "context_length_exceeded"}}),
                Some(Prompt),
            ),
            (400, object("temperature must be positive"), None),
            // Whether anything was generated by then nobody knows.
            (
                500,
                object("the request exceeds the available context size"),
                None,
            ),
            (400, json!([]), None),
        ];
        for (status, body, expected) in cases {
            let rejected = Rejected {
                status: StatusCode::from_u16(status).expect("a status"),
                headers: HeaderMap::new(),
                body: Bytes::from(body.to_string()),
                advice: None,
            };
            assert_eq!(rejected.too_long(), expected, "{body}");
        }
    }
}
