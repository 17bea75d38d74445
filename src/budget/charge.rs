//! What an ended call costs its budget: the engine's count where there is one, else an upper bound.
//! Pure.
//!
//! | ending | known | charge |
//! | --- | --- | --- |
//! | not begun | anything | 0 |
//! | begun | the engine's final usage | that |
//! | begun | a running count, and later silence | count + what can have come since, at most the reservation |
//! | begun | nothing | the whole reservation |
//!
//! What can have come since a running count is sequences x speed x (unseen + [`MARGIN`]). It bounds
//! what the engine counts if:
//!
//! 1. Running counts are cumulative over all sequences and hold the prompt. A count that is per
//!    sequence must be summed before it comes here.
//! 2. `unseen` begins no later than the engine made that count, and ends no earlier than our side of
//!    the upstream connection was closed. The moment of *reading* the count is too late a beginning
//!    if it had lain in a buffer; the last moment before it at which nothing was left to be read is
//!    early enough. It is not enough to have read everything later on: an engine also computes without
//!    sending, while a parser of tool calls holds its text back.
//! 3. From the close to the last token computed for the call at most [`MARGIN`] passes: the way of the
//!    close through the network and the engine's front end, and the steps that were scheduled by
//!    then. Steps that take longer than that make one token (a few with speculation) for a sequence,
//!    and the least speed leaves room for [`LEAST_SPEED`] x [`MARGIN`] of them.
//! 4. No sequence is computed faster than [`LEAST_SPEED`], or than [`FASTER`] times what this very
//!    stream has shown. Single sequences of today's engines stay below two hundred tokens in a second on
//!    models of the size that is served behind a gateway; small ones with speculation come near the
//!    bound, and show it in their own pace.
//!
//! The reservation bounds the call in any case, as the engine was told of its output's maximum.

use std::time::Duration;

/// Tokens in a second that a sequence may come at, unless it is seen to be faster.
const LEAST_SPEED: u64 = 500;
/// A stream may become so many times as fast as it was seen to be.
const FASTER: u64 = 4;
/// From the close of the upstream connection to the engine's last token: some tens of milliseconds on
/// an idle machine, hundreds where the engine's front end is overloaded.
const MARGIN: Duration = Duration::from_secs(1);
/// What is read at once says nothing of the pace at which it was made.
const LEAST_PACE: Duration = Duration::from_millis(250);

/// What is known of the tokens of an ended call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The engine's final usage, prompt and completion.
    Final(u64),
    /// The engine's last running count: prompt and completion of all sequences.
    Running {
        tokens: u64,
        /// Sequences that are generated, at least one.
        sequences: u64,
        pace: Pace,
        /// From a moment at which everything was read, before the count came, to the close.
        unseen: Duration,
    },
    /// No count.
    Nothing,
}

/// How fast a stream was seen to come: completion tokens from its first running count to the last,
/// all sequences together. The default is that of a stream with a single count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub tokens: u64,
    pub over: Duration,
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
        (Ending::Begun, Known::Nothing) => reserved,
        (
            Ending::Begun,
            Known::Running {
                tokens,
                sequences,
                pace,
                unseen,
            },
        ) => {
            let since = unseen_tokens(sequences.max(1), pace, unseen);
            // A count above the reservation is one all the same.
            tokens.saturating_add(since).min(reserved).max(tokens)
        }
    }
}

/// The most that can have come in a time of silence, and until the engine has noticed the close.
fn unseen_tokens(sequences: u64, pace: Pace, unseen: Duration) -> u64 {
    let micros = unseen.saturating_add(MARGIN).as_micros();
    let least =
        u128::from(sequences.saturating_mul(LEAST_SPEED)).saturating_mul(micros) / 1_000_000;
    let over = pace.over.max(LEAST_PACE).as_micros();
    let seen = u128::from(pace.tokens.saturating_mul(FASTER)).saturating_mul(micros) / over;
    // Both were rounded down.
    u64::try_from(least.max(seen) + 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running(tokens: u64, sequences: u64, pace: Pace, unseen_ms: u64) -> Known {
        Known::Running {
            tokens,
            sequences,
            pace,
            unseen: Duration::from_millis(unseen_ms),
        }
    }

    #[test]
    fn each_outcome_has_its_charge() {
        let slow = Pace {
            tokens: 100,
            over: Duration::from_secs(2),
        };
        let fast = Pace {
            tokens: 4_000,
            over: Duration::from_secs(2),
        };
        let burst = Pace {
            tokens: 100,
            over: Duration::ZERO,
        };
        let cases = [
            (Ending::NotBegun, Known::Nothing, 0),
            (Ending::NotBegun, Known::Final(7), 0),
            (Ending::Begun, Known::Final(0), 0),
            (Ending::Begun, Known::Final(12_000), 12_000),
            (Ending::Begun, Known::Nothing, 10_000),
            // A second and a quarter with the margin, at 500 in a second.
            (
                Ending::Begun,
                running(1_000, 1, Pace::default(), 250),
                1_626,
            ),
            (Ending::Begun, running(1_000, 1, slow, 250), 1_626),
            (Ending::Begun, running(1_000, 3, slow, 250), 2_876),
            // 2,000 in a second, perhaps 8,000; 100 at once are 400 in a second.
            (Ending::Begun, running(1_000, 1, fast, 0), 9_001),
            (Ending::Begun, running(1_000, 1, burst, 250), 3_001),
            (Ending::Begun, running(1_000, 1, slow, 3_600_000), 10_000),
            (Ending::Begun, running(11_000, 1, slow, 250), 11_000),
        ];
        for (ending, known, expected) in cases {
            assert_eq!(
                charge(ending, known, 10_000),
                expected,
                "{ending:?} {known:?}"
            );
        }
    }

    proptest! {
        /// An engine that makes a token for each sequence in every step, whatever the steps take as
        /// long as they keep the assumptions, is never ahead of the charge.
        #[test]
        fn an_engine_within_the_assumptions_is_never_undercharged(
            sequences in 1_u64..5,
            prompt in 0_u64..1_000,
            before_us in prop::collection::vec(2_000_u64..50_000, 1..200),
            silent_us in prop::collection::vec(2_000_u64..50_000, 0..200),
            late_us in 0_u64..1_000_000,
            reserved_output in 1_u64..2_000,
        ) {
            let reserved = prompt + sequences * reserved_output;
            let seen = before_us.len() as u64;
            let silent: u64 = silent_us.iter().sum();
            // After the close the engine goes on for a while at its best speed.
            let made = seen + silent_us.len() as u64 + late_us / 2_000;
            let engine = prompt + sequences * made.min(reserved_output);
            let pace = Pace {
                tokens: sequences * (seen - 1),
                over: Duration::from_micros(before_us[1..].iter().sum()),
            };
            let tokens = prompt + sequences * seen.min(reserved_output);
            let unseen = Duration::from_micros(silent);
            let known = Known::Running { tokens, sequences, pace, unseen };
            prop_assert!(charge(Ending::Begun, known, reserved) >= engine);
            prop_assert!(charge(Ending::Begun, known, reserved) <= reserved);
        }
    }
}
