//! The usage table of BigQuery: what `schema/usage.json` says of it, and how it is laid out.

use std::sync::Arc;

use crate::config::TableRef;
use crate::google::{Google, Table, TableSpec};

const DESCRIPTION: &str = "One row per model call that settled at the gateway. A row may be there more than once: count \
     each request_id once.";

/// The usage table; `labels` are put on it if it is made here.
#[must_use]
pub fn table(google: &Arc<Google>, name: &TableRef, labels: &[(String, String)]) -> Table {
    let spec = TableSpec {
        columns: include_str!("../../schema/usage.json"),
        partition_by: "started_at",
        cluster_by: &["key_name", "model"],
        insert_id: "request_id",
        description: DESCRIPTION,
        labels: labels.iter().cloned().collect(),
    };
    Table::new(google, name, spec)
}
