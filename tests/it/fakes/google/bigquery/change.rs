//! `tables.patch`, `tables.update` and the same of datasets.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::State;
use super::refusal::Refusal;
use super::schema;
use super::serve::Call;
use super::tables::{self, TableName};

/// What no change touches.
const KEPT: [&str; 8] = [
    "kind",
    "id",
    "etag",
    "tableReference",
    "datasetReference",
    "creationTime",
    "type",
    "location",
];

/// Columns are only added; the etag of `If-Match` must be the current one.
pub fn change_table(state: &mut State, name: &TableName, call: &Call) -> Result<Value, Refusal> {
    let number = state.next_number();
    let table = tables::table(state, name)?;
    matches(call, &table.written)?;
    tables::labels(&call.body["labels"])?;
    if call.body["schema"].is_object() {
        let new = schema::fields(&call.body["schema"])?;
        let shown = format!("{}:{}.{}", name.0, name.1, name.2);
        let columns = schema::changed(&table.columns, &new, &shown, "")?;
        for column in &columns[table.columns.len()..] {
            table.added_at.insert(column.name.clone(), Instant::now());
        }
        table.columns = columns;
    }
    merge(&mut table.written, &call.body);
    tables::stamp(&mut table.written, number);
    Ok(table.resource())
}

pub fn change_dataset(
    state: &mut State,
    (project, name): (&str, &str),
    call: &Call,
) -> Result<Value, Refusal> {
    let number = state.next_number();
    let dataset = tables::dataset(state, project, name)?;
    matches(call, dataset)?;
    tables::labels(&call.body["labels"])?;
    merge(dataset, &call.body);
    tables::stamp(dataset, number);
    Ok(dataset.clone())
}

fn matches(call: &Call, resource: &Value) -> Result<(), Refusal> {
    let wanted = call
        .headers
        .get("if-match")
        .and_then(|etag| etag.to_str().ok());
    match wanted {
        Some(etag) if etag != "*" && resource["etag"] != etag => {
            Err(Refusal::new(412, "conditionNotMet", "Precondition Failed"))
        }
        _ => Ok(()),
    }
}

/// A member of the call replaces that of the resource; null takes it away, members of labels too.
fn merge(resource: &mut Value, change: &Value) {
    for (name, value) in change.as_object().into_iter().flatten() {
        if name == "schema" || KEPT.contains(&name.as_str()) {
            continue;
        }
        if name == "labels" && value.is_object() {
            if !resource["labels"].is_object() {
                resource["labels"] = json!({});
            }
            let labels = resource["labels"].as_object_mut().expect("an object");
            for (key, value) in value.as_object().into_iter().flatten() {
                labels.insert(key.clone(), value.clone());
            }
            labels.retain(|_, value| !value.is_null());
            continue;
        }
        resource[name.as_str()] = value.clone();
    }
    if let Some(resource) = resource.as_object_mut() {
        resource.retain(|_, value| !value.is_null());
    }
}
