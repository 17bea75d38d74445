//! The server's own book of what it was asked and what it made of it: tests hold a gateway's rows
//! against it. It knows no HTTP server and no engine.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::watch;

/// How a call ended, as the server saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is still under way.
    Running,
    /// The whole answer was handed over.
    Finished(Instant),
    /// The server broke it off itself, because it was told to.
    BrokenOff(Instant),
    /// The client hung up first.
    Gone(Instant),
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Place in the book, from 0.
    pub number: usize,
    /// The TCP connection it came on, from 0.
    pub connection: u64,
    pub received_at: Instant,
    pub method: Method,
    /// Path without query.
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The recording that answered it, if one did.
    pub replayed: Option<String>,
    /// Status of the answer; `None` before its head.
    pub status: Option<u16>,
    /// Tokens of the prompts; 0 until the engine took the call.
    pub prompt_tokens: u64,
    /// Tokens generated so far, over all choices.
    pub completion_tokens: u64,
    /// Events handed to the connection so far.
    pub events: usize,
    pub end: End,
}

impl Call {
    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The `x-request-id` it came with; empty if none.
    pub fn request_id(&self) -> &str {
        self.header("x-request-id")
    }

    /// Whether the engine may still work on it: it took it, and there is no end yet.
    pub fn is_under_way(&self) -> bool {
        self.prompt_tokens > 0 && self.end == End::Running
    }

    /// Whether the whole answer went out.
    pub fn finished(&self) -> bool {
        matches!(self.end, End::Finished(_))
    }

    /// When the client hung up before the end, if it did.
    pub fn disconnected_at(&self) -> Option<Instant> {
        match self.end {
            End::Gone(at) => Some(at),
            End::Running | End::Finished(_) | End::BrokenOff(_) => None,
        }
    }
}

/// The book. Clones share it.
#[derive(Clone)]
pub struct Journal {
    calls: Arc<Mutex<Vec<Call>>>,
    version: watch::Sender<u64>,
}

impl Journal {
    pub fn new() -> Self {
        Self {
            calls: Arc::default(),
            version: watch::Sender::new(0),
        }
    }

    /// A copy of all calls so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// Enters a new call and hands out the pen for it.
    pub fn open(&self, mut call: Call) -> Entry {
        let mut calls = self.lock();
        call.number = calls.len();
        let entry = Entry {
            journal: self.clone(),
            number: call.number,
        };
        calls.push(call);
        drop(calls);
        self.touch();
        entry
    }

    /// Waits until `enough` holds for the calls and returns them.
    ///
    /// # Panics
    /// When that does not happen within `bound`; the message shows the calls.
    pub async fn wait_for(&self, bound: Duration, enough: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut version = self.version.subscribe();
        let wait = async {
            loop {
                version.borrow_and_update();
                let calls = self.calls();
                if enough(&calls) {
                    return calls;
                }
                if version.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let done = tokio::time::timeout(bound, wait).await;
        done.unwrap_or_else(|_| panic!("not within {bound:?}; the calls were {:#?}", self.calls()))
    }

    fn touch(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The pen for one call. Dropped before `close`, it enters that the client has gone.
pub struct Entry {
    journal: Journal,
    number: usize,
}

impl Entry {
    /// The call's place in the book.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Writes into the call.
    pub fn note(&self, write: impl FnOnce(&mut Call)) {
        if let Some(call) = self.journal.lock().get_mut(self.number) {
            write(call);
        }
        self.journal.touch();
    }

    /// Enters the end, unless one stands there already.
    pub fn close(&self, end: End) {
        self.note(|call| {
            if call.end == End::Running {
                call.end = end;
            }
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close(End::Gone(Instant::now()));
    }
}
