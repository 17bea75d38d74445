//! Rows into the table, by BigQuery's streaming insert. What became of each row is said one by one:
//! an answer of 200 may hold refusals.

use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::error_proto::ErrorProto;
use gcp_bigquery_client::model::table_data_insert_all_request::TableDataInsertAllRequest;
use gcp_bigquery_client::model::table_data_insert_all_request_rows::TableDataInsertAllRequestRows;
use gcp_bigquery_client::model::table_data_insert_all_response_insert_errors::TableDataInsertAllResponseInsertErrors as RowErrors;
use serde_json::Value;

use super::{Refusal, Table};
use crate::google::Fault;

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Will never be accepted, and why.
    Invalid(String),
    /// Not written, for a reason that passes or lies in another row of the request.
    Again(String),
}

impl Table {
    /// Sends rows, each the text of a JSON object, in one request of at most 10 MB. Row by row the
    /// answer says what became of them. A row that is sent again has the same insert id, by which
    /// BigQuery knows it again for about a minute.
    ///
    /// # Errors
    /// When the request as a whole failed: no row is known to be written, none is known not to be.
    pub async fn insert(&self, rows: &[String]) -> Result<Vec<Verdict>, Fault> {
        let session = self.session().await?;
        let request = self.request(rows).map_err(|cause| {
            Fault::permanent(format!("rows cannot be sent to BigQuery: {cause}"))
        })?;
        let answer = session
            .bigquery
            .tabledata()
            .insert_all(session.project, session.dataset, session.table, request)
            .await;
        match answer {
            Ok(answer) => Ok(self.verdicts(rows.len(), &answer.insert_errors.unwrap_or_default())),
            Err(error) => {
                let refusal = Refusal::from(error);
                if refusal.is_missing() {
                    self.look_again();
                }
                Err(self.fault("cannot write to", &refusal))
            }
        }
    }

    /// The crate takes values, so that each row is parsed once more for each request. Columns that
    /// the table lacks and that may not be added stay out.
    fn request(&self, rows: &[String]) -> Result<TableDataInsertAllRequest, BQError> {
        let absent = self.known().absent.clone();
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            let mut json: Value = serde_json::from_str(row)?;
            if let Value::Object(columns) = &mut json {
                columns.retain(|name, _| !absent.contains(name));
            }
            let insert_id = json[self.spec.insert_id].as_str().map(str::to_owned);
            values.push(TableDataInsertAllRequestRows { insert_id, json });
        }
        let mut request = TableDataInsertAllRequest::new();
        request.add_rows(values)?;
        Ok(request)
    }

    /// If one row was refused, none was written: BigQuery names the innocent ones `stopped`. One that
    /// it does not name at all may be in the table or not, and is sent again.
    fn verdicts(&self, rows: usize, errors: &[RowErrors]) -> Vec<Verdict> {
        if errors.is_empty() {
            self.known().doubt_since = None;
            return vec![Verdict::Accepted; rows];
        }
        // Why rows were stopped, whichever row it is said of.
        let spoken = errors.iter().flat_map(|row| row.errors.iter().flatten());
        let why = spoken
            .filter(|error| !is_stopped(error))
            .map(describe)
            .next();
        let why = why.unwrap_or_else(|| "stopped".to_owned());
        let mut verdicts = vec![Verdict::Again(why); rows];
        let mut unknown_column = false;
        for row in errors {
            let index = row.index.and_then(|index| usize::try_from(index).ok());
            let Some(verdict) = index.and_then(|index| verdicts.get_mut(index)) else {
                continue;
            };
            let errors = row.errors.as_deref().unwrap_or_default();
            if errors.iter().all(is_stopped) {
                continue;
            }
            *verdict = judge(errors);
            if let Verdict::Invalid(text) = &verdict
                && text.contains("no such field")
            {
                unknown_column = true;
                if self.is_in_doubt() {
                    *verdict = Verdict::Again(text.clone());
                }
            }
        }
        if unknown_column {
            self.look_again();
        }
        verdicts
    }
}

/// The row only stood beside a bad one.
fn is_stopped(error: &ErrorProto) -> bool {
    error.reason.as_deref() == Some("stopped")
}

