//! The queue between settled calls and the sink. Every row is a log line first, so that a sink that
//! is down, slow or full costs a copy of a row and never a call. Knows no HTTP and no SQL.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::UsageRecord;
use super::row::Origin;
use crate::config::{Config, SinkKind};
use crate::store::{Store, StoreError};
use crate::telemetry;

/// Rows in memory at most, those on their way to the sink included.
const QUEUE_ROWS: usize = 10_000;
/// Rows in one write at most.
const BATCH_ROWS: usize = 500;
/// How long the first row of a batch waits for others.
const GATHER: Duration = Duration::from_millis(200);
/// Pause after a failed write; doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Faults of one kind are told once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Takes settled calls and brings them to the sink.
///
/// Counts always add up: settled = written + lost + waiting.
pub struct Ledger {
    origin: Origin,
    sink: Sink,
    queue: Mutex<Queue>,
    /// Rows on their way to the sink. Outside the future that writes them, so that one which is
    /// dropped half-way leaves them to the next.
    batch: tokio::sync::Mutex<Vec<String>>,
    /// A row came into an empty queue.
    arrived: Notify,
    /// A batch is full.
    full: Notify,
    draining: CancellationToken,
}

/// Where rows go besides the log.
enum Sink {
    Local(Store),
    LogOnly,
}

/// What became of the rows so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerStats {
    /// Acknowledged by the sink.
    pub written: u64,
    /// In the log alone, because the queue was full.
    pub lost: u64,
}

