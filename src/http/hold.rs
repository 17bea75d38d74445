//! What an admitted call holds of its principal's limits: a share of the minute, a place among the
//! principal's calls, tokens of the budget. All or nothing: what a refused call took goes back.

use tokio::sync::OwnedSemaphorePermit;

use super::Gateway;
use super::{rates, reserve};
use crate::auth::Principal;
use crate::budget::{Ending, Known, MinuteShare, Used, charge};
use crate::error::Error;
use crate::telemetry::log::{self, Reserved};
use crate::upstream::Request;
use crate::usage::{Charged, UsageRecord};

/// What a call holds; nothing where nothing is limited.
#[derive(Default)]
pub struct Hold {
    /// The calls of this route are counted in tokens.
    is_counted: bool,
    minute: Option<MinuteShare>,
    _slot: Option<OwnedSemaphorePermit>,
    tokens: Option<reserve::Held>,
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
        Ok(Self {
            is_counted: request.endpoint.uses_tokens(),
            minute,
            _slot: slot,
            tokens,
        })
    }

    pub fn lowered(&self) -> Option<u64> {
        self.tokens.as_ref()?.lowered
    }

    /// Writes the line of what is held of a lease.
    pub fn tell(&self, request_id: &str) {
        let Some(held) = &self.tokens else { return };
        if let Some(slip) = held.reservation.slip() {
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
    pub fn settle(self, ending: Ending, known: Known, record: &UsageRecord) -> Option<Charged> {
        let total = record
            .prompt_tokens
            .saturating_add(record.completion_tokens);
        if let Some(share) = self.minute {
            share.settle(total);
        }
        let reservation = self.tokens?.reservation;
        let slip = reservation.slip();
        let charge = match &slip {
            None => total,
            Some(_) if !self.is_counted => 0,
            Some(_) => charge(ending, known, reservation.tokens()),
        };
        reservation.settle(Used {
            charge,
            prompt_tokens: record.prompt_tokens,
            completion_tokens: record.completion_tokens,
        });
        slip.map(|slip| Charged {
            lease: slip.lease,
            number: slip.number,
            charged: charge,
        })
    }

    /// The call was none: it costs nothing.
    pub fn release(self) {
        if let Some(held) = self.tokens {
            held.reservation.release();
        }
    }
}
