//! Secrets and their versions, as Secret Manager answers over REST (v1, JSON): etags, states,
//! checksums, quotas, refusals. A real server on a real socket, for the gateway's own client and for
//! Google's command line tools; faults are ordered by tests.
//!
//! It keeps everything in memory and knows nothing of the gateway or of what payloads mean.

mod listing;
mod orders;
mod routes;
mod secret;
mod serve;
mod vault;

pub use orders::Order;
pub use routes::Kind;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use orders::Orders;
use secret::State;
use vault::Vault;

use super::metadata::Metadata;

/// Google answers with a project's number where a caller named its id.
pub const PROJECT_NUMBER: &str = "123456789012";
/// How long `wait_for` waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call that came, with what it was answered.
#[derive(Clone, Debug)]
pub struct Call {
    /// `None` for what is no route of Secret Manager.
    pub kind: Option<Kind>,
    /// Path and query as they came.
    pub target: String,
    /// The bearer token that was sent.
    pub token: Option<String>,
    /// `None` while it is under way, and for an answer that an order kept back.
    pub status: Option<u16>,
}

/// What the connections share.
#[derive(Default)]
struct Shared {
    vault: Mutex<Vault>,
    orders: Mutex<Orders>,
    calls: Mutex<Vec<Call>>,
}

/// A running server; dropping it stops it and breaks off what is under way.
pub struct SecretManager {
    shared: Arc<Shared>,
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for SecretManager {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl SecretManager {
    /// Serves on a free port of loopback, without any secret. Every token is taken, none needed.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let (addr, accepting) = serve::run(Arc::clone(&shared)).await;
        Self {
            shared,
            addr,
            accepting,
        }
    }

    /// As [`SecretManager::start`], with one secret that has one version.
    pub async fn with(project: &str, secret: &str, payload: &str) -> Self {
        let server = Self::start().await;
        server.put(project, secret, payload);
        server
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Makes the secret if it is not there and adds a version, outside all quotas and orders; its
    /// number.
    pub fn put(&self, project: &str, secret: &str, payload: &str) -> u64 {
        self.vault().put(project, secret, payload.as_bytes())
    }

    /// The payload of the newest version, whatever its state.
    pub fn payload(&self, project: &str, secret: &str) -> String {
        let vault = self.vault();
        let newest = vault.newest(project, secret).expect("a version");
        String::from_utf8_lossy(&newest.data).into_owned()
    }

    /// How many versions there are.
    pub fn versions(&self, project: &str, secret: &str) -> u64 {
        self.vault()
            .newest(project, secret)
            .map_or(0, |version| version.number)
    }

    /// The secret as the API shows it; `Null` if there is none.
    pub fn secret(&self, project: &str, secret: &str) -> Value {
        self.vault()
            .find(project, secret)
            .map_or(Value::Null, secret::Secret::to_json)
    }

    /// Disables a version.
    pub fn disable(&self, project: &str, secret: &str, number: u64) {
        self.vault()
            .set_state(project, secret, number, State::Disabled);
    }

    /// Enables a version.
    pub fn enable(&self, project: &str, secret: &str, number: u64) {
        self.vault()
            .set_state(project, secret, number, State::Enabled);
    }

    /// What happens to the next call of this kind; several wait in line.
    pub fn next(&self, kind: Kind, order: Order) {
        self.orders().next.push((kind, order));
    }

    /// The next `count` calls of this kind are refused with this status.
    pub fn fail_next(&self, kind: Kind, count: usize, status: u16) {
        for _ in 0..count {
            self.next(kind, Order::Refuse(status));
        }
    }

    /// What happens to all calls of this kind for which nothing else waits in line; `None` ends it.
    pub fn always(&self, kind: Kind, order: Option<Order>) {
        let mut orders = self.orders();
        orders.always.retain(|(other, _)| *other != kind);
        orders.always.extend(order.map(|order| (kind, order)));
    }

    /// From now on `versions/latest` of every secret is this version (a replica that lags behind);
    /// `None` ends it.
    pub fn serve_stale(&self, number: Option<u64>) {
        self.vault().stale = number;
    }

    /// Whether payloads are served with a checksum that is not theirs.
    pub fn spoil_checksums(&self, spoil: bool) {
        self.vault().spoils_checksums = spoil;
    }

    /// From now on a call needs one of these bearer tokens.
    pub fn require_tokens(&self, tokens: &[&str]) {
        let tokens: HashSet<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        self.orders().takes = Some(Box::new(move |token| tokens.contains(token)));
    }

    /// From now on a call needs an access token that a metadata server gave out.
    pub fn require_tokens_of(&self, metadata: &Metadata) {
        let tokens = metadata.tokens();
        self.orders().takes = Some(Box::new(move |token| tokens.is_access(token)));
    }

    /// Every call so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls().clone()
    }

    /// How many calls of this kind came.
    pub fn count(&self, kind: Kind) -> usize {
        let calls = self.shared.calls();
        calls.iter().filter(|call| call.kind == Some(kind)).count()
    }

    /// Waits until the calls are as wished and returns them.
    ///
    /// # Panics
    /// When they are not within twenty seconds; the message shows them.
    pub async fn wait_for(&self, wished: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let calls = self.calls();
            if wished(&calls) {
                return calls;
            }
            assert!(Instant::now() < give_up_at, "never came: {calls:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.shared.vault()
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.orders()
    }
}

impl Shared {
    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error as Google's REST services shape it.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }

    fn precondition(message: impl Into<String>) -> Self {
        Self::new(400, "FAILED_PRECONDITION", message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "NOT_FOUND", message)
    }

    fn to_json(&self) -> Value {
        json!({"error": {"code": self.status, "message": self.message, "status": self.code}})
    }
}
