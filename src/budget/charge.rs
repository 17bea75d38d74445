//! What an ended call costs its budget: the engine's count where there is one, else an upper bound.
//! Pure.

use std::time::Duration;

/// What is known of the tokens of an ended call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The engine's final usage, prompt and completion.
    Final(u64),
    /// The engine's last running count, and for how long at most it may have gone on unseen.
    Running { tokens: u64, unseen: Duration },
    /// No count.
    Nothing,
}

/// How far the call came, as far as its cost goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was sent, or the upstream refused it before it began.
    NotBegun,
    /// The engine may have worked on it.
    Begun,
}

/// Tokens to charge of a reservation of `reserved`.
#[must_use]
pub fn charge(ending: Ending, known: Known, reserved: u64) -> u64 {
    match (ending, known) {
        (Ending::NotBegun, _) => 0,
        (Ending::Begun, Known::Final(tokens)) => tokens,
        (Ending::Begun, Known::Running { .. } | Known::Nothing) => reserved,
    }
}
