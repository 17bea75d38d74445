//! Token counts as upstreams report them, in the dialects of chat, responses and messages. Pure.

use serde::Deserialize;

use super::estimate;

/// What a call used, by the engine's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// With cached ones.
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
}

/// The `usage` object of any API: chat and completions count prompt and completion, responses and
/// messages input and output.
#[derive(Deserialize)]
struct Wire {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Tokens {
    /// A guess for a whole answer of this size that tells no usage; its prompt is not known here.
    #[must_use]
    pub fn of_answer(body_bytes: u64) -> Self {
        Self {
            completion: estimate::completion(body_bytes),
            ..Self::default()
        }
    }

    /// Reads a `usage` value; `None` if it counts no tokens (null, or seconds of audio).
    #[must_use]
    pub fn parse(usage: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(usage).ok()?;
        let cached =
            |details: &Option<Details>| details.as_ref().and_then(|d| d.cached_tokens).unwrap_or(0);
        if let Some(input) = wire.input_tokens {
            // Anthropic counts what came from the cache beside the input, OpenAI within it.
            let read = wire.cache_read_input_tokens.unwrap_or(0);
            let created = wire.cache_creation_input_tokens.unwrap_or(0);
            return Some(Self {
                prompt: input.saturating_add(read).saturating_add(created),
                cached: read.saturating_add(cached(&wire.input_tokens_details)),
                completion: wire.output_tokens.unwrap_or(0),
            });
        }
        let completion = wire.completion_tokens.unwrap_or(0);
        let prompt = wire.prompt_tokens.or_else(|| {
            wire.total_tokens
                .map(|total| total.saturating_sub(completion))
        })?;
        Some(Self {
            prompt,
            cached: cached(&wire.prompt_tokens_details),
            completion,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_counts_the_same() {
        let expected = Some(Tokens {
            prompt: 15,
            cached: 4,
            completion: 14,
        });
        for usage in [
            r#"{"prompt_tokens":15,"total_tokens":29,"completion_tokens":14,"prompt_tokens_details":{"cached_tokens":4}}"#,
            r#"{"input_tokens":15,"output_tokens":14,"total_tokens":29,"input_tokens_details":{"cached_tokens":4}}"#,
            r#"{"input_tokens":11,"output_tokens":14,"cache_read_input_tokens":4}"#,
        ] {
            assert_eq!(Tokens::parse(usage.as_bytes()), expected, "{usage}");
        }
        assert_eq!(
            Tokens::parse(br#"{"total_tokens":7}"#),
            Some(Tokens {
                prompt: 7,
                cached: 0,
                completion: 0
            })
        );
        for usage in [
            "null",
            r#"{"type":"duration","seconds":3}"#,
            "",
            "[]",
            r#"{"prompt_tokens":-1}"#,
        ] {
            assert_eq!(Tokens::parse(usage.as_bytes()), None, "{usage}");
        }
    }
}
