//! A model server for tests: a real HTTP server on a real socket that speaks vLLM's dialects. It
//! answers from recordings of a real vLLM where it has one of the very request that arrives, else
//! from a scripted engine, with the faults that a test orders, and keeps its own book of tokens.
//!
//! It is a stand-in, not a model, and it knows nothing of the gateway.

mod agent;
mod ahead;
mod ask;
mod behaviour;
mod chat;
mod door;
mod engine;
mod front;
mod journal;
mod meter;
mod plan;
mod play;
mod pooling;
pub mod recording;
mod refusal;
mod replay;
mod responses;
mod routes;
mod serve;
pub mod sse;
mod tasks;
mod tokens;

pub use behaviour::{Answer, Behaviour, Fault};
pub use door::Meanwhile;
pub use front::IdTokens;
pub use journal::{Call, End};
pub use meter::Arrived;
pub use refusal::Dialect;
pub use sse::Framing;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use ask::Limits;
use door::Door;
use front::Front;
use journal::Journal;
use meter::Meter;
use replay::Replay;
use serve::Running;

/// How long `wait_for` waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The one model that is served.
    pub model: String,
    /// Its context, in tokens.
    pub max_model_len: u64,
    pub dialect: Dialect,
    /// A folder of recordings to answer from, before the engine is asked.
    pub replay: Option<PathBuf>,
    /// The key that every path under `/v1` asks for.
    pub api_key: Option<String>,
    /// The ID tokens that Cloud Run's front end asks for before anything else, for the server's
    /// own address.
    pub id_tokens: Option<IdTokens>,
    /// Whether embeddings, rerank, score and audio are served (a generating vLLM has none of them).
    pub pooling: bool,
    /// Refuses prompt and output that are over the context together, as older vLLMs do.
    pub refuses_overflow: bool,
    /// How calls are answered when nothing else was ordered.
    pub behaviour: Behaviour,
    /// A connection that has served a call is closed after so much silence.
    pub idle: Duration,
    /// A connection that has served a call is closed when the next request arrives on it, unread:
    /// the worst moment for an idle connection to end.
    pub is_stale: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: "tiny-chat".into(),
            max_model_len: 2048,
            dialect: Dialect::Python,
            replay: None,
            api_key: None,
            id_tokens: None,
            pooling: false,
            refuses_overflow: false,
            behaviour: Behaviour::default(),
            idle: Duration::from_secs(5),
            is_stale: false,
        }
    }
}

impl Settings {
    /// A server of this dialect that answers from the recordings in a folder.
    pub fn replaying(dialect: Dialect, folder: impl Into<PathBuf>) -> Self {
        Self {
            dialect,
            replay: Some(folder.into()),
            ..Self::default()
        }
    }
}

/// What the connections share.
struct Shared {
    limits: Limits,
    pooling: bool,
    api_key: Option<String>,
    front: Option<Front>,
    replay: Option<Replay>,
    idle: Duration,
    is_stale: bool,
    journal: Journal,
    door: Door,
    meter: Arc<Meter>,
    orders: Mutex<Orders>,
}

/// What tests have ordered.
struct Orders {
    always: Behaviour,
    /// Only for the next calls of model routes, in their turn.
    next: VecDeque<Behaviour>,
    /// For all calls of a path; the last one ordered wins.
    by_path: Vec<(String, Behaviour)>,
    engine: Engine,
}

/// The process whose counters are shown.
#[derive(Clone, Copy)]
struct Engine {
    /// Seconds since 1970.
    started: u64,
    /// The first call that it counts.
    first_call: usize,
}

/// A running server; dropping it stops it and breaks off what is under way.
pub struct ModelServer {
    shared: Arc<Shared>,
    addr: SocketAddr,
    running: Option<Running>,
    /// Keeps the port while it is closed, so that it refuses whatever else runs on this machine.
    reserved: Option<TcpSocket>,
}

