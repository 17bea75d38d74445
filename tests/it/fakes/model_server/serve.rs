//! The sockets: accepts, reads requests, asks for a plan, plays it. One task for each connection,
//! all of them ended with the server.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::behaviour::Behaviour;
use super::journal::{Call, End};
use super::meter::Metered;
use super::plan::Plan;
use super::play::{self, Answer};
use super::refusal::{Refusal, Shape};
use super::routes::{self, Asked};
use super::{Shared, ask};

/// Bodies up to this size are read.
const BODY_BYTES: usize = 256 << 20;
const BACKLOG: u32 = 1024;

/// The tasks of a running server.
pub struct Running {
    accepting: Option<JoinHandle<JoinSet<()>>>,
    close: watch::Sender<bool>,
    connections: JoinSet<()>,
}

/// Binds without listening, also where a server has just let go: connections are refused, and
/// nobody else gets the port.
pub fn reserve(addr: SocketAddr) -> TcpSocket {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.expect("a socket");
    socket.set_reuseaddr(true).expect("address reuse");
    socket
        .bind(addr)
        .unwrap_or_else(|error| panic!("cannot bind {addr}: {error}"));
    socket
}

/// Listens and serves until stopped.
pub fn run(socket: TcpSocket, shared: Arc<Shared>) -> Running {
    let listener = socket.listen(BACKLOG).expect("a listening socket");
    let (close, closed) = watch::channel(false);
    let accepting = Some(tokio::spawn(accept(listener, shared, closed)));
    Running {
        accepting,
        close,
        connections: JoinSet::new(),
    }
}

impl Running {
    /// Closes the port; connections stay.
    pub async fn close_port(&mut self) {
        self.close.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            self.connections = accepting.await.unwrap_or_default();
        }
    }

    /// Closes the port and every connection.
    pub async fn stop(mut self) {
        self.close_port().await;
        self.connections.shutdown().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The set of connections lives in this task; both end with it.
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut closed: watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                connections.spawn(connection(socket, number, Arc::clone(&shared)));
                number += 1;
            }
            _ = closed.changed() => return connections,
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection; closes it when it has served a call and was silent too long.
async fn connection(socket: TcpStream, number: u64, shared: Arc<Shared>) {
    socket.set_nodelay(true).ok();
    let socket = Metered::new(socket, Arc::clone(&shared.meter));
    let silent_since = watch::Sender::new(None);
    let mut silence = silent_since.subscribe();
    let idle = shared.idle;
    let service = service_fn(move |request| {
        let is_stale = shared.is_stale && silent_since.borrow().is_some();
        let turn = Turn::begin(silent_since.clone());
        let shared = Arc::clone(&shared);
        async move {
            if is_stale {
                return Err(io::Error::other("told to be stale"));
            }
            answer(request, number, shared, turn).await
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    let mut serving = std::pin::pin!(serving);
    loop {
        let since: Option<Instant> = *silence.borrow_and_update();
        let too_long = async {
            match since {
                Some(since) => tokio::time::sleep_until((since + idle).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = serving.as_mut() => return,
            Ok(()) = silence.changed() => {}
            () = too_long => serving.as_mut().graceful_shutdown(),
        }
    }
}

/// A call under way, for as long as its answer is.
struct Turn(watch::Sender<Option<Instant>>);

impl Turn {
    fn begin(silent_since: watch::Sender<Option<Instant>>) -> Self {
        silent_since.send_replace(None);
        Self(silent_since)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.send_replace(Some(Instant::now()));
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: u64,
    shared: Arc<Shared>,
    turn: Turn,
) -> Result<Response<Answer>, io::Error> {
    let received_at = Instant::now();
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let mut call = Call {
        number: 0,
        connection,
        received_at,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        replayed: None,
        status: None,
        prompt_tokens: 0,
        completion_tokens: 0,
        events: 0,
        end: End::Running,
    };
    let entry = shared.journal.open(call.clone());
    call.number = entry.number();
    let (plan, behaviour) = match shared.door.pass().await {
        Some(answer) => (answer.plan(), Behaviour::default()),
        None => shared.plan(&call, shared.ordered(&call)),
    };
    entry.note(|call| call.replayed.clone_from(&plan.recording));
    let response = play::play(plan, &behaviour, entry).await?;
    Ok(response.map(|body| {
        body.map_frame(move |frame| keep(&turn, frame))
            .boxed_unsync()
    }))
}

/// The turn lives as long as the body that passes its frames through here.
fn keep(_turn: &Turn, frame: http_body::Frame<Bytes>) -> http_body::Frame<Bytes> {
    frame
}

impl Shared {
    /// What was ordered for this call.
    fn ordered(&self, call: &Call) -> Behaviour {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let for_path = orders
            .by_path
            .iter()
            .rev()
            .find(|(path, _)| *path == call.path);
        if let Some((_, behaviour)) = for_path {
            return behaviour.clone();
        }
        if !routes::is_model_call(call) {
            return Behaviour::default();
        }
        orders
            .next
            .pop_front()
            .unwrap_or_else(|| orders.always.clone())
    }

    /// The answer to a call, and the behaviour with what its prompt directs.
    fn plan(&self, call: &Call, behaviour: Behaviour) -> (Plan, Behaviour) {
        if let Some(refusal) = self.front.as_ref().and_then(|front| front.refuse(call)) {
            return (refusal, Behaviour::default());
        }
        if let (Some(name), Some(replay)) = (&behaviour.recording, &self.replay) {
            let missing = || Plan::bytes(500, "text/plain", format!("no recording {name}"));
            return (replay.named(name).unwrap_or_else(missing), behaviour);
        }
        let replay = self.replay.as_ref().filter(|_| behaviour.answer.is_none());
        if let Some(plan) = replay.and_then(|replay| replay.find(call)) {
            return (plan, behaviour);
        }
        // Who counts a prompt does not play it.
        let prompt = if routes::is_model_call(call) {
            ask::last_words(&call.json())
        } else {
            String::new()
        };
        let behaviour = match behaviour.directed_by(&prompt) {
            Ok(behaviour) => behaviour,
            Err(fault) => {
                let refusal = Refusal::Invalid {
                    message: fault,
                    param: None,
                };
                let plan = refusal.plan(self.limits.dialect, Shape::OpenAi);
                return (plan, Behaviour::default());
            }
        };
        if let Some(fixed) = &behaviour.answer {
            return (fixed.plan(), behaviour);
        }
        if !self.admits(call) {
            return (
                Refusal::WrongKey.plan(self.limits.dialect, Shape::OpenAi),
                behaviour,
            );
        }
        let engine = self
            .orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .engine;
        let asked = Asked {
            limits: &self.limits,
            pooling: self.pooling,
            behaviour: &behaviour,
            call,
            calls: &self.journal.calls()[engine.first_call..],
            started: engine.started,
        };
        (routes::plan(&asked), behaviour)
    }

    fn admits(&self, call: &Call) -> bool {
        let Some(key) = self
            .api_key
            .as_ref()
            .filter(|_| call.path.starts_with("/v1"))
        else {
            return true;
        };
        let (scheme, sent) = call
            .header("authorization")
            .split_once(' ')
            .unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && sent == key
    }
}
