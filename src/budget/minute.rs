//! Requests and tokens per minute of one principal in this instance.

use std::time::Duration;

use super::Standing;

/// Limits of any sixty seconds, and what was used of them.
#[derive(Debug)]
pub struct MinuteLimits {
    pub requests: Option<u64>,
    pub tokens: Option<u64>,
}

/// One call's part of the minute it began in.
#[derive(Debug)]
pub struct MinuteShare {
    tokens: u64,
}

impl MinuteLimits {
    #[must_use]
    pub fn new(requests: Option<u64>, tokens: Option<u64>) -> Self {
        Self { requests, tokens }
    }

    /// How requests and tokens stand.
    #[must_use]
    pub fn standing(&self) -> (Option<Standing>, Option<Standing>) {
        (None, None)
    }

    /// Takes a call in, which may use up to `tokens`.
    ///
    /// # Errors
    /// The time after which there is room again, at most a minute.
    pub fn take(&self, tokens: u64) -> Result<MinuteShare, Duration> {
        Ok(MinuteShare { tokens })
    }
}

impl MinuteShare {
    /// The call has ended and used this many tokens.
    pub fn settle(self, tokens: u64) {
        let _ = (self.tokens, tokens);
    }
}