impl ModelServer {
    /// Binds and serves.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub async fn start(settings: Settings) -> Self {
        let mut server = Self::refusing(settings);
        server.resume().await;
        server
    }

    /// A server whose port refuses connections until `resume`.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn refusing(settings: Settings) -> Self {
        let socket = serve::reserve(settings.addr);
        let addr = socket.local_addr().expect("a bound socket has an address");
        let limits = Limits {
            dialect: settings.dialect,
            model: settings.model,
            context: settings.max_model_len,
            refuses_overflow: settings.refuses_overflow,
        };
        let orders = Orders {
            always: settings.behaviour,
            next: VecDeque::new(),
            by_path: Vec::new(),
            engine: Engine {
                started: routes::now(),
                first_call: 0,
            },
        };
        let shared = Shared {
            limits,
            pooling: settings.pooling,
            api_key: settings.api_key,
            front: settings.id_tokens.map(|tokens| Front {
                tokens,
                audience: format!("http://{addr}"),
            }),
            replay: settings.replay.as_deref().map(Replay::load),
            idle: settings.idle,
            is_stale: settings.is_stale,
            journal: Journal::new(),
            door: Door::open(),
            meter: Arc::default(),
            orders: Mutex::new(orders),
        };
        Self {
            shared: Arc::new(shared),
            addr,
            running: None,
            reserved: Some(socket),
        }
    }

    /// Serves (again) on the same port.
    pub async fn resume(&mut self) {
        self.stop().await;
        if let Some(socket) = self.reserved.take() {
            self.running = Some(serve::run(socket, Arc::clone(&self.shared)));
        }
    }

    /// Closes the port and every connection, at once; what was ordered and booked stays.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
            self.reserved
                .get_or_insert_with(|| serve::reserve(self.addr));
        }
    }

    /// Closes the port and leaves the connections as they are, mute or not, as a vLLM that is told
    /// to end does.
    pub async fn close_port(&mut self) {
        if let Some(running) = &mut self.running {
            running.close_port().await;
            self.reserved = Some(serve::reserve(self.addr));
        }
    }

    /// Another process takes the engine's place, at once: its counters begin at zero.
    pub fn restart_engine(&self) {
        let mut orders = self.orders();
        orders.engine.started += 60;
        orders.engine.first_call = self.calls().len();
    }

    /// Is not up until `open`: all requests meet this.
    pub fn shut(&self, meanwhile: Meanwhile) {
        self.shared.door.shut(meanwhile, None);
    }

    /// Sleeps: the first request starts it, and until that is over all requests meet this.
    pub fn sleep(&self, meanwhile: Meanwhile, start_takes: Duration) {
        self.shared.door.shut(meanwhile, Some(start_takes));
    }

    /// Is up.
    pub fn open(&self) {
        self.shared.door.unlock();
    }

    /// When the start that a request set going is over, or was; `None` while it sleeps.
    pub fn up_at(&self) -> Option<Instant> {
        self.shared.door.opens_at()
    }

    /// The connections so far, and the bytes on them.
    pub fn arrived(&self) -> Arrived {
        self.shared.meter.arrived()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How the next call of a model route is answered; several wait in line.
    pub fn next(&self, behaviour: Behaviour) {
        self.orders().next.push_back(behaviour);
    }

    /// How calls of this path are answered from now on, such as `/version` or `/tokenize`.
    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.orders().by_path.push((path.to_owned(), behaviour));
    }

    /// How calls are answered from now on when nothing else was ordered for them.
    pub fn always(&self, behaviour: Behaviour) {
        self.orders().always = behaviour;
    }

    /// Every call so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.journal.calls()
    }

    /// The calls of model routes alone: no health checks, lists, versions, counts of tokens.
    pub fn model_calls(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(routes::is_model_call);
        calls
    }

    /// The call with this `x-request-id`, if it came.
    pub fn call(&self, request_id: &str) -> Option<Call> {
        self.calls()
            .into_iter()
            .find(|call| call.request_id() == request_id)
    }

    /// Waits until the calls are as wished and returns them.
    ///
    /// # Panics
    /// When they are not within ten seconds; the message shows them.
    pub async fn wait_for(&self, wished: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        self.shared.journal.wait_for(PATIENCE, wished).await
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared
            .orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
