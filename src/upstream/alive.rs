//! Whether a target is up: what it serves is asked, and of one that sleeps that is the request that
//! starts it. Knows no call.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::models::{Knowledge, Silence};
use super::state::State;
use super::target::Target;
use super::trip::Failure;

/// How long a server that is known to be up may take for its list before a call goes on without.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(5);
/// A server that gives no sign of life for so long is starting, unless it is known to be up.
pub(super) const LIFE_LIMIT: Duration = Duration::from_secs(5);

/// Learns what the target serves, unless that is known. Of one that is not known to be up this is
/// the request that finds out, and that starts it; the call waits for it until then.
pub(super) async fn learn(target: &Arc<Target>, until: Instant) -> Result<Arc<Knowledge>, Failure> {
    if target.state() == State::Ready {
        let asked = target.learn(ASK_LIMIT, |known| known.asked_at.is_none());
        return judge(asked.await, target);
    }
    let began = Instant::now();
    let limit = until.duration_since(began);
    let limit = if target.scales_to_zero() {
        limit
    } else {
        // It may be its list alone that it does not tell.
        limit.min(ASK_LIMIT)
    };
    let asked = target.learn_older(limit, Duration::ZERO);
    let known = match until_alive(target, until, asked).await {
        Some(learnt) => judge(learnt, target)?,
        // Another call found it alive meanwhile.
        None if target.state() == State::Ready => target.knowledge(),
        None => return Err(Failure::Silent),
    };
    if target.state() != State::Ready {
        let is_over = Instant::now() >= until;
        if is_over || began.elapsed() >= LIFE_LIMIT {
            target.note_silence(began);
        }
        if is_over {
            return Err(Failure::Silent);
        }
    }
    Ok(known)
}

fn judge(
    learnt: Result<Arc<Knowledge>, Silence>,
    target: &Target,
) -> Result<Arc<Knowledge>, Failure> {
    match learnt {
        Ok(known) => Ok(known),
        Err(Silence::Refused) => Err(Failure::Refused(None)),
        Err(Silence::Unreachable(cause)) => Err(Failure::Unreachable(Some(cause))),
        Err(Silence::HeldOff) => Err(Failure::HeldOff),
        Err(Silence::Denied | Silence::Other) => Ok(target.knowledge()),
    }
}

/// Waits for what a target that is not known to be up has to say. When it is silent it is starting;
/// `None` when it has been until then.
pub(super) async fn until_alive<T>(
    target: &Target,
    until: Instant,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = pin!(answer);
    let began = Instant::now();
    if let Ok(told) = timeout_at(until.min(began + LIFE_LIMIT), &mut answer).await {
        return Some(told);
    }
    target.note_silence(began);
    timeout_at(until, answer).await.ok()
}
