//! The queue between settled calls and the sink. Every row is a log line first, so that a sink that
//! is down, slow or full costs a copy of a row and never a call. Knows no HTTP and no SQL.

mod queue;
mod sink;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::queue::{Next, Queue, Taken};
use self::sink::Sink;
use super::UsageRecord;
use super::row::Origin;
use crate::config::Config;
use crate::google::{Fault, Google, Prepared, Verdict};
use crate::store::Store;
use crate::telemetry;

pub use self::queue::{Attempts, LedgerStats};

/// Takes settled calls and brings them to the sink.
///
/// Counts always add up: settled = written + invalid + lost + waiting.
pub struct Ledger {
    origin: Origin,
    sink: Sink,
    queue: Mutex<Queue>,
    /// There are rows for a lane that waits for some.
    arrived: Notify,
    /// A batch is full.
    full: Notify,
    draining: CancellationToken,
    /// Whoever holds it takes rows out of the queue.
    writing: tokio::sync::Mutex<()>,
}

impl Ledger {
    /// Opens the sink; the embedded table on the store's connection, if they share a file. BigQuery is
    /// asked nothing yet.
    ///
    /// # Errors
    /// When the embedded table cannot be opened.
    pub async fn open(
        config: &Config,
        google: &Arc<Google>,
        store: Option<&Store>,
    ) -> anyhow::Result<Self> {
        let origin = Origin::new(&config.instance, &config.usage.labels);
        Ok(Self::with_sink(
            Sink::open(config, google, store).await?,
            origin,
        ))
    }

