//! Whether rows could be written, for people who ask before they start the gateway.

use reqwest012::{Method, RequestBuilder};
use serde_json::json;

use super::schema::{missing, names, no_dataset};
use super::{Refusal, Session, Table};
use crate::google::Fault;

/// The right to write rows.
const RIGHT: &str = "bigquery.tables.updateData";

impl Table {
    /// Whether rows could be written, as far as that can be said without writing any: what to know
    /// of the table, in words.
    ///
    /// # Errors
    /// Permanent without a dataset or without a right.
    pub async fn probe(&self) -> Result<Vec<String>, Fault> {
        let session = self.session().await?;
        let name = format!("{}.{}.{}", session.project, session.dataset, session.table);
        let seen = match self.describe(&session).await {
            Ok(seen) => seen,
            Err(refusal) if refusal.is_missing() => {
                let dataset = session
                    .bigquery
                    .dataset()
                    .get(session.project, session.dataset)
                    .await;
                return match dataset.map_err(Refusal::from) {
                    Ok(_) => Ok(vec![format!("the table {name} will be made at first use")]),
                    Err(refusal) if refusal.is_missing() => Err(no_dataset(&session)),
                    Err(refusal) => Err(self.fault("cannot look at the dataset of", &refusal)),
                };
            }
            Err(refusal) => return Err(self.fault("cannot look at", &refusal)),
        };
        let mut notes = vec![format!("the table {name} is there")];
        let missing = names(&missing(&self.columns()?, &seen.fields));
        if !missing.is_empty() {
            notes.push(format!("columns will be added: {}", missing.join(", ")));
        }
        notes.extend(self.probe_right(&session).await?);
        Ok(notes)
    }

    /// Asks for the right to write. Not every emulator knows the question.
    async fn probe_right(&self, session: &Session<'_>) -> Result<Option<String>, Fault> {
        let fill = |request: RequestBuilder| {
            request
                .header("content-type", "application/json")
                .body(json!({"permissions": [RIGHT]}).to_string())
        };
        match session.ask(Method::POST, ":testIamPermissions", fill).await {
            Err(_) => Ok(Some("whether rows may be written is not known".to_owned())),
            Ok(granted) if granted["permissions"].to_string().contains(RIGHT) => Ok(None),
            Ok(_) => Err(Fault::permanent(format!(
                "rows may not be written to the table {}.{}: the right {RIGHT} is missing (role roles/bigquery.dataEditor)",
                session.dataset, session.table
            ))),
        }
    }
}