impl Ledger {
    /// Opens the sink.
    ///
    /// # Errors
    /// When the embedded table cannot be opened.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let origin = Origin::new(&config.instance, &config.usage.labels);
        let path = &config.database;
        Ok(Self::open_sink(&config.usage.sink, path, origin).await?)
    }

    async fn open_sink(kind: &SinkKind, path: &Path, origin: Origin) -> Result<Self, StoreError> {
        let sink = match kind {
            SinkKind::Local => Sink::Local(Store::open(path).await?),
            SinkKind::BigQuery(_) | SinkKind::Stdout | SinkKind::None => Sink::LogOnly,
        };
        Ok(Self {
            origin,
            sink,
            queue: Mutex::default(),
            batch: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            full: Notify::new(),
            draining: CancellationToken::new(),
        })
    }

    /// Writes the row's log line and queues the row. Never waits, never fails; may be called from
    /// `Drop`.
    pub fn settle(&self, record: &UsageRecord) {
        let row = match self.origin.row(record) {
            Ok(row) => row,
            Err(cause) => {
                let request_id = &record.request_id;
                tracing::error!(request_id, %cause, "a usage row cannot be written as JSON");
                self.lock().lost += 1;
                return;
            }
        };
        telemetry::log::usage_line(row.as_bytes(), record.trace.as_deref());
        match self.sink {
            Sink::Local(_) => self.enqueue(row),
            // The line is all there is, and it is out.
            Sink::LogOnly => self.lock().written += 1,
        }
    }

    fn enqueue(&self, row: String) {
        let pushed = self.lock().push(row);
        if pushed.first {
            self.arrived.notify_one();
        }
        if pushed.full {
            self.full.notify_one();
        }
        if let Some(lost) = pushed.tell_lost {
            tracing::error!(
                lost,
                "the queue of usage rows is full: the oldest stay in the log alone"
            );
        }
    }

    /// Writes batches until [`Ledger::drain`] is called. The composition root owns this future, of
    /// which there is one.
    pub async fn run(&self) {
        let mut pause = PAUSE_MIN;
        while !self.draining.is_cancelled() {
            if self.waiting() == 0 {
                self.unless_draining(self.arrived.notified()).await;
                continue;
            }
            self.gather().await;
            if self.write_batch().await {
                pause = PAUSE_MIN;
            } else {
                self.unless_draining(tokio::time::sleep(pause)).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        }
    }

    /// Stops [`Ledger::run`], brings what waits to the sink and closes it, all within `limit`. Rows
    /// left then, and rows settled later, are in the log alone. Returns how many were left.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.draining.cancel();
        let flush = async {
            while self.waiting() > 0 {
                if !self.write_batch().await {
                    tokio::time::sleep(PAUSE_MIN).await;
                }
            }
            if let Sink::Local(store) = &self.sink {
                store.close().await;
            }
        };
        // Late or not, what counts is what is left.
        let _ = tokio::time::timeout(limit, flush).await;
        let left = self.waiting();
        if left > 0 {
            tracing::error!(
                left,
                "usage rows did not reach the sink in time: they are in the log alone"
            );
        }
        left
    }

    /// Rows not yet acknowledged by the sink.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// What became of the rows so far.
    #[must_use]
    pub fn stats(&self) -> LedgerStats {
        let queue = self.lock();
        LedgerStats {
            written: queue.written,
            lost: queue.lost,
        }
    }

    /// Waits until a batch is full or its first row has waited long enough. After a failed write
    /// there is a batch already.
    async fn gather(&self) {
        let ready = { self.lock().batch_ready() };
        if !ready {
            let full = tokio::time::timeout(GATHER, self.full.notified());
            self.unless_draining(full).await;
        }
    }

    /// Sends one batch to the sink; false if it failed, and then the batch is kept.
    async fn write_batch(&self) -> bool {
        let mut batch = self.batch.lock().await;
        if batch.is_empty() {
            self.lock().take_into(&mut batch);
        }
        let sent = match &self.sink {
            Sink::Local(store) => store.insert_usage(&batch).await,
            Sink::LogOnly => Ok(()),
        };
        if let Err(cause) = sent {
            self.note_failure(cause);
            return false;
        }
        let recovered = self.lock().acknowledge();
        batch.clear();
        if recovered {
            tracing::info!("usage rows reach the sink again");
        }
        true
    }

    fn note_failure(&self, cause: StoreError) {
        let tell = self.lock().fail();
        if tell {
            let (waiting, cause) = (self.waiting(), format!("{:#}", anyhow::Error::new(cause)));
            tracing::error!(
                waiting,
                cause,
                "usage rows do not reach the sink; all are kept"
            );
        }
    }

    async fn unless_draining<T>(&self, event: impl Future<Output = T>) {
        tokio::select! {
            () = self.draining.cancelled() => {}
            _ = event => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows in their order, and what became of the others.
#[derive(Default)]
struct Queue {
    rows: VecDeque<String>,
    in_flight: usize,
    written: u64,
    lost: u64,
    failing: bool,
    told_lost: Option<Instant>,
    told_failing: Option<Instant>,
}

struct Pushed {
    first: bool,
    full: bool,
    /// Lost so far, if it is time to say so.
    tell_lost: Option<u64>,
}

impl Queue {
    fn waiting(&self) -> usize {
        self.rows.len() + self.in_flight
    }

    fn batch_ready(&self) -> bool {
        self.in_flight > 0 || self.rows.len() >= BATCH_ROWS
    }

    /// Adds a row; the oldest one goes if there is no room.
    fn push(&mut self, row: String) -> Pushed {
        let mut tell_lost = None;
        if self.waiting() >= QUEUE_ROWS {
            self.rows.pop_front();
            self.lost += 1;
            tell_lost = is_due(&mut self.told_lost).then_some(self.lost);
        }
        self.rows.push_back(row);
        Pushed {
            first: self.rows.len() == 1,
            full: self.rows.len() == BATCH_ROWS,
            tell_lost,
        }
    }

    fn take_into(&mut self, batch: &mut Vec<String>) {
        let count = self.rows.len().min(BATCH_ROWS);
        batch.extend(self.rows.drain(..count));
        self.in_flight = count;
    }

    /// Counts the batch as written; true if the write before it had failed.
    fn acknowledge(&mut self) -> bool {
        self.written += self.in_flight as u64;
        self.in_flight = 0;
        self.told_failing = None;
        std::mem::take(&mut self.failing)
    }

    /// Notes a failed write; true if it is time to say so.
    fn fail(&mut self) -> bool {
        self.failing = true;
        is_due(&mut self.told_failing)
    }
}

fn is_due(told: &mut Option<Instant>) -> bool {
    let due = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
    if due {
        *told = Some(Instant::now());
    }
    due
}

#[cfg(test)]
mod tests;
