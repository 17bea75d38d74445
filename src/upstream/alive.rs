//! Whether a target is up: what it serves is asked, and of one that sleeps that is the request that
//! starts it. Knows no call.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::models::{Knowledge, Silence};
use super::send::Failure;
use super::state::State;
use super::target::Target;

/// How long a server that is known to be up may take for its list before a call goes on without.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(5);
/// A server that gives no sign of life for so long is starting, unless it is known to be up.
pub(super) const LIFE_LIMIT: Duration = Duration::from_secs(5);

/// Learns what the target serves, unless that is known. Of one that is not known to be up this is
/// the request that finds out, and that starts it.
pub(super) async fn learn(target: &Arc<Target>) -> Result<Arc<Knowledge>, Failure> {
    let began = Instant::now();
    let learnt = if target.state() == State::Ready {
        target
            .learn(ASK_LIMIT, |known| known.asked_at.is_none())
            .await
    } else {
        let limit = if target.scales_to_zero() {
            target.patience(began).duration_since(began)
        } else {
            ASK_LIMIT
        };
        let asked = target.learn_older(limit, Duration::ZERO);
        let Some(learnt) = until_alive(target, began, asked).await else {
            return Err(Failure::Silent);
        };
        learnt
    };
    match learnt {
        Ok(known) => Ok(known),
        Err(Silence::Refused) => Err(Failure::Refused(None)),
        Err(Silence::Unreachable(cause)) => Err(Failure::Unreachable(Some(cause))),
        Err(Silence::HeldOff) => Err(Failure::HeldOff),
        Err(Silence::Other) if began.elapsed() >= LIFE_LIMIT && target.state() != State::Ready => {
            target.note_silence(began);
            if target.patience(began) <= Instant::now() {
                return Err(Failure::Silent);
            }
            // It may be its list alone that it does not tell.
            Ok(target.knowledge())
        }
        Err(Silence::Denied | Silence::Other) => Ok(target.knowledge()),
    }
}

/// Waits for what a target that is not known to be up has to say. When it is silent it is starting;
/// `None` when it has been for as long as calls wait.
pub(super) async fn until_alive<T>(
    target: &Target,
    began: Instant,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = pin!(answer);
    if let Ok(told) = timeout_at(began + LIFE_LIMIT, &mut answer).await {
        return Some(told);
    }
    target.note_silence(began);
    if let Ok(told) = timeout_at(target.patience(began), &mut answer).await {
        return Some(told);
    }
    // Another call may have found it alive meanwhile.
    if target.state() == State::Ready {
        return Some(answer.await);
    }
    None
}