/// Only a row that is named `invalid` is.
fn judge(errors: &[ErrorProto]) -> Verdict {
    let texts = |only: Option<&str>| {
        let texts: Vec<String> = errors
            .iter()
            .filter(|error| only.is_none() || error.reason.as_deref() == only)
            .map(describe)
            .collect();
        texts.join("; ")
    };
    let invalid = texts(Some("invalid"));
    if invalid.is_empty() {
        Verdict::Again(texts(None))
    } else {
        Verdict::Invalid(invalid)
    }
}

fn describe(error: &ErrorProto) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let (reason, message, location) = (
        part(&error.reason),
        part(&error.message),
        part(&error.location),
    );
    let mut text = reason;
    for (before, part) in [(": ", message), (" at ", location)] {
        if !part.is_empty() {
            text += before;
            text += &part;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::{GoogleConfig, TableRef};
    use crate::google::{Google, TableSpec};

    fn error(reason: &str, message: &str) -> ErrorProto {
        ErrorProto {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
            location: None,
            debug_info: None,
        }
    }

    #[test]
    fn only_invalid_is_final() {
        for reason in [
            "stopped",
            "timeout",
            "backendError",
            "internalError",
            "rateLimitExceeded",
        ] {
            let verdict = judge(&[error(reason, "")]);
            assert_eq!(verdict, Verdict::Again(reason.to_owned()));
        }
        let both = [error("stopped", ""), error("invalid", "no number")];
        assert_eq!(
            judge(&both),
            Verdict::Invalid("invalid: no number".to_owned())
        );
        assert_eq!(judge(&[]), Verdict::Again(String::new()));
    }

    fn table() -> Table {
        // Another test may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let google = Google::new(&GoogleConfig::default());
        let name = TableRef {
            project: Some("p".to_owned()),
            dataset: "d".to_owned(),
            table: "t".to_owned(),
        };
        let spec = TableSpec {
            columns: "[]",
            partition_by: "at",
            cluster_by: &[],
            insert_id: "id",
            description: "",
            labels: HashMap::new(),
        };
        Table::new(&Arc::new(google), &name, spec)
    }

    fn row_error(index: i32, error: ErrorProto) -> RowErrors {
        RowErrors {
            errors: Some(vec![error]),
            index: Some(index),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_column_is_final_after_a_quarter_of_an_hour() {
        let table = table();
        let unknown = || [row_error(1, error("invalid", "no such field: x."))];
        let is_final = || {
            let verdicts = table.verdicts(2, &unknown());
            assert!(matches!(verdicts[0], Verdict::Again(_)));
            matches!(verdicts[1], Verdict::Invalid(_))
        };
        assert!(!is_final());
        tokio::time::advance(Duration::from_mins(14)).await;
        assert!(!is_final());
        tokio::time::advance(Duration::from_mins(2)).await;
        assert!(is_final());
        // It was known in between: the doubt begins anew.
        assert_eq!(table.verdicts(1, &[]), [Verdict::Accepted]);
        assert!(!is_final());
    }

    #[tokio::test]
    async fn what_is_said_of_no_row_that_was_sent_is_final_for_none_and_is_told() {
        for index in [Some(7), Some(-1), None] {
            let astray = RowErrors {
                index,
                ..row_error(0, error("invalid", "x"))
            };
            let again = Verdict::Again("invalid: x".to_owned());
            assert_eq!(table().verdicts(2, &[astray]), [again.clone(), again]);
        }
    }

    #[tokio::test]
    async fn rows_that_were_stopped_are_told_of_with_the_cause() {
        let errors = [
            row_error(0, error("stopped", "")),
            row_error(1, error("backendError", "later")),
        ];
        let again = Verdict::Again("backendError: later".to_owned());
        assert_eq!(table().verdicts(3, &errors), vec![again; 3]);
        let again = Verdict::Again("stopped".to_owned());
        assert_eq!(table().verdicts(1, &errors[..1]), [again]);
    }

    #[tokio::test]
    async fn rows_go_with_their_id_and_without_columns_that_the_table_lacks() {
        let table = table();
        table.known().absent = vec!["new".to_owned()];
        let rows = [r#"{"id":"7","new":1,"old":null,"list":[{"key":"k"}]}"#.to_owned()];
        let request = serde_json::to_value(table.request(&rows).unwrap()).unwrap();
        assert_eq!(
            request["rows"],
            serde_json::json!([{"insertId": "7", "json": {"id": "7", "old": null, "list": [{"key": "k"}]}}])
        );
        assert_eq!(request["ignoreUnknownValues"], false);
        assert_eq!(request["skipInvalidRows"], false);
    }
}
