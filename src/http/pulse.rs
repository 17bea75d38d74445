//! How an upstream's answer comes in: when all of it had been read, and how fast its counts grow. From
//! that is judged what the engine may have made that nobody saw.

use std::future::{Future, poll_fn};
use std::pin::Pin;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use crate::budget::Pace;

/// What is known of one answer.
pub struct Pulse {
    caught_up: Instant,
    /// The first running count and the last, in generated tokens, and when they were read.
    first: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
}

impl Pulse {
    pub fn new() -> Self {
        Self {
            caught_up: Instant::now(),
            first: None,
            last: None,
        }
    }

    /// When there was last nothing of the body that had not been read. A client that takes its time,
    /// or a process that stands still, makes this old.
    pub fn caught_up(&self) -> Instant {
        self.caught_up
    }

    /// The next frame of the body.
    pub fn next_frame(
        &mut self,
        body: &mut reqwest::Body,
    ) -> impl Future<Output = Option<Result<Frame<Bytes>, reqwest::Error>>> {
        poll_fn(move |context| {
            let polled = Pin::new(&mut *body).poll_frame(context);
            if polled.is_pending() {
                self.caught_up = Instant::now();
            }
            polled
        })
    }

    /// A running count was read.
    pub fn note(&mut self, completion: u64) {
        let now = (Instant::now(), completion);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// How fast the running counts grew.
    pub fn pace(&self) -> Pace {
        let (Some((began, first)), Some((ended, last))) = (self.first, self.last) else {
            return Pace::default();
        };
        Pace {
            tokens: last.saturating_sub(first),
            over: ended - began,
        }
    }
}
