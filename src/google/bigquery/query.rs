//! Questions to the table, as BigQuery's SQL: values go as parameters, only the table's own name
//! becomes part of the text.

use std::time::Duration;

use gcp_bigquery_client::model::get_query_results_parameters::GetQueryResultsParameters;
use gcp_bigquery_client::model::job_reference::JobReference;
use gcp_bigquery_client::model::query_parameter::QueryParameter;
use gcp_bigquery_client::model::query_parameter_type::QueryParameterType;
use gcp_bigquery_client::model::query_parameter_value::QueryParameterValue;
use gcp_bigquery_client::model::query_request::QueryRequest;
use gcp_bigquery_client::model::query_response::QueryResponse;
use gcp_bigquery_client::model::table_row::TableRow;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use tokio::time::Instant;

use super::schema::{names, no_dataset};
use super::{Refusal, Session, Table};
use crate::google::Fault;

/// What stands for the table in a question.
pub const TABLE: &str = "{table}";
/// How long one request waits for the result; the HTTP client waits a little longer.
const POLL_MS: i32 = 10_000;
/// Longest wait for a result.
const QUERY_LIMIT: Duration = Duration::from_mins(5);
/// Rows of one answer.
const PAGE_ROWS: i32 = 10_000;
/// Most rows of a result.
const MOST_ROWS: usize = 1_000_000;
/// Requests for one question, and the pause after the first that failed.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// A point in time as BigQuery's SQL spells it.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00:00");

/// A value of a question.
#[derive(Clone, Debug)]
pub enum Parameter {
    Timestamp(OffsetDateTime),
    Text(String),
    Texts(Vec<String>),
}

/// A row of a result: cells in the order of the question, as texts.
pub type Cells = Vec<Option<String>>;

impl Table {
    /// The names of the columns that the table has; `None` if there is no such table yet.
    ///
    /// # Errors
    /// Permanent without a dataset or without a right.
    pub async fn column_names(&self) -> Result<Option<Vec<String>>, Fault> {
        let session = self.session().await?;
        let mut attempt = 1;
        loop {
            match self.describe(&session).await {
                Ok(seen) => return Ok(Some(names(&seen.fields))),
                Err(refusal)
                    if refusal.is_missing() && refusal.text.contains("Not found: Dataset") =>
                {
                    return Err(no_dataset(&session));
                }
                Err(refusal) if refusal.is_missing() => return Ok(None),
                Err(refusal) => self.pause(&mut attempt, "cannot look at", &refusal).await?,
            }
        }
    }