    fn with_sink(sink: Sink, origin: Origin) -> Self {
        Self {
            origin,
            sink,
            queue: Mutex::default(),
            arrived: Notify::new(),
            full: Notify::new(),
            draining: CancellationToken::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Writes the row's log line and queues the row. Never waits, never fails; may be called from
    /// `Drop`.
    pub fn settle(&self, record: &UsageRecord) {
        let row = match self.origin.row(record) {
            Ok(row) => row,
            Err(cause) => {
                let request_id = &record.request_id;
                tracing::error!(request_id, %cause, "a usage row cannot be written as JSON");
                self.lock().lose_unqueued();
                return;
            }
        };
        telemetry::log::usage_line(row.as_bytes(), record);
        match self.sink {
            // The line is all there is, and it is out.
            Sink::LogOnly => self.lock().write_unqueued(),
            _ => self.enqueue(row),
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

    /// Makes the sink ready and writes batches until [`Ledger::drain`] is called, which also ends
    /// writes that are under way: their rows are sent again, by the same ids. The composition root
    /// owns this future, of which there is one.
    pub async fn run(&self) {
        let work = async {
            let _alone = self.writing.lock().await;
            while !self.prepare().await {
                self.pause().await;
            }
            join_all((0..self.sink.lanes()).map(|_| self.lane())).await;
        };
        self.draining.run_until_cancelled(work).await;
    }

    /// Ends [`Ledger::run`], brings what waits to the sink and closes it, all within `limit`. Rows
    /// left then, and rows settled later, are in the log alone. Returns how many were left.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.draining.cancel();
        {
            self.lock().hurry();
        }
        let flush = async {
            let _alone = self.writing.lock().await;
            join_all((0..self.sink.lanes()).map(|_| self.flush())).await;
            self.sink.close().await;
        };
        // Late or not, what counts is what is left.
        let _ = tokio::time::timeout(limit, flush).await;
        let unsure = { self.lock().unsure() };
        if unsure > 0 {
            tracing::warn!(
                rows = unsure,
                "the process ends while the table is new: if it swallowed rows, they are in the log"
            );
        }
        let stats = self.stats();
        let left = stats.waiting;
        if left > 0 {
            // Until a write fails nobody has said anything.
            let mute = || "the sink has not answered".to_owned();
            tracing::error!(
                left,
                cause = stats.failing.unwrap_or_else(mute),
                "usage rows were not acknowledged in time: they may be in the log alone"
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
        self.lock().stats()
    }

    /// Delivers one batch after another as they are due.
    async fn lane(&self) {
        loop {
            let next = { self.lock().next() };
            match next {
                Next::WaitForRows(None) => self.arrived.notified().await,
                Next::WaitForRows(Some(due)) => {
                    let arrived = self.arrived.notified();
                    let _ = tokio::time::timeout_at(due, arrived).await;
                }
                Next::WaitUntil(due) => {
                    let full = self.full.notified();
                    let _ = tokio::time::timeout_at(due, full).await;
                }
                Next::Take => {
                    // Cheap, unless the sink told it to look again.
                    if self.prepare().await {
                        self.deliver(self.take()).await;
                    }
                }
            }
        }
    }

    /// Delivers batches until there are no rows or somebody must change something first. Does not ask
    /// the sink whether it is ready: if it is not, it would not be in time.
    async fn flush(&self) {
        loop {
            let batch = self.take();
            if batch.rows.is_empty() {
                return;
            }
            self.deliver(batch).await;
            let refused = { self.lock().is_refused() };
            if refused {
                return;
            }
            self.pause().await;
        }
    }

    /// Makes the sink ready; false if it cannot be.
    async fn prepare(&self) -> bool {
        match self.sink.prepare().await {
            Ok(Prepared { new_for, note }) => {
                let recovered = self.lock().prepared(new_for, note);
                if recovered {
                    tracing::info!("the sink of usage rows is ready");
                }
                true
            }
            Err(fault) => {
                self.lock().unprepared();
                self.note_failure(&fault);
                false
            }
        }
    }

    fn take(&self) -> Batch<'_> {
        let mut queue = self.lock();
        let Taken { rows, once_more } = queue.take();
        if !matches!(queue.next(), Next::WaitForRows(_)) {
            self.arrived.notify_one();
        }
        drop(queue);
        Batch {
            ledger: self,
            rows,
            once_more,
        }
    }

    /// Writes a batch, as long as each attempt settles some of its rows. The others go back.
    async fn deliver(&self, mut batch: Batch<'_>) {
        while !batch.rows.is_empty() {
            let verdicts = match self.sink.write(&batch.rows).await {
                Ok(verdicts) => verdicts,
                Err(fault) => return self.note_failure(&fault),
            };
            let before = batch.rows.len();
            let settled = batch.settle(verdicts);
            match settled.again {
                Some(text) if batch.rows.len() == before => {
                    return self.note_failure(&Fault::transient(text));
                }
                _ => {
                    let recovered = self.lock().succeed(settled.written == before);
                    if recovered {
                        tracing::info!("usage rows reach the sink again");
                    }
                }
            }
        }
    }

    fn note_failure(&self, fault: &Fault) {
        let tell = self.lock().fail(fault.text.clone(), fault.permanent);
        if tell {
            tracing::error!(
                waiting = self.waiting(),
                cause = fault.text,
                "usage rows do not reach the sink"
            );
        }
    }

    /// Waits as long as the last failure asks for.
    async fn pause(&self) {
        let until = { self.lock().paused_until() };
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows on their way to the sink. Whatever ends the future that writes them, those that were not
/// settled go back into the queue.
struct Batch<'l> {
    ledger: &'l Ledger,
    rows: Vec<String>,
    /// Sent before and acknowledged: no count knows of them.
    once_more: bool,
}

/// What one attempt came to.
#[derive(Default)]
struct Settled {
    written: usize,
    invalid: usize,
    /// Why the first of the rows that are kept must be sent again.
    again: Option<String>,
}

impl Batch<'_> {
    /// Keeps the rows that must be sent again.
    fn settle(&mut self, verdicts: Vec<Verdict>) -> Settled {
        let mut settled = Settled::default();
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for (row, verdict) in std::mem::take(&mut self.rows).into_iter().zip(verdicts) {
            match verdict {
                Verdict::Accepted => written.push(row),
                Verdict::Invalid(reason) => {
                    telemetry::log::refused_row_line(row.as_bytes(), &reason);
                    settled.invalid += 1;
                }
                Verdict::Again(reason) => {
                    settled.again.get_or_insert(reason);
                    kept.push(row);
                }
            }
        }
        self.rows = kept;
        settled.written = written.len();
        if !self.once_more {
            self.ledger.lock().settle(written, settled.invalid);
        }
        settled
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            let once_more = self.once_more;
            self.ledger.lock().give_back(Taken { rows, once_more });
            self.ledger.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
