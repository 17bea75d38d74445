//! The table itself: made if it is missing, given the columns that it lacks, never robbed of one.
//!
//! Streaming inserts learn late of what happens to a table. For some minutes after it was made they
//! may answer 404, and in a table that replaces a deleted one of the same name rows that were
//! accepted may never appear. So a table is called new until it is five minutes old, whoever made it;
//! and for a quarter of an hour after a column was found unknown that is no fault of the rows.
//!
//! Tables are read and changed as plain JSON and not by the crate's types: those would drop what they
//! do not know (defaults, lengths, collations) from columns that somebody else made, and cannot say
//! `If-Match`.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::table::Table as NewTable;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;
use reqwest012::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Refusal, Session, Table};
use crate::google::Fault;

/// Until a table is this old it may swallow rows.
const SETTLE: Duration = Duration::from_mins(5);
/// For so long an unknown column is one that inserts have not heard of yet.
const DOUBT: Duration = Duration::from_mins(15);
/// How often a table is looked at again of which people should know something.
const LOOK_OFTEN: Duration = Duration::from_mins(5);
/// How often a table that has all columns is.
const LOOK_RARELY: Duration = Duration::from_hours(24);
/// Others may change the table at the same time; each time it is read anew.
const MOST_ROUNDS: usize = 5;

/// What is known of the table.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The table is there; to be looked at again then.
    good_until: Option<Instant>,
    /// The table is new until then.
    settled_at: Option<Instant>,
    /// Columns of rows that the table lacks and that may not be added.
    pub absent: Vec<String>,
    /// What people should know.
    note: Option<String>,
    /// Since when inserts say that there is no such column.
    pub doubt_since: Option<Instant>,
}

/// A table that rows may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// For so long the table is new and may swallow rows that it acknowledges.
    pub new_for: Option<Duration>,
    /// What people should know.
    pub note: Option<String>,
}

/// A table as BigQuery describes it.
pub(super) struct Seen {
    etag: Option<String>,
    /// The columns with everything that was said of them.
    pub fields: Vec<Value>,
    age: Duration,
}

impl Table {
    /// Sees to it that there is a table with all columns. Cheap if it was done before; at most one
    /// such look is under way.
    ///
    /// # Errors
    /// Permanent without a dataset or without a right.
    pub async fn prepare(&self) -> Result<Prepared, Fault> {
        let _alone = self.preparing.lock().await;
        let is_good = {
            let now = Instant::now();
            self.known().good_until.is_some_and(|until| now < until)
        };
        if !is_good {
            self.look().await?;
        }
        let known = self.known();
        let new_for = known
            .settled_at
            .map(|at| at.saturating_duration_since(Instant::now()))
            .filter(|new_for| !new_for.is_zero());
        Ok(Prepared {
            new_for,
            note: known.note.clone(),
        })
    }

    /// Makes the next [`Table::prepare`] look at the table.
    pub(super) fn look_again(&self) {
        self.known().good_until = None;
    }

    /// Whether an unknown column may still be one that inserts have not heard of.
    pub(super) fn is_in_doubt(&self) -> bool {
        let now = Instant::now();
        now.duration_since(*self.known().doubt_since.get_or_insert(now)) < DOUBT
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) -> Result<(), Fault> {
        let session = self.session().await?;
        for _ in 0..MOST_ROUNDS {
            let seen = match self.describe(&session).await {
                Ok(seen) => seen,
                Err(refusal) if refusal.is_missing() => match self.create(&session).await {
                    Ok(()) => {
                        self.remember(Duration::ZERO, &[], None);
                        return Ok(());
                    }
                    // Another instance was faster.
                    Err(refusal) if refusal.status == 409 => continue,
                    Err(refusal) if refusal.is_missing() => return Err(no_dataset(&session)),
                    Err(refusal) => return Err(self.fault("cannot create", &refusal)),
                },
                // The right to write rows is another one, and enough.
                Err(refusal) if refusal.is_denied() => {
                    let fault = self.fault("rows go unseen: cannot look at", &refusal);
                    tracing::error!(cause = fault.text, "the table of rows cannot be looked at");
                    self.remember(SETTLE, &[], Some(fault.text));
                    return Ok(());
                }
                Err(refusal) => return Err(self.fault("cannot look at", &refusal)),
            };
            let missing = missing(&self.columns()?, &seen.fields);
            if missing.is_empty() {
                self.remember(seen.age, &missing, None);
                return Ok(());
            }
            let names = names(&missing);
            match self.add(&session, &seen, &missing).await {
                Ok(()) => {
                    tracing::info!(
                        columns = names.join(","),
                        "columns were added to the table of rows"
                    );
                    self.remember(seen.age, &[], None);
                    return Ok(());
                }
                // Changed in between: BigQuery takes no columns away, and neither may we.
                Err(refusal) if matches!(refusal.status, 409 | 412) => {}
                Err(refusal) if refusal.is_permanent() => {
                    let fault =
                        self.fault("rows go without some columns: cannot add them to", &refusal);
                    let columns = names.join(", ");
                    tracing::error!(
                        columns,
                        cause = fault.text,
                        "the table of rows lacks columns"
                    );
                    self.remember(
                        seen.age,
                        &missing,
                        Some(format!("{} [{columns}]", fault.text)),
                    );
                    return Ok(());
                }
                Err(refusal) => return Err(self.fault("cannot add columns to", &refusal)),
            }
        }
        Err(Fault::transient("others keep changing the table of rows"))
    }