    /// Asks a question, in which [`TABLE`] stands for the table and `@name` for a parameter.
    ///
    /// # Errors
    /// When BigQuery refuses it, does not answer in time, or answers with too many rows.
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[(&str, Parameter)],
    ) -> Result<Vec<Cells>, Fault> {
        let session = self.session().await?;
        let request = request(&session, sql, parameters);
        // Questions are billed to the project that asks, which need not own the table.
        let project = self.google.project().await.unwrap_or(session.project);
        let deadline = Instant::now() + QUERY_LIMIT;
        let mut attempt = 1;
        let mut answer = loop {
            let answer = session.bigquery.job().query(project, request.clone()).await;
            match answer.map_err(Refusal::from) {
                Ok(answer) => break answer,
                Err(refusal) => self.pause(&mut attempt, "cannot query", &refusal).await?,
            }
        };
        let mut rows = Vec::new();
        loop {
            let is_complete = answer.job_complete.unwrap_or_default();
            let page = answer.page_token.take().filter(|_| is_complete);
            rows.extend(
                answer
                    .rows
                    .take()
                    .unwrap_or_default()
                    .into_iter()
                    .map(cells),
            );
            if is_complete && page.is_none() {
                return Ok(rows);
            }
            if rows.len() > MOST_ROWS {
                return Err(Fault::permanent(format!(
                    "BigQuery answers with more than {MOST_ROWS} rows"
                )));
            }
            if Instant::now() > deadline {
                return Err(Fault::transient(
                    "BigQuery did not answer the question in time",
                ));
            }
            if !is_complete {
                tokio::time::sleep(PAUSE).await;
            }
            let job = answer.job_reference.take();
            answer = self.next_page(&session, job, page).await?;
        }
    }

    async fn next_page(
        &self,
        session: &Session<'_>,
        job: Option<JobReference>,
        page: Option<String>,
    ) -> Result<QueryResponse, Fault> {
        let job = job.unwrap_or_default();
        let (Some(project), Some(id)) = (&job.project_id, &job.job_id) else {
            return Err(Fault::transient("BigQuery's answer names no job"));
        };
        let parameters = || GetQueryResultsParameters {
            location: job.location.clone(),
            max_results: Some(PAGE_ROWS),
            page_token: page.clone(),
            timeout_ms: Some(POLL_MS),
            ..GetQueryResultsParameters::default()
        };
        let mut attempt = 1;
        loop {
            let answer = session
                .bigquery
                .job()
                .get_query_results(project, id, parameters())
                .await;
            match answer.map_err(Refusal::from) {
                Ok(answer) => {
                    let job_reference = Some(job);
                    return Ok(QueryResponse {
                        job_reference,
                        ..answer.into()
                    });
                }
                Err(refusal) => self.pause(&mut attempt, "cannot query", &refusal).await?,
            }
        }
    }

    /// Waits before the next attempt at what was refused.
    ///
    /// # Errors
    /// The refusal in words, if no attempt is left or would help.
    async fn pause(&self, attempt: &mut u32, what: &str, refusal: &Refusal) -> Result<(), Fault> {
        let mut fault = self.fault(what, refusal);
        if refusal.is_denied() {
            fault.text += "; who asks needs the roles roles/bigquery.jobUser on the project and roles/bigquery.dataViewer on the dataset";
        }
        // A missing table or a token that was refused will be so again in a moment.
        if fault.permanent || matches!(refusal.status, 401 | 404) || *attempt >= ATTEMPTS {
            return Err(fault);
        }
        tokio::time::sleep(PAUSE * *attempt).await;
        *attempt += 1;
        Ok(())
    }
}

fn request(session: &Session<'_>, sql: &str, parameters: &[(&str, Parameter)]) -> QueryRequest {
    let Session {
        project,
        dataset,
        table,
        ..
    } = session;
    // None of the three can hold a backtick: the configuration lets none in.
    let sql = sql.replace(TABLE, &format!("`{project}.{dataset}.{table}`"));
    let parameters = parameters
        .iter()
        .map(|(name, value)| parameter(name, value));
    QueryRequest {
        parameter_mode: Some("NAMED".to_owned()),
        query_parameters: Some(parameters.collect()),
        max_results: Some(PAGE_ROWS),
        timeout_ms: Some(POLL_MS),
        ..QueryRequest::new(sql)
    }
}

fn parameter(name: &str, value: &Parameter) -> QueryParameter {
    let single = |text: String| QueryParameterValue {
        value: Some(text),
        ..QueryParameterValue::default()
    };
    let kind = |name: &str, of: Option<QueryParameterType>| QueryParameterType {
        r#type: name.to_owned(),
        array_type: of.map(Box::new),
        struct_types: None,
    };
    let (parameter_type, parameter_value) = match value {
        Parameter::Timestamp(at) => {
            let utc = at.to_offset(UtcOffset::UTC);
            let text = utc.format(TIMESTAMP).unwrap_or_default();
            (kind("TIMESTAMP", None), single(text))
        }
        Parameter::Text(text) => (kind("STRING", None), single(text.clone())),
        Parameter::Texts(texts) => {
            let values = texts.iter().cloned().map(single).collect();
            let values = QueryParameterValue {
                array_values: Some(values),
                ..QueryParameterValue::default()
            };
            (kind("ARRAY", Some(kind("STRING", None))), values)
        }
    };
    QueryParameter {
        name: Some(name.to_owned()),
        parameter_type: Some(parameter_type),
        parameter_value: Some(parameter_value),
    }
}

fn cells(row: TableRow) -> Cells {
    let columns = row.columns.unwrap_or_default().into_iter();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    columns.map(|cell| cell.value.and_then(text)).collect()
}
