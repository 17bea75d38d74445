//! The tokens of a call, before it is sent: how many it may cost, whether its principal has them,
//! and what becomes of its output if there are fewer. Knows nothing of how a call ends.

use std::time::Duration;

use tokio::time::Instant;

use super::Gateway;
use crate::auth::{Principal, Who};
use crate::budget::{Allowance, Budgets, Need, Period, Refused, Reservation};
use crate::error::{Code, Error};
use crate::upstream::{Bound, Request};

/// How long a call waits for tokens that other calls hold.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most output of each sequence where the call sets no maximum and the context is unknown.
const UNKNOWN_OUTPUT: u64 = 32_768;
/// When a client may come again: other calls end, the database comes back.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const STORE_WAIT: Duration = Duration::from_secs(2);
/// What there must be for a call that uses none.
const ANY: Need = Need { least: 1, most: 1 };
/// What is taken where nothing is limited.
const NOTHING: Need = Need { least: 0, most: 0 };

/// Tokens held for a call.
pub struct Held {
    pub reservation: Reservation,
    /// The output of each sequence was lowered to this, or set where nothing else bounds it.
    pub lowered: Option<u64>,
}

/// Whether calls of this allowance may be refused for their tokens.
pub const fn is_limited(allowance: &Allowance) -> bool {
    allowance.limit.is_some() && !allowance.dry_run
}

/// The most that a call can cost, if one of its principal's limits asks for it.
///
/// # Errors
/// Of a limited budget: `invalid_request` and `model_not_allowed` for what cannot be bounded,
/// `token_limit_exceeded` and `store_unavailable` where the upstream would have to be asked first.
pub async fn bound(
    gateway: &Gateway,
    principal: &Principal,
    request: &Request,
) -> Result<Option<Bound>, Error> {
    if !request.endpoint.uses_tokens() {
        return Ok(None);
    }
    if is_limited(principal.allowance()) {
        if !gateway.upstreams.knows_template(request) {
            Purse::of(gateway, principal)?.check().await?;
            gateway.upstreams.learn_template(request).await;
        }
        return gateway.upstreams.bound(request).map(Some);
    }
    let counts = principal
        .minute()
        .is_some_and(|minute| minute.tokens.is_some());
    // What cannot be bounded is counted when it has ended.
    Ok(counts
        .then(|| gateway.upstreams.bound(request).ok())
        .flatten())
}

/// Tokens that a bound asks for at most.
pub fn most(bound: &Bound) -> u64 {
    bound.total(bound.output.unwrap_or(UNKNOWN_OUTPUT))
}

/// Holds the tokens of a call, and lowers the request's output to what there is. `None` where
/// nothing is counted.
///
/// # Errors
/// `token_limit_exceeded`, `rate_limit_exceeded`, `store_unavailable`.
pub async fn tokens(
    gateway: &Gateway,
    principal: &Principal,
    request: &mut Request,
    bound: Option<Bound>,
) -> Result<Option<Held>, Error> {
    if !is_limited(principal.allowance()) {
        return Ok(count(gateway, principal).await);
    }
    let purse = Purse::of(gateway, principal)?;
    let Some(mut bound) = bound else {
        let any = purse.reserve(ANY, PATIENCE).await;
        let reservation = any.map_err(|refused| purse.refuse(refused, "is used up"))?;
        return Ok(Some(Held {
            reservation,
            lowered: None,
        }));
    };
    let all = Need {
        least: most(&bound),
        most: most(&bound),
    };
    let reservation = match purse.reserve(all, Duration::ZERO).await {
        Err(Refused::UsedUp | Refused::Busy) => {
            purse.check().await?;
            if let Some(counted) = gateway.upstreams.counted_bound(request, &bound).await {
                bound = counted;
            }
            let need = Need {
                least: bound.total(bound.least_output),
                most: most(&bound),
            };
            let began = Instant::now();
            let waited = purse.reserve(need, PATIENCE).await;
            gateway.metrics.waited_for_tokens(began.elapsed());
            waited
        }
        at_once => at_once,
    };
    let reservation = reservation
        .map_err(|refused| purse.refuse(refused, "has too little left for this call"))?;
    let output = granted(&bound, reservation.tokens());
    if let Some(output) = output {
        request.cap_output(output);
    }
    Ok(Some(Held {
        reservation,
        lowered: output.filter(|output| bound.output.is_none_or(|asked| *output < asked)),
    }))
}

/// A call of a principal without a limit is counted where there is a place to count it.
async fn count(gateway: &Gateway, principal: &Principal) -> Option<Held> {
    let budgets = gateway.budgets.as_ref()?;
    let counted = budgets.reserve(principal.allowance(), NOTHING, Duration::ZERO);
    Some(Held {
        reservation: counted.await.ok()?,
        lowered: None,
    })
}

/// The output that each sequence may have with so many tokens; `None` where none is generated.
fn granted(bound: &Bound, tokens: u64) -> Option<u64> {
    let output = tokens.saturating_sub(bound.prompt);
    let output = output.checked_div(bound.sequences)?;
    Some(output.min(bound.output.unwrap_or(UNKNOWN_OUTPUT)))
}

/// The budget of a limited principal.
struct Purse<'a> {
    budgets: &'a Budgets,
    principal: &'a Principal,
}

impl<'a> Purse<'a> {
    fn of(gateway: &'a Gateway, principal: &'a Principal) -> Result<Self, Error> {
        let budgets = gateway.budgets.as_ref().ok_or_else(no_store)?;
        Ok(Self { budgets, principal })
    }

    async fn reserve(&self, need: Need, patience: Duration) -> Result<Reservation, Refused> {
        let allowance = self.principal.allowance();
        self.budgets.reserve(allowance, need, patience).await
    }

    /// Refuses if there is nothing left at all.
    async fn check(&self) -> Result<(), Error> {
        match self.reserve(ANY, Duration::ZERO).await {
            Ok(reservation) => {
                reservation.release();
                Ok(())
            }
            Err(Refused::Busy) => Ok(()),
            Err(refused) => Err(self.refuse(refused, "is used up")),
        }
    }

    /// `how` the limit stands in the way, if it is what was used that does.
    fn refuse(&self, refused: Refused, how: &str) -> Error {
        let allowance = self.principal.allowance();
        let whose = match self.principal.who {
            Who::Service(_) => "this key",
            Who::User(_) => "this user",
        };
        match refused {
            Refused::UsedUp => {
                let (limit, remedy) = match allowance.period {
                    Period::Total => ("the token limit of", "an administrator can raise it"),
                    Period::Day => ("today's token limit of", "it resets at midnight, UTC"),
                    Period::Month => (
                        "the monthly token limit of",
                        "it resets on the first of next month, UTC",
                    ),
                };
                let message = format!("{limit} {whose} {how}; {remedy}");
                Error::new(Code::TokenLimitExceeded, message)
            }
            Refused::Busy => {
                let message = format!(
                    "other calls hold what is left of the token limit of {whose}; try again in a moment"
                );
                Error::new(Code::RateLimitExceeded, message).retry_after(BUSY_WAIT)
            }
            Refused::Store(cause) => no_store().because(cause),
        }
    }
}

/// Without its database no limit can be held.
fn no_store() -> Error {
    Error::new(
        Code::StoreUnavailable,
        "the database that keeps the token limits does not answer; try again in a moment",
    )
    .retry_after(STORE_WAIT)
}
