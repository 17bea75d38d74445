//! Where rows go besides the log, and what a sink says of them.

use crate::config::{Config, SinkKind};
use crate::google::{Fault, Google, Prepared, Table, Verdict};
use crate::store::{Store, UsageTable};
use std::sync::Arc;

/// Requests to BigQuery at the same time: one alone brings two hundred rows a second if each takes
/// two and a half.
const BIGQUERY_LANES: usize = 4;

pub(super) enum Sink {
    Local(UsageTable),
    BigQuery(Box<Table>),
    LogOnly,
    #[cfg(test)]
    Staged(super::tests::staged::Stage),
}

impl Sink {
    pub(super) async fn open(
        config: &Config,
        google: &Arc<Google>,
        store: Option<&Store>,
    ) -> anyhow::Result<Self> {
        Ok(match &config.usage.sink {
            SinkKind::Local => {
                Self::Local(UsageTable::open_beside(store, &config.usage_file).await?)
            }
            SinkKind::BigQuery(name) => {
                let table = crate::usage::table(google, name, &config.usage.labels);
                Self::BigQuery(Box::new(table))
            }
            SinkKind::Stdout | SinkKind::None => Self::LogOnly,
        })
    }

    /// How many writes may be under way at once.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Local(_) | Self::LogOnly => 1,
            Self::BigQuery(_) => BIGQUERY_LANES,
            #[cfg(test)]
            Self::Staged(_) => BIGQUERY_LANES,
        }
    }

    /// Makes the sink ready for rows; cheap if it was.
    pub(super) async fn prepare(&self) -> Result<Prepared, Fault> {
        match self {
            Self::Local(_) | Self::LogOnly => Ok(Prepared::default()),
            Self::BigQuery(table) => table.prepare().await,
            #[cfg(test)]
            Self::Staged(stage) => stage.prepare(),
        }
    }

    /// What became of each row; or why nothing is known of any.
    pub(super) async fn write(&self, rows: &[String]) -> Result<Vec<Verdict>, Fault> {
        match self {
            Self::Local(store) => match store.insert_usage(rows).await {
                Ok(()) => Ok(vec![Verdict::Accepted; rows.len()]),
                Err(cause) => {
                    let cause = anyhow::Error::new(cause);
                    Err(Fault::transient(format!("{cause:#}")))
                }
            },
            Self::BigQuery(table) => table.insert(rows).await,
            Self::LogOnly => Ok(vec![Verdict::Accepted; rows.len()]),
            #[cfg(test)]
            Self::Staged(stage) => stage.write(rows).await,
        }
    }

    pub(super) async fn close(&self) {
        if let Self::Local(store) = self {
            store.close().await;
        }
    }
}
