//! The streams of HTTP/2 connections: tasks that the server waits for, bounded in their patience
//! with the client. A client that answers pings but opens no window keeps its connection alive and
//! its socket writable, so the watch over the socket does not see it; hyper waits without end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _, service_fn};

tokio::task_local! {
    /// What the stream that runs as this task waits for.
    static TAKING: Taking;
}

/// Since when the client has been given something without making room for more; `None` while the
/// stream waits for the gateway.
#[derive(Clone, Default)]
struct Taking(Arc<Mutex<Option<Instant>>>);

impl Taking {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Runs streams as tasks.
#[derive(Clone)]
pub struct Streams {
    pub tasks: TaskTracker,
    /// A stream whose client takes nothing for this long is dropped, which resets it.
    pub stall_limit: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let taking = Taking::default();
        let bounded = bounded(stream, taking.clone(), self.stall_limit);
        self.tasks.spawn(TAKING.scope(taking, bounded));
    }
}

/// Runs a stream until it ends or its client has taken nothing for `limit`.
async fn bounded(stream: impl Future, taking: Taking, limit: Duration) {
    let mut stream = pin!(stream);
    let mut stall = pin!(sleep(limit));
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Only the poll above changes it. The timer is set anew when it rings, not per frame.
        let Some(since) = taking.since() else {
            return Poll::Pending;
        };
        loop {
            ready!(stall.as_mut().poll(cx));
            if since.elapsed() >= limit {
                tracing::debug!("the client of a stream takes nothing");
                return Poll::Ready(());
            }
            stall.as_mut().reset(since + limit);
        }
    })
    .await;
}

/// The service, its answers telling the task of their stream when the client's turn is.
pub fn noted<S, B>(
    service: S,
) -> impl Service<Request<Incoming>, Response = Response<Noted<B>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Send + 'static,
{
    service_fn(move |request| {
        let answer = service.clone().oneshot(request);
        async move {
            let taking = TAKING.try_with(Taking::clone).unwrap_or_default();
            answer
                .await
                .map(|answer| answer.map(|body| Noted { body, taking }))
        }
    })
}

/// A body that notes whether a frame of it is on its way to the client: hyper asks for the next one
/// when there is room for it.
pub struct Noted<B> {
    body: B,
    taking: Taking,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Noted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.taking.set(frame.is_ready().then(Instant::now));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
