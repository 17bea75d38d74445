//! What a stream is judged by: what its client asked for, what one event does to it, and how it
//! stands. Pure.

use super::tokens::Tokens;

/// What the client itself asked of a stream of choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `stream_options.include_usage`.
    pub usage: bool,
    /// `stream_options.continuous_usage_stats`, which counts only with `include_usage`.
    pub continuous: bool,
    /// `n` where a list of prompts is possible; for chat anything larger than every index.
    pub choices_per_prompt: u64,
}

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It goes on, or broke off.
    Open,
    /// The API's own end was seen.
    Proper,
    /// The upstream reported an error, which was passed on.
    UpstreamError,
    /// The upstream declared the end without the API's own end, or sent an error that clients
    /// cannot read. The caller owes the client an error event.
    Improper,
}

/// What an event does to the stream.
pub(super) struct Verdict {
    pub(super) end: End,
    pub(super) usage: Option<Tokens>,
}

impl Verdict {
    /// Nothing: the stream goes on.
    pub(super) const OPEN: Self = Self::end(End::Open);

    pub(super) const fn end(end: End) -> Self {
        Self { end, usage: None }
    }

    pub(super) const fn usage(usage: Option<Tokens>) -> Self {
        Self {
            end: End::Open,
            usage,
        }
    }
}
