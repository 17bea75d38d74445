//! What a call is to meet: how long, how fast, and which fault. Chosen by a test, or by a directive
//! in the prompt (`[[tokens=100 delay_ms=50 cut_after=3]]`) where the server runs as a program.

use std::time::Duration;

use super::plan::Plan;
use super::sse::Framing;

/// How one call is answered. The default is a proper answer at once.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Tokens generated for every choice, within the maximum asked for.
    pub tokens: Option<u64>,
    /// The text of the answer, in place of the engine's own.
    pub text: Option<String>,
    /// Silence before the head.
    pub head_delay: Duration,
    /// Time that each token takes, the first too.
    pub token_delay: Duration,
    /// Makes its tokens whether or not anybody reads them, and goes on for so long after the client
    /// has gone, as an engine does. Else tokens are made as they are read.
    pub ahead: Option<Duration>,
    /// A fixed answer in place of any generation.
    pub answer: Option<Answer>,
    /// What goes wrong on the way.
    pub fault: Fault,
    /// The `finish_reason` in place of the right one, such as `abort`.
    pub finish_reason: Option<String>,
    /// Never speaks of usage, like a server that ignores `stream_options`.
    pub no_usage: bool,
    /// Tokens of the prompt that were found in the cache; shown in the usage.
    pub cached_tokens: Option<u64>,
    pub framing: Framing,
    /// Calls this tool (empty: the first one offered) if tools are offered.
    pub call_tool: Option<String>,
    /// Plays the agent's turn: write a file, run a command, read the file, say what came back.
    pub agent: bool,
    /// Answers with the recording of this name, whatever is asked.
    pub recording: Option<String>,
}

/// A fixed HTTP answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What goes wrong. `after` counts events of a stream; a plain answer breaks in its middle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The connection closes before any byte of the answer.
    HangUpBeforeHead,
    /// Not a byte is ever sent; the connection stays open.
    MuteBeforeHead,
    /// The connection closes without a last chunk.
    Cut { after: usize },
    /// The stream ends properly as HTTP, without `finish_reason`, usage and `[DONE]`.
    EndEarly { after: usize },
    /// Nothing more comes; the connection stays open.
    Mute { after: usize },
    /// The engine dies: an error event, then `[DONE]` where the route has one. Plain: a 500.
    EngineError { after: usize },
    /// An event that is not JSON, in the midst of good ones.
    Garbage { after: usize },
    /// An event of so many bytes, in the midst of others.
    Huge { after: usize, bytes: usize },
    /// All but `[DONE]`.
    NoDone,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// An HTML page, as a proxy in between answers.
    pub fn html(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    /// A status and nothing else.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// vLLM's refusal when its queue is full.
    pub fn queue_full() -> Self {
        let text = "The engine is currently busy and cannot accept new requests. \
                    Please try again later or on a different instance.";
        let error = serde_json::json!({"error": {
            "message": text, "type": "Service Unavailable", "param": null, "code": 503
        }});
        Self::json(503, error.to_string())
    }

    /// Cloud Run's front end when it has no instance to give a request to.
    pub fn no_instance() -> Self {
        Self::new(429, "text/html", "Rate exceeded.").header("server", "Google Frontend")
    }

    /// The front end's page for a service that is not there yet.
    pub fn not_available_yet() -> Self {
        let page = "<html><head><title>503 Server Error</title></head>\n<body><h1>Error: Server Error</h1>\n\
                    <h2>The service you requested is not available yet.<p>Please try again in 30 seconds.</h2>\n</body></html>";
        Self::html(503, page).header("server", "Google Frontend")
    }

    /// The front end in two words: the instance ended under the request.
    pub fn unavailable() -> Self {
        Self::new(503, "text/plain", "Service Unavailable")
    }

    /// llama.cpp's server while it reads its model.
    pub fn loading() -> Self {
        let error = serde_json::json!({"error": {
            "code": 503, "message": "Loading model", "type": "unavailable_error"
        }});
        Self::json(503, error.to_string())
    }

    /// vLLM while it finishes what it has and takes nothing new.
    pub fn draining() -> Self {
        let error = serde_json::json!({"error": {
            "message": "cannot schedule new futures after shutdown",
            "type": "InternalServerError", "param": null, "code": 500
        }});
        Self::json(500, error.to_string())
    }

    /// As it is played.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::bytes(self.status, "", self.body.clone());
        plan.headers.clone_from(&self.headers);
        plan
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn new(status: u16, kind: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
        .header("content-type", kind)
    }
}

