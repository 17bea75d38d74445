//! The store as budgets use it: each attempt is bounded, and a store that does not answer is
//! remembered, so that not each call finds out for itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::entry::{Entry, lock};
#[cfg(test)]
use super::model::Model;
use crate::store::{Exchange, Exchanged, Store};

/// The longest that one attempt takes.
pub(super) const ATTEMPT: Duration = Duration::from_secs(3);
/// After a failure calls are refused at once for so long.
const REFUSING: Duration = Duration::from_secs(1);
/// After so many failures in a row, of any budgets, the store is taken to be down for all.
const DOWN: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The store did not answer. Nothing is known of what it did.
#[derive(Clone, Debug)]
pub struct Silent(Arc<str>);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Silent {}

pub(super) enum Source {
    Store(Arc<Store>),
    #[cfg(test)]
    Model(Arc<Model>),
}

pub(super) struct Books {
    source: Source,
    exchanges: AtomicU64,
    failed: AtomicU64,
    silence: Mutex<Silence>,
}

/// Failures since the last answer.
#[derive(Default)]
struct Silence {
    in_row: u32,
    last: Option<(Instant, Silent)>,
}

impl Books {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            exchanges: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            silence: Mutex::default(),
        }
    }

    /// The answer; `None` if the store will never take this exchange, as it has gone back in time.
    pub async fn exchange(
        &self,
        entry: &Entry,
        exchange: &Exchange,
    ) -> Result<Option<Exchanged>, Silent> {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        let attempt = async {
            match &self.source {
                Source::Store(store) => store.exchange(exchange).await,
                #[cfg(test)]
                Source::Model(model) => model.exchange(exchange).await,
            }
        };
        let cause = match timeout(ATTEMPT, Box::pin(attempt)).await {
            Ok(Ok(answer)) => {
                self.succeed(entry);
                return Ok(Some(answer));
            }
            Ok(Err(error)) if error.is_out_of_order() => {
                self.succeed(entry);
                return Ok(None);
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "the database did not answer in time".to_owned(),
        };
        Err(self.fail(entry, Silent(cause.into())))
    }

    /// The last failure, if it is so fresh that another attempt would end in the same way.
    pub fn is_silent(&self, entry: &Entry) -> Option<Silent> {
        let silence = lock(&self.silence);
        let (at, cause) = silence.last.as_ref()?;
        let is_fresh = |at: Instant| at.elapsed() < REFUSING;
        let is_silent =
            entry.failed_at().is_some_and(is_fresh) || (silence.in_row >= DOWN && is_fresh(*at));
        is_silent.then(|| cause.clone())
    }

    /// How long to leave the store alone with settlements; `None` while it answers.
    pub fn pause(&self) -> Option<Duration> {
        let in_row = lock(&self.silence).in_row;
        let doublings = in_row.saturating_sub(1).min(8);
        (in_row > 0).then(|| (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE))
    }

    /// Exchanges sent, and those that failed.
    pub fn counts(&self) -> [u64; 2] {
        [&self.exchanges, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }

    fn succeed(&self, entry: &Entry) {
        entry.note(None);
        let before = std::mem::take(&mut *lock(&self.silence));
        if before.in_row >= DOWN {
            tracing::info!("the database of token budgets answers again");
        }
    }

    fn fail(&self, entry: &Entry, cause: Silent) -> Silent {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        entry.note(Some(now));
        let in_row = {
            let mut silence = lock(&self.silence);
            silence.in_row += 1;
            silence.last = Some((now, cause.clone()));
            silence.in_row
        };
        if in_row == DOWN {
            tracing::error!(%cause, "the database of token budgets does not answer");
        }
        cause
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