    fn remember(&self, age: Duration, absent: &[Value], note: Option<String>) {
        let now = Instant::now();
        let mut known = self.known();
        let look_in = if note.is_none() {
            LOOK_RARELY
        } else {
            LOOK_OFTEN
        };
        known.good_until = Some(now + look_in);
        known.settled_at = Some(now + SETTLE.saturating_sub(age));
        known.absent = names(absent);
        known.note = note;
    }

    pub(super) async fn describe(&self, session: &Session<'_>) -> Result<Seen, Refusal> {
        let mut table = session.ask(Method::GET, "", |request| request).await?;
        let made_ms = table["creationTime"]
            .as_str()
            .and_then(|ms| ms.parse().ok());
        let made = UNIX_EPOCH + Duration::from_millis(made_ms.unwrap_or_default());
        Ok(Seen {
            etag: table["etag"].as_str().map(str::to_owned),
            fields: match table["schema"]["fields"].take() {
                Value::Array(fields) => fields,
                _ => Vec::new(),
            },
            // A clock that is behind must not make rows wait longer.
            age: SystemTime::now().duration_since(made).unwrap_or_default(),
        })
    }

    async fn create(&self, session: &Session<'_>) -> Result<(), Refusal> {
        let unusable = |cause: serde_json::Error| Refusal {
            status: 400,
            reason: String::new(),
            text: format!("the columns cannot be read: {cause}"),
        };
        let fields = serde_json::from_str(self.spec.columns).map_err(unusable)?;
        let table = NewTable {
            description: Some(self.spec.description.to_owned()),
            labels: Some(self.spec.labels.clone()),
            clustering: Some(Clustering {
                fields: Some(
                    self.spec
                        .cluster_by
                        .iter()
                        .map(|&name| name.to_owned())
                        .collect(),
                ),
            }),
            time_partitioning: Some(TimePartitioning::per_day().field(self.spec.partition_by)),
            ..NewTable::new(
                session.project,
                session.dataset,
                session.table,
                TableSchema::new(fields),
            )
        };
        session.bigquery.table().create(table).await?;
        tracing::info!(
            dataset = session.dataset,
            table = session.table,
            "the table of rows was made; as a new one may swallow rows, they are sent once more in five minutes"
        );
        Ok(())
    }

    /// Adds columns behind those that were seen, if nobody changed the table since.
    async fn add(
        &self,
        session: &Session<'_>,
        seen: &Seen,
        missing: &[Value],
    ) -> Result<(), Refusal> {
        let mut fields = seen.fields.clone();
        fields.extend(missing.iter().cloned().map(relax));
        let body = json!({"schema": {"fields": fields}}).to_string();
        let fill = |request: RequestBuilder| {
            let request = match &seen.etag {
                Some(etag) => request.header("if-match", etag),
                None => request,
            };
            request
                .header("content-type", "application/json")
                .body(body)
        };
        session.ask(Method::PATCH, "", fill).await.map(drop)
    }

    pub(super) fn columns(&self) -> Result<Vec<Value>, Fault> {
        serde_json::from_str(self.spec.columns)
            .map_err(|cause| Fault::permanent(format!("the columns cannot be read: {cause}")))
    }
}

pub(super) fn no_dataset(session: &Session<'_>) -> Fault {
    let (project, dataset) = (session.project, session.dataset);
    Fault::permanent(format!(
        "there is no dataset {dataset} in the project {project}; make it with: bq --location=LOCATION mk --dataset {project}:{dataset}"
    ))
}

/// Columns that are not in the table; BigQuery does not tell upper from lower case in names.
pub(super) fn missing(wanted: &[Value], seen: &[Value]) -> Vec<Value> {
    let has = |name: &str| {
        seen.iter()
            .any(|field| name_of(field).eq_ignore_ascii_case(name))
    };
    wanted
        .iter()
        .filter(|field| !has(name_of(field)))
        .cloned()
        .collect()
}

fn name_of(field: &Value) -> &str {
    field["name"].as_str().unwrap_or_default()
}

pub(super) fn names(fields: &[Value]) -> Vec<String> {
    fields
        .iter()
        .map(|field| name_of(field).to_owned())
        .collect()
}

/// A column that is added later cannot be required: there are rows without it.
fn relax(mut field: Value) -> Value {
    if field["mode"] == "REQUIRED" {
        field["mode"] = "NULLABLE".into();
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(super) fn columns_are_only_ever_added() {
        let wanted = vec![
            json!({"name": "a", "type": "STRING", "mode": "REQUIRED"}),
            json!({"name": "b", "type": "RECORD", "mode": "REPEATED"}),
        ];
        let seen = [json!({"name": "B"}), json!({"name": "of_another_release"})];
        let missing = missing(&wanted, &seen);
        assert_eq!(names(&missing), ["a"]);
        assert_eq!(relax(missing[0].clone())["mode"], "NULLABLE");
        assert_eq!(relax(wanted[1].clone())["mode"], "REPEATED");
    }
}
