//! Limits that hold in this instance: calls at once, requests and tokens per minute. Also what a
//! principal is told of how its limits stand, in OpenAI's headers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Gateway;
use super::reserve::is_limited;
use crate::auth::Principal;
use crate::budget::{MinuteShare, Standing};
use crate::error::{Code, Error};

/// How long a call waits for one of its principal's own calls to end.
const SLOT_LIMIT: Duration = Duration::from_secs(10);
/// When a client may come again that has too many calls in flight.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// Takes a call that may use so many tokens into its principal's minute.
///
/// # Errors
/// `rate_limit_exceeded`.
pub fn minute(
    gateway: &Gateway,
    principal: &Principal,
    tokens: u64,
) -> Result<Option<MinuteShare>, Error> {
    let Some(minute) = principal.minute() else {
        return Ok(None);
    };
    minute.take(tokens).map(Some).or_else(|wait| {
        let error = Error::new(
            Code::RateLimitExceeded,
            "this key has used what it may within a minute; try again when some of it has passed",
        );
        pardon(gateway, principal, error.retry_after(wait))
    })
}

/// Takes a place among the principal's calls, waiting a little for one.
///
/// # Errors
/// `rate_limit_exceeded`.
pub async fn slot(
    gateway: &Gateway,
    principal: &Principal,
) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let Some(slots) = principal.concurrency() else {
        return Ok(None);
    };
    let patience = if principal.allowance().dry_run {
        Duration::ZERO
    } else {
        SLOT_LIMIT
    };
    match timeout(patience, slots.clone().acquire_owned()).await {
        Ok(Ok(slot)) => Ok(Some(slot)),
        _ => pardon(gateway, principal, Error::new(Code::RateLimitExceeded, "this key has as many calls in flight as it may have at once; wait for one of them to end")
            .retry_after(SLOT_WAIT)),
    }
}

/// A limit that is only watched refuses nobody: what it would have refused is told of.
fn pardon<T>(gateway: &Gateway, principal: &Principal, error: Error) -> Result<Option<T>, Error> {
    if !principal.allowance().dry_run {
        return Err(error);
    }
    gateway.metrics.pardoned(error.code());
    let owner = &principal.allowance().owner;
    gateway.refusals.write_pardon(error.code(), owner);
    Ok(None)
}

/// How the limits of a principal stand, for its answer: those of the minute where there are any,
/// else the budget's.
pub fn mark(gateway: &Gateway, principal: &Principal, headers: &mut HeaderMap) {
    let allowance = principal.allowance();
    if allowance.dry_run {
        return;
    }
    let minute = principal.minute().map(|minute| minute.standing());
    let (requests, tokens) = minute.unwrap_or_default();
    let budget = || {
        let budgets = gateway.budgets.as_ref().filter(|_| is_limited(allowance))?;
        budgets.standing(allowance)
    };
    if let Some(standing) = requests {
        write(headers, &REQUESTS, standing);
    }
    if let Some(standing) = tokens.or_else(budget) {
        write(headers, &TOKENS, standing);
    }
}

/// The headers of one kind of figures.
struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

const REQUESTS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};
const TOKENS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

fn write(headers: &mut HeaderMap, names: &Names, standing: Standing) {
    let Some(limit) = standing.limit else { return };
    headers.insert(&names.limit, HeaderValue::from(limit));
    headers.insert(&names.remaining, HeaderValue::from(standing.remaining));
    let reset = standing.reset.map(words);
    if let Some(reset) = reset.and_then(|reset| HeaderValue::try_from(reset).ok()) {
        headers.insert(&names.reset, reset);
    }
}

/// A time as OpenAI writes it: `1s`, `6m0s`, `24h0m0s`. Never too short.
fn words(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_does() {
        for (ms, shown) in [
            (0, "0s"),
            (1, "1s"),
            (1_000, "1s"),
            (59_001, "1m0s"),
            (360_000, "6m0s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(words(Duration::from_millis(ms)), shown);
        }
    }
}
