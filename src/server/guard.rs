//! A connection that watches its client: the first head must come in time, and answers must be
//! taken. hyper bounds neither by itself: its head timeout also counts the idle time between
//! requests, and it waits without end for a client that does not read.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Service, ServiceExt as _, service_fn};

use super::LAST_CALL;

/// Remembers whether a request has come over a connection.
#[derive(Clone, Default)]
pub struct FirstHead(Arc<AtomicBool>);

impl FirstHead {
    /// The service, noting the request that reaches it.
    pub fn noted_by<S, B>(
        &self,
        service: S,
    ) -> impl Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let first_head = self.0.clone();
        service_fn(move |request| {
            first_head.store(true, Ordering::Relaxed);
            service.clone().oneshot(request)
        })
    }

    fn is_here(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A socket with bounds on our patience with its client.
pub struct Guarded {
    socket: TcpStream,
    /// Bytes that were read before hyper took over.
    prefix: Bytes,
    stall_limit: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    first_head: FirstHead,
    /// Runs until the first head is here. Later heads are as free as the idle time before them.
    head_due: Option<Pin<Box<Sleep>>>,
    /// Makes the first head due soon; `None` once it has, or the head is here.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Guarded {
    /// A fresh connection, of which `prefix` was read already. After `stop` a connection that has
    /// brought no head yet must do so at once.
    pub fn new(
        socket: TcpStream,
        prefix: Bytes,
        stall_limit: Duration,
        head_limit: Duration,
        stop: CancellationToken,
    ) -> Self {
        let head_due = Some(Box::pin(sleep(head_limit)));
        Self {
            socket,
            prefix,
            stall_limit,
            stall: None,
            first_head: FirstHead::default(),
            head_due,
            stop: Some(Box::pin(stop.cancelled_owned())),
        }
    }

    /// To be told of the first request.
    pub fn first_head(&self) -> FirstHead {
        self.first_head.clone()
    }

    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.first_head.is_here() {
            self.head_due = None;
            self.stop = None;
        }
        let Some(due) = &mut self.head_due else {
            return false;
        };
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            let soon = due.deadline().min(Instant::now() + LAST_CALL);
            due.as_mut().reset(soon);
        }
        due.as_mut().poll(cx).is_ready()
    }

    fn note_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = self.stall_limit;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes no bytes",
        )))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_pending() && self.head_is_late(cx) {
            let late = io::Error::new(io::ErrorKind::TimedOut, "no request came in time");
            return Poll::Ready(Err(late));
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.note_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
