//! Request bodies, read whole under bounds on size, pace and all bodies together; and the one body
//! type of answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Limits;
use crate::error::{Code, Error};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// An answer.
pub type Answer = Response<Body>;

/// A body must bring this much in every window of [`PACE_WINDOW`], or be at its end.
const PACE_BYTES: usize = 4096 * 30;
const PACE_WINDOW: Duration = Duration::from_secs(30);
/// What is read and thrown away of a refused request, so that closing does not reset the
/// connection before the client has read why. Node's fetch reports a broken connection instead of
/// the answer whenever bytes of the body are left, so the time is what bounds it.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A body from bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Bounds one body and all bodies together.
pub struct Bodies {
    one_bytes: usize,
    all: Arc<Semaphore>,
}

impl Bodies {
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            one_bytes: limits.body_bytes,
            all: Arc::new(Semaphore::new(limits.buffered_bytes)),
        }
    }

    /// The same bound on all bodies together, a lower one on each.
    #[must_use]
    pub fn of_at_most(&self, bytes: usize) -> Self {
        Self {
            one_bytes: self.one_bytes.min(bytes),
            all: self.all.clone(),
        }
    }

    /// Reads a body whole. The permit stands for its bytes and is kept as long as they are.
    ///
    /// # Errors
    /// `body_too_large`, `overloaded`, `request_timeout`, `invalid_request`.
    pub async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Error> {
        match self.collect(headers, &mut body).await {
            Ok(read) => Ok(read),
            Err(error) => {
                if matches!(error.code(), Code::BodyTooLarge | Code::Overloaded) {
                    drain(headers, body).await;
                }
                Err(error)
            }
        }
    }

    async fn collect(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Error> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > self.one_bytes) {
            return Err(too_large());
        }
        let mut held = self.hold(announced.unwrap_or(0))?;
        let mut pace = Pace {
            ends_at: Instant::now() + PACE_WINDOW,
            bytes: 0,
        };
        let mut read = BytesMut::with_capacity(announced.unwrap_or(0));
        while let Some(data) = pace.next(body).await? {
            if read.is_empty() && Some(data.len()) == announced {
                return Ok((data, held));
            }
            if read.len() + data.len() > self.one_bytes {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
            if let Some(more) = read
                .len()
                .checked_sub(held.num_permits())
                .filter(|more| *more > 0)
            {
                held.merge(self.hold(more)?);
            }
        }
        Ok((read.freeze(), held))
    }

    fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let overloaded = || {
            Error::new(
                Code::Overloaded,
                "the gateway holds as many request bodies as it may; try again in a moment",
            )
            .retry_after(Duration::from_secs(1))
        };
        let bytes = u32::try_from(bytes).map_err(|_| too_large())?;
        self.all
            .clone()
            .try_acquire_many_owned(bytes)
            .map_err(|_| overloaded())
    }
}

/// Watches that a body keeps coming.
struct Pace {
    ends_at: Instant,
    bytes: usize,
}

impl Pace {
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            match timeout_at(self.ends_at, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.bytes = self.bytes.saturating_add(data.len());
                    return Ok(Some(data));
                }
                Ok(Some(Err(error))) => {
                    return Err(
                        Error::new(Code::InvalidRequest, "the request body broke off")
                            .because(error),
                    );
                }
                Err(_) if self.bytes >= PACE_BYTES => {
                    *self = Self {
                        ends_at: self.ends_at + PACE_WINDOW,
                        bytes: 0,
                    }
                }
                Err(_) => {
                    return Err(Error::new(
                        Code::RequestTimeout,
                        "the request body came too slowly",
                    ));
                }
            }
        }
    }
}

fn too_large() -> Error {
    Error::new(
        Code::BodyTooLarge,
        "the request body is larger than this gateway takes",
    )
}

/// Reads what a refused client still sends, within bounds. A client that asked first
/// (`Expect: 100-continue`) has sent nothing.
pub async fn drain(headers: &HeaderMap, mut body: Incoming) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let mut left = DRAIN_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                return;
            };
            left = rest;
        }
    };
    // Out of time is as good as done: the answer goes out either way.
    let _ = timeout(DRAIN_LIMIT, reading).await;
}
