//! An upstream's answer while it passes: where it comes from, and whether that is still there.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::Event;
use crate::upstream::{Busy, Exchange, Target};

/// The upstream's body, and what it belongs to.
pub(super) struct Passing {
    pub(super) body: reqwest::Body,
    pub(super) target: Arc<Target>,
    /// When the call must have ended.
    pub(super) deadline: Instant,
    _busy: Busy,
}

impl Passing {
    /// Nothing has come for a while: what came meanwhile, or whether the server is there at all.
    pub(super) async fn check(&mut self) -> Event {
        tokio::select! {
            biased;
            frame = self.body.frame() => Event::Frame(frame),
            gone = self.target.is_gone() => if gone { Event::Gone } else { Event::Alive },
        }
    }
}

impl From<Exchange> for Passing {
    fn from(exchange: Exchange) -> Self {
        Self {
            body: exchange.body,
            target: exchange.target,
            deadline: exchange.deadline,
            _busy: exchange.busy,
        }
    }
}
