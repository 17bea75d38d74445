//! Questions of ours to a target: what it serves, and whether it is still there. One asks, however many
//! want to know.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Target, lock};
use crate::upstream::failure;
use crate::upstream::models::{Knowledge, Silence, ask};

/// How old what a target told of its health may be.
const HEALTH_AGE: Duration = Duration::from_secs(5);
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
const HEALTH_BYTES: usize = 64 * 1024;

impl Target {
    /// Whether it takes no connections any more, though calls are under way there: asked at most
    /// every few seconds, however many calls want to know. What scales to zero is not asked: its
    /// address always takes them.
    pub async fn is_gone(&self) -> bool {
        if self.scales_to_zero() {
            return false;
        }
        let mut health = self.health.lock().await;
        if let Some((at, gone)) = *health
            && at.elapsed() < HEALTH_AGE
        {
            return gone;
        }
        let asked = self
            .client()
            .get(self.route("/health"), HeaderMap::new(), HEALTH_BYTES);
        let gone = match timeout(HEALTH_LIMIT, asked).await {
            Ok(Err(error)) => failure::is_refused(&error),
            Ok(Ok(_)) | Err(_) => false,
        };
        *health = Some((Instant::now(), gone));
        gone
    }

    /// Asks what the target serves if what is known of it is not as `wanted`; one asks, the others
    /// wait for it. Takes `limit` at most, the wait for others included.
    pub(in crate::upstream) async fn learn(
        &self,
        limit: Duration,
        wanted: impl Fn(&Knowledge) -> bool,
    ) -> Result<Arc<Knowledge>, Silence> {
        let known = self.knowledge();
        if !wanted(&known) {
            return Ok(known);
        }
        let began = Instant::now();
        let deadline = began + limit;
        let Ok(mut silent_at) = timeout_at(deadline, self.asking.lock()).await else {
            return Ok(self.knowledge());
        };
        let known = self.knowledge();
        if !wanted(&known) {
            return Ok(known);
        }
        if silent_at.is_some_and(|at| at >= began) {
            // Who asked meanwhile found out for all that wait.
            return Err(Silence::Refused);
        }
        let learnt = match ask(self, deadline).await {
            Ok(learnt) => learnt,
            Err(Silence::Refused) => {
                *silent_at = Some(Instant::now());
                return Err(Silence::Refused);
            }
            // It listens but does not tell: calls go on without, and do not ask each time.
            Err(Silence::Other) => Knowledge {
                asked_at: Some(Instant::now()),
                ..(*known).clone()
            },
            // Nothing was learnt of it: the next call asks.
            Err(silence) => return Err(silence),
        };
        let merged = Arc::new(Knowledge {
            models: learnt.models.or_else(|| known.models.clone()),
            is_vllm: learnt.is_vllm.or(known.is_vllm),
            asked_at: learnt.asked_at,
            default_context: known.default_context,
        });
        *lock(&self.knowledge) = merged.clone();
        Ok(merged)
    }

    /// As [`Target::learn`], for what was asked longer ago than `age`.
    pub(in crate::upstream) async fn learn_older(
        &self,
        limit: Duration,
        age: Duration,
    ) -> Result<Arc<Knowledge>, Silence> {
        let is_old = |known: &Knowledge| known.asked_at.is_none_or(|at| at.elapsed() >= age);
        self.learn(limit, is_old).await
    }
}
