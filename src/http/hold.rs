//! What an admitted call holds of its principal's limits: a share of the minute, a place among the
//! principal's calls, tokens of the budget. All or nothing: what a refused call took goes back.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Gateway;
use super::{rates, reserve};
use crate::auth::Principal;
use crate::budget::{Ending, Known, MinuteShare, Pace, Slip, Used, charge};
use crate::error::Error;
use crate::telemetry::log::{self, Reserved};
use crate::upstream::{Bound, Request, Tokens};
use crate::usage::{Charged, CountedBy};

/// The best count of a call's tokens.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub tokens: Tokens,
    pub counted_by: CountedBy,
    /// It is surely of all choices.
    pub counts_choices: bool,
    /// Of a running count: the sequences that it is of, how fast they came, and how long the engine
    /// may have gone on since.
    pub sequences: u64,
    pub pace: Pace,
    pub unseen: Duration,
}

/// What a call holds; nothing where nothing is limited.
#[derive(Default)]
pub struct Hold {
    /// The most that the call may cost; `None` where nothing asks for it.
    bound: Option<Bound>,
    minute: Option<MinuteShare>,
    _slot: Option<OwnedSemaphorePermit>,
    tokens: Option<reserve::Held>,
    /// Where the tokens are leased.
    slip: Option<Slip>,
}

impl Hold {
    /// # Errors
    /// `rate_limit_exceeded`, `token_limit_exceeded`, `store_unavailable`; `invalid_request` and
    /// `model_not_allowed` for what cannot be bounded.
    pub async fn take(
        gateway: &Gateway,
        principal: &Principal,
        request: &mut Request,
    ) -> Result<Self, Error> {
        let bound = reserve::bound(gateway, principal, request).await?;
        let minute = rates::minute(gateway, principal, bound.as_ref().map_or(0, reserve::most))?;
        let slot = rates::slot(gateway, principal).await?;
        let tokens = reserve::tokens(gateway, principal, request, bound).await?;
        let slip = tokens.as_ref().and_then(|held| held.reservation.slip());
        Ok(Self {
            bound,
            minute,
            _slot: slot,
            tokens,
            slip,
        })
    }

    pub fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    pub fn lowered(&self) -> Option<u64> {
        self.tokens.as_ref()?.lowered
    }

    /// Writes the line of what is held of a lease.
    pub fn tell(&self, request_id: &str) {
        if let (Some(held), Some(slip)) = (&self.tokens, &self.slip) {
            log::reserved_line(&Reserved {
                request_id,
                owner: &slip.owner,
                lease: &slip.lease,
                number: slip.number,
                tokens: held.reservation.tokens(),
            });
        }
    }

    /// The call has ended: charges what it cost, and gives the rest back.
    pub fn settle(self, ending: Ending, count: Option<Count>) -> Option<Charged> {
        let tokens = count.map(|count| count.tokens).unwrap_or_default();
        let total = tokens.prompt.saturating_add(tokens.completion);
        if let Some(share) = self.minute {
            share.settle(total);
        }
        let reservation = self.tokens?.reservation;
        let charge = match (&self.slip, &self.bound) {
            (None, _) => total,
            // A route that uses none.
            (Some(_), None) => 0,
            (Some(_), Some(bound)) => charge(ending, known(bound, count), reservation.tokens()),
        };
        reservation.settle(Used {
            charge,
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
        });
        self.slip.map(|slip| Charged {
            lease: slip.lease,
            number: slip.number,
            charged: charge,
        })
    }

    /// The call was none: it costs nothing.
    pub fn release(self, request_id: &str) {
        if let Some(held) = self.tokens {
            held.reservation.release();
        }
        if let Some(slip) = &self.slip {
            log::released_line(request_id, &slip.lease, slip.number);
        }
    }
}

/// What a count says of the engine's own. A guess says nothing, nor does a count of some of the
/// sequences.
fn known(bound: &Bound, count: Option<Count>) -> Known {
    let Some(count) = count else {
        return Known::Nothing;
    };
    let engine = bound.counted(count.tokens);
    match (count.counted_by, engine) {
        (CountedBy::Engine, Some(tokens)) if count.counts_choices || bound.sequences <= 1 => {
            Known::Final(tokens)
        }
        (CountedBy::Running, Some(tokens)) if count.sequences >= bound.sequences => {
            Known::Running {
                tokens,
                sequences: count.sequences,
                pace: count.pace,
                unseen: count.unseen,
            }
        }
        _ => Known::Nothing,
    }
}
