//! The accept loop: connections, their bounds, and their orderly end. Knows HTTP, no routes.

mod guard;
mod streams;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::telemetry::metrics::Metrics;
use guard::Guarded;
use streams::Streams;

/// Heads larger than this, or with more headers, are refused with 431.
const HEAD_BYTES: u32 = 64 * 1024;
const HEADERS: usize = 100;
/// A connection that is idle between requests stays open longer than the proxies in front of us
/// keep theirs, so that it is never we who close one they are about to use.
const IDLE_LIMIT: Duration = Duration::from_secs(620);
/// How long the first bytes, or the rest of a head, may take.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// After the order to stop, a connection that has asked for nothing yet may still do so for this
/// long: what was sent before the order arrives.
const LAST_CALL: Duration = Duration::from_millis(100);
const BACKLOG: u32 = 4096;
/// Requests at once on one HTTP/2 connection, and how dead ones are found.
const STREAMS: u32 = 250;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are treated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// HTTP/2 without TLS is taken too.
    pub h2c: bool,
    /// A client that takes no byte for this long is gone.
    pub client_stall: Duration,
    pub max_connections: usize,
}

/// How a server is told to end.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Nothing new is taken; what is under way goes on.
    pub stop: CancellationToken,
    /// What is under way is let go as it stands.
    pub abandon: CancellationToken,
}

/// Takes an address; nobody can connect until [`listen`].
///
/// # Errors
/// What the operating system says, `AddrInUse` among it.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Opens a bound socket to clients.
///
/// # Errors
/// As [`bind`]: two processes may have bound the address before either listened.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Serves each connection with the service for its other end, until `ending.stop`, then lets what is under way end. The future is over when every
/// connection is; whoever awaits it decides how long that may take, and then abandons the rest.
pub async fn serve<S, B>(
    listener: TcpListener,
    service_of: impl Fn(IpAddr) -> S,
    settings: Settings,
    metrics: Arc<Metrics>,
    ending: Ending,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(settings.max_connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = ending.stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((socket, peer, place)) = accepted else {
            continue;
        };
        let care = Care {
            settings: settings.clone(),
            stop: ending.stop.clone(),
            watcher: graceful.watcher(),
            streams: Streams {
                tasks: connections.clone(),
                stall_limit: settings.client_stall,
            },
        };
        let serving = connection(socket, service_of(peer), care);
        let (metrics, abandon) = (metrics.clone(), ending.abandon.clone());
        connections.spawn(async move {
            let _open = Open::new(metrics);
            let _place = place;
            abandon.run_until_cancelled(serving).await;
        });
    }
    drop(listener);
    connections.close();
    // Each connection holds a watcher until it ends, abandoned or not.
    graceful.shutdown().await;
    connections.wait().await;
}

/// A connection that is counted until it ends, in whatever way.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.connection_opened();
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, peer)) => Some((socket, peer.ip(), place)),
        Err(error) => {
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                tracing::error!(cause = error.to_string(), "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// What a connection needs to know of the server.
struct Care {
    settings: Settings,
    stop: CancellationToken,
    watcher: Watcher,
    streams: Streams,
}

async fn connection<S, B>(socket: TcpStream, service: S, care: Care)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    // Without it small events wait for the acknowledgement of those before them.
    let _ = socket.set_nodelay(true);
    let Care {
        settings,
        stop,
        watcher,
        streams,
    } = care;
    let (socket, prefix, speaks_h2) = if settings.h2c {
        let last_call = async {
            stop.cancelled().await;
            sleep(LAST_CALL).await;
        };
        let opened = tokio::select! {
            opened = timeout(HEAD_LIMIT, read_preface(socket)) => opened,
            () = last_call => return,
        };
        let Ok(Ok(opened)) = opened else {
            return;
        };
        opened
    } else {
        (socket, Bytes::new(), false)
    };
    let guarded = Guarded::new(socket, prefix, settings.client_stall, HEAD_LIMIT, stop);
    let service = guarded.first_head().noted_by(service);
    let io = TokioIo::new(guarded);
    let served = if speaks_h2 {
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_LIMIT);
        let service = TowerToHyperService::new(streams::noted(service));
        watcher.watch(builder.serve_connection(io, service)).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .max_headers(HEADERS)
            .max_buf_size(usize::try_from(HEAD_BYTES).unwrap_or(usize::MAX));
        let service = TowerToHyperService::new(service);
        watcher.watch(builder.serve_connection(io, service)).await
    };
    if let Err(error) = served {
        // Clients come and go; what a call lost by it stands in its row.
        tracing::debug!(cause = error.to_string(), "connection ended");
    }
}

/// Reads until it is clear whether the client speaks HTTP/2 at once. hyper's own detection would
/// wait for that without limit.
async fn read_preface(mut socket: TcpStream) -> io::Result<(TcpStream, Bytes, bool)> {
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    while PREFACE.starts_with(&seen) && seen.len() < PREFACE.len() {
        if (&mut socket)
            .take(wide(PREFACE.len() - seen.len()))
            .read_buf(&mut seen)
            .await?
            == 0
        {
            break;
        }
    }
    let speaks_h2 = seen == PREFACE;
    Ok((socket, seen.freeze(), speaks_h2))
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