impl Behaviour {
    /// A proper answer of so many tokens.
    pub fn tokens(tokens: u64) -> Self {
        Self {
            tokens: Some(tokens),
            ..Self::default()
        }
    }

    /// A proper answer with this text.
    pub fn text(text: &str) -> Self {
        Self {
            text: Some(text.to_owned()),
            ..Self::default()
        }
    }

    /// A fixed answer.
    pub fn answer(answer: Answer) -> Self {
        Self {
            answer: Some(answer),
            ..Self::default()
        }
    }

    /// A proper beginning, then this fault.
    pub fn fault(fault: Fault) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }

    /// The answer of a recording.
    pub fn recording(name: &str) -> Self {
        Self {
            recording: Some(name.to_owned()),
            ..Self::default()
        }
    }

    /// The same at this pace.
    #[must_use]
    pub fn paced(mut self, token_delay: Duration) -> Self {
        self.token_delay = token_delay;
        self
    }

    /// The same with the directives of a prompt on top.
    ///
    /// # Errors
    /// The first directive that is unknown or has no proper value.
    pub fn directed_by(mut self, prompt: &str) -> Result<Self, String> {
        for (key, value) in directives(prompt) {
            self.direct(&key, &value)
                .map_err(|()| format!("no such directive: [[{key}={value}]]"))?;
        }
        Ok(self)
    }

    fn direct(&mut self, key: &str, value: &str) -> Result<(), ()> {
        let number = || value.parse::<usize>().map_err(|_| ());
        let delay = || value.parse().map(Duration::from_millis).map_err(|_| ());
        match key {
            "tokens" => self.tokens = Some(value.parse().map_err(|_| ())?),
            "text" => self.text = Some(value.to_owned()),
            "head_delay_ms" => self.head_delay = delay()?,
            "delay_ms" => self.token_delay = delay()?,
            "ahead_ms" => self.ahead = Some(delay()?),
            "finish" => self.finish_reason = Some(value.to_owned()),
            "cached" => self.cached_tokens = Some(value.parse().map_err(|_| ())?),
            "no_usage" => self.no_usage = true,
            "crlf" => self.framing.crlf = true,
            "comments" => self.framing.comments = true,
            "split" => self.framing.split_bytes = Some(number()?),
            "call" => self.call_tool = Some(value.to_owned()),
            "agent" => self.agent = true,
            "status" => self.canned().status = value.parse().map_err(|_| ())?,
            "body" => value.clone_into(&mut self.canned().body),
            "retry_after" => *self.canned() = self.canned().clone().header("retry-after", value),
            "content_type" => *self.canned() = self.canned().clone().header("content-type", value),
            _ => self.fault = fault(key, number())?,
        }
        Ok(())
    }

    fn canned(&mut self) -> &mut Answer {
        self.answer.get_or_insert_with(|| Answer {
            status: 500,
            ..Answer::default()
        })
    }
}

fn fault(key: &str, number: Result<usize, ()>) -> Result<Fault, ()> {
    Ok(match key {
        "hang_up" => Fault::HangUpBeforeHead,
        "mute" => Fault::MuteBeforeHead,
        "cut_after" => Fault::Cut { after: number? },
        "end_after" => Fault::EndEarly { after: number? },
        "mute_after" => Fault::Mute { after: number? },
        "error_after" => Fault::EngineError { after: number? },
        "garbage_after" => Fault::Garbage { after: number? },
        "huge" => Fault::Huge {
            after: 1,
            bytes: number?,
        },
        "no_done" => Fault::NoDone,
        _ => return Err(()),
    })
}

/// The `key=value` pairs of every `[[...]]`; a value may stand in double quotes, a bare key has an
/// empty one.
fn directives(prompt: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = prompt;
    while let Some((inside, after)) = rest.split_once("[[").and_then(|(_, r)| r.split_once("]]")) {
        rest = after;
        let mut inside = inside.trim();
        while !inside.is_empty() {
            let end = inside.find([' ', '=']).unwrap_or(inside.len());
            let key = inside[..end].to_owned();
            let mut value = String::new();
            inside = &inside[end..];
            if let Some(text) = inside.strip_prefix('=') {
                let quoted = text.strip_prefix('"').and_then(|text| text.split_once('"'));
                let plain = || text.split_once(' ').unwrap_or((text, ""));
                let (taken, left) = quoted.unwrap_or_else(plain);
                taken.clone_into(&mut value);
                inside = left;
            }
            found.push((key, value));
            inside = inside.trim_start();
        }
    }
    found
}
