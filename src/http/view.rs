//! The side view of an answer that passes: counts its tokens and sees how it ends. For streams it
//! also decides which bytes the client sees.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use crate::upstream::{
    Api, Asked, Capture, EVENT_BYTES, End, Endpoint, Splitter, Stream, Target, Tokens,
};
use crate::usage::CountedBy;

/// What is seen of an answer.
pub enum View {
    Events {
        splitter: Splitter,
        stream: Box<Stream>,
        /// Events on their way out, kept for its allocation.
        scratch: Vec<Bytes>,
        counts_choices: bool,
    },
    Plain {
        usage: Capture,
        /// Its text may be estimated: an answer of one choice or more.
        has_choices: bool,
        bytes: u64,
        /// The last byte was one that a JSON object may end with.
        ends: bool,
        counts_choices: bool,
    },
}

impl View {
    /// Of a stream of events.
    pub fn events(endpoint: Endpoint, asked: Asked, target: &Target) -> Self {
        // What runs along is the server's own way where it was not asked for.
        let is_vllm = target.knowledge().is_vllm.unwrap_or(true);
        let continuous = asked.continuous || !is_vllm;
        let asked = Asked {
            continuous,
            ..asked
        };
        let stream = Stream::new(endpoint.api(), asked, target.fingerprint());
        Self::Events {
            splitter: Splitter::default(),
            stream: Box::new(stream),
            scratch: Vec::new(),
            counts_choices: is_vllm,
        }
    }

    /// Of any other answer.
    pub fn plain(endpoint: Endpoint, target: Option<&Target>) -> Self {
        Self::Plain {
            usage: Capture::new("usage"),
            has_choices: endpoint.api() == Api::Choices,
            bytes: 0,
            ends: false,
            counts_choices: target.is_none_or(|it| it.knowledge().is_vllm.unwrap_or(true)),
        }
    }

    /// Whether the engine's count is surely of all choices: llama.cpp counts the first of several.
    pub fn counts_choices(&self) -> bool {
        match self {
            Self::Plain { counts_choices, .. } | Self::Events { counts_choices, .. } => {
                *counts_choices
            }
        }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Events { .. })
    }

    /// Takes the upstream's next bytes, which were not there yet at `since`; what the client sees of
    /// them goes to `out`.
    pub fn feed(&mut self, data: Bytes, since: Instant, out: &mut VecDeque<Bytes>) -> End {
        match self {
            Self::Plain {
                usage, bytes, ends, ..
            } => {
                usage.feed(&data);
                *bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                if let Some(last) = data.trim_ascii_end().last() {
                    *ends = *last == b'}';
                }
                out.push_back(data);
                End::Open
            }
            Self::Events {
                splitter,
                stream,
                scratch,
                ..
            } => {
                splitter.push(data);
                stream.set_moment(since);
                while let Some(event) = splitter.next_event() {
                    stream.event(event, scratch);
                }
                out.extend(join(scratch));
                match stream.end() {
                    End::Open if splitter.waiting_bytes() > EVENT_BYTES => End::Improper,
                    end => end,
                }
            }
        }
    }

    /// The upstream ended its body in order. `Open` if the answer was not complete.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) -> End {
        let Self::Events {
            splitter,
            stream,
            scratch,
            ..
        } = self
        else {
            return End::Proper;
        };
        stream.finish(&splitter.finish(), scratch);
        out.extend(scratch.drain(..));
        stream.end()
    }

    /// Nothing more will come: what was held back goes to `out`, half an event does not.
    pub fn release(&mut self, out: &mut VecDeque<Bytes>) {
        if let Self::Events {
            stream, scratch, ..
        } = self
        {
            stream.release(scratch);
            out.extend(scratch.drain(..));
        }
    }

    /// The best count there is by now.
    pub fn tokens(&self) -> Option<(Tokens, CountedBy)> {
        // Some servers send a usage of zeros where they did not count.
        let counted = |tokens: Option<Tokens>, by| {
            let tokens = tokens.filter(|it| it.prompt > 0 || it.completion > 0);
            tokens.map(|tokens| (tokens, by))
        };
        match self {
            Self::Plain {
                usage,
                has_choices,
                bytes,
                ends,
                ..
            } => {
                let told = Tokens::parse(usage.value().trim_ascii());
                let guess = (*has_choices && *ends).then(|| Tokens::of_answer(*bytes));
                counted(told, CountedBy::Engine).or_else(|| counted(guess, CountedBy::Estimate))
            }
            Self::Events { stream, .. } => counted(stream.final_usage(), CountedBy::Engine)
                .or_else(|| counted(stream.running_usage(), CountedBy::Running))
                .or_else(|| counted(stream.estimate(), CountedBy::Estimate)),
        }
    }

    /// How many sequences the running count is of.
    pub fn running_sequences(&self) -> u64 {
        match self {
            Self::Plain { .. } => 0,
            Self::Events { stream, .. } => stream.running_sequences(),
        }
    }

    /// Generated tokens by the running count, of a stream that has one.
    pub fn running_completion(&self) -> Option<u64> {
        match self {
            Self::Plain { .. } => None,
            Self::Events { stream, .. } => Some(stream.running_usage()?.completion),
        }
    }

    /// A time before which the engine cannot have made all of the running count; what it made since
    /// then may not be in it.
    pub fn counted_since(&self) -> Option<Instant> {
        match self {
            Self::Plain { .. } => None,
            Self::Events { stream, .. } => stream.counted_since(),
        }
    }

    /// The `system_fingerprint` that the stream showed.
    pub fn fingerprint(&self) -> Option<&Bytes> {
        match self {
            Self::Plain { .. } => None,
            Self::Events { stream, .. } => stream.fingerprint(),
        }
    }
}

/// Events that came together leave together: one frame costs less than many.
fn join(events: &mut Vec<Bytes>) -> Option<Bytes> {
    if events.len() < 2 {
        return events.pop();
    }
    let joined = events.concat();
    events.clear();
    Some(joined.into())
}

/// Whether an answer is a stream of events; that decides how it is seen.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}
