//! The queue between settled calls and the sink.

use std::time::Duration;

use super::UsageRecord;
use crate::config::Config;

/// Takes settled calls and brings them to the sink.
pub struct Ledger {}

impl Ledger {
    /// Opens the sink.
    ///
    /// # Errors
    /// When the embedded table cannot be opened.
    pub async fn open(_config: &Config) -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// Writes the row's log line and queues the row. Never waits, never fails.
    pub fn settle(&self, _record: UsageRecord) {}

    /// Writes batches until [`Ledger::drain`] is called. The composition root owns this future.
    pub async fn run(&self) {
        std::future::pending().await
    }

    /// Brings what waits to the sink, for at most `limit`; rows left then are in the log alone.
    /// Returns how many were left.
    pub async fn drain(&self, _limit: Duration) -> usize {
        0
    }

    /// Rows not yet acknowledged by the sink.
    #[must_use]
    pub fn waiting(&self) -> usize {
        0
    }
}
