//! An answer before it is played: status, headers, and the bytes or events in their order, each with
//! the tokens it stands for. It knows no faults and no clock.

use bytes::Bytes;
use serde_json::Value;

/// An answer that is still to be played.
#[derive(Clone, Debug)]
pub struct Plan {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// Tokens of the prompts that the engine took.
    pub prompt_tokens: u64,
    /// How this route tells of a failed engine in a stream; what follows it.
    pub failure: Vec<Bytes>,
    /// The recording that this plan was read from.
    pub recording: Option<String>,
}

/// The content of an answer.
#[derive(Clone, Debug)]
pub enum Body {
    /// All at once, after so many tokens were generated.
    Plain {
        bytes: Bytes,
        tokens: u64,
    },
    Stream(Vec<Event>),
}

/// An event of a stream.
#[derive(Clone, Debug)]
pub struct Event {
    pub bytes: Bytes,
    /// Tokens, over all choices, that were generated when this event went out.
    pub generated: u64,
}

impl Plan {
    /// Any bytes; an empty content type is left out.
    pub fn bytes(status: u16, kind: &str, bytes: impl Into<Bytes>) -> Self {
        let mut headers = Vec::new();
        if !kind.is_empty() {
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        let body = Body::Plain {
            bytes: bytes.into(),
            tokens: 0,
        };
        Self {
            status,
            headers,
            body,
            prompt_tokens: 0,
            failure: Vec::new(),
            recording: None,
        }
    }

    /// A JSON value.
    pub fn json(status: u16, value: &Value) -> Self {
        Self::bytes(status, "application/json", value.to_string())
    }

    /// A JSON answer that took the engine so many tokens.
    pub fn generated(value: &Value, prompt_tokens: u64, tokens: u64) -> Self {
        let mut plan = Self::json(200, value);
        plan.prompt_tokens = prompt_tokens;
        if let Body::Plain { tokens: made, .. } = &mut plan.body {
            *made = tokens;
        }
        plan
    }

    /// A stream.
    pub fn stream(kind: &str, prompt_tokens: u64, events: Vec<Event>) -> Self {
        let mut plan = Self::bytes(200, kind, Bytes::new());
        plan.prompt_tokens = prompt_tokens;
        plan.body = Body::Stream(events);
        plan
    }
}

/// Events in the making: each takes the count of tokens so far.
#[derive(Default)]
pub struct Events {
    made: Vec<Event>,
    generated: u64,
}

impl Events {
    /// So many more tokens were generated; the next event shows them.
    pub fn grow(&mut self, tokens: u64) {
        self.generated += tokens;
    }

    /// An event that has only data.
    pub fn data(&mut self, data: &Value) {
        self.text(&format!("data: {data}\n\n"));
    }

    /// An event with a name.
    pub fn named(&mut self, name: &str, data: &Value) {
        self.text(&format!("event: {name}\ndata: {data}\n\n"));
    }

    /// The end as OpenAI's streams have it.
    pub fn done(&mut self) {
        self.text("data: [DONE]\n\n");
    }

    /// All of them.
    pub fn finish(self) -> Vec<Event> {
        self.made
    }

    fn text(&mut self, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.made.push(Event {
            bytes,
            generated: self.generated,
        });
    }
}
