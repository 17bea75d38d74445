//! Rows in BigQuery: every admitted call is in the table once (of rows with the same request id, the
//! view counts one) or in the log as data, whatever BigQuery does and whenever the process ends.

mod bench;
mod table;
mod troubles;
