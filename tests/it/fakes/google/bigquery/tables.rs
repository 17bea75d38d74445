//! Datasets and tables: made, read, listed, deleted.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::schema::{self, Field, Mode};
use super::{State, cell, ms_ago, now_ms, within};

/// When a settled table was made.
const LONG_AGO_MS: &str = "1700000000000";

/// Project, dataset and table.
pub type TableName = (String, String, String);

/// A table, or a view.
pub struct Table {
    /// As it was last written, without schema and counts.
    pub written: Value,
    pub columns: Vec<Field>,
    pub rows: Vec<Value>,
    /// How many rows came by streaming: no DML may touch them yet.
    pub streamed: usize,
    pub insert_ids: HashMap<String, Instant>,
    pub made_at: Instant,
    /// Columns that were added later.
    pub added_at: BTreeMap<String, Instant>,
    /// Lags hold no longer.
    pub settled: bool,
}

impl Table {
    /// As `tables.get` answers it.
    pub fn resource(&self) -> Value {
        let mut resource = self.written.clone();
        if !self.columns.is_empty() {
            let fields: Vec<Value> = self.columns.iter().map(Field::to_json).collect();
            resource["schema"] = json!({"fields": fields});
        }
        resource["numRows"] = json!((self.rows.len() - self.streamed).to_string());
        resource["numBytes"] = json!("0");
        if self.streamed > 0 {
            resource["streamingBuffer"] = json!({
                "estimatedRows": self.streamed.to_string(),
                "estimatedBytes": (self.streamed * 100).to_string(),
                "oldestEntryTime": self.written["creationTime"],
            });
        }
        resource
    }

    pub fn is_view(&self) -> bool {
        self.written["view"].is_object()
    }

    /// As if it had been made long ago.
    pub fn settle(&mut self) {
        self.settled = true;
        self.written["creationTime"] = json!(LONG_AGO_MS);
    }

    /// As if it had been made so long ago, for who looks at it.
    pub fn age(&mut self, age: Duration) {
        self.written["creationTime"] = json!(ms_ago(age));
        self.settled = false;
    }

    /// The columns that inserts know by now.
    pub fn known_columns(&self, lag: Duration) -> Vec<Field> {
        let known = |field: &&Field| {
            let added = self.added_at.get(&field.name);
            !added.is_some_and(|since| within(*since, lag))
        };
        self.columns.iter().filter(known).cloned().collect()
    }

    fn reference(&self) -> (&str, &str) {
        let reference = &self.written["tableReference"];
        let part = |name: &str| reference[name].as_str().unwrap_or_default();
        (part("datasetId"), part("tableId"))
    }
}

pub fn insert_dataset(state: &mut State, project: &str, body: &Value) -> Result<Value, Refusal> {
    let name = named(&body["datasetReference"]["datasetId"], "_", "dataset")?;
    labels(&body["labels"])?;
    let key = (project.to_owned(), name.clone());
    if state.datasets.contains_key(&key) {
        return Err(Refusal::duplicate(format!(
            "Already Exists: Dataset {project}:{name}"
        )));
    }
    let mut resource = body.clone();
    resource["kind"] = json!("bigquery#dataset");
    resource["id"] = json!(format!("{project}:{name}"));
    resource["datasetReference"]["projectId"] = json!(project);
    stamp(&mut resource, state.next_number());
    if resource["location"].is_null() {
        resource["location"] = json!("US");
    }
    state.datasets.insert(key, resource.clone());
    Ok(resource)
}

pub fn dataset<'a>(
    state: &'a mut State,
    project: &str,
    name: &str,
) -> Result<&'a mut Value, Refusal> {
    let found = state
        .datasets
        .get_mut(&(project.to_owned(), name.to_owned()));
    found.ok_or_else(|| Refusal::not_found(format!("Not found: Dataset {project}:{name}")))
}

pub fn list_datasets(state: &State, project: &str) -> Value {
    let datasets = state.datasets.iter().filter(|((of, _), _)| of == project);
    let datasets: Vec<Value> = datasets
        .map(|(_, dataset)| {
            json!({
                "kind": dataset["kind"],
                "id": dataset["id"],
                "datasetReference": dataset["datasetReference"],
                "location": dataset["location"],
            })
        })
        .collect();
    json!({"kind": "bigquery#datasetList", "datasets": datasets})
}

pub fn delete_dataset(
    state: &mut State,
    project: &str,
    name: &str,
    contents: bool,
) -> Result<Value, Refusal> {
    dataset(state, project, name)?;
    let inside = |key: &TableName| key.0 == project && key.1 == name;
    if !contents && state.tables.keys().any(inside) {
        let message = format!("Dataset {project}:{name} is still in use");
        return Err(Refusal::new(400, "resourceInUse", message));
    }
    state.tables.retain(|key, _| !inside(key));
    state
        .datasets
        .remove(&(project.to_owned(), name.to_owned()));
    Ok(Value::Null)
}

pub fn insert_table(state: &mut State, of: (&str, &str), body: &Value) -> Result<Value, Refusal> {
    let (project, dataset_name) = of;
    let location = dataset(state, project, dataset_name)?["location"].clone();
    let name = named(&body["tableReference"]["tableId"], "_-", "table")?;
    let key = (project.to_owned(), dataset_name.to_owned(), name.clone());
    if state.tables.contains_key(&key) {
        let message = format!("Already Exists: Table {project}:{dataset_name}.{name}");
        return Err(Refusal::duplicate(message));
    }
    let columns = schema::fields(&body["schema"])?;
    labels(&body["labels"])?;
    partitioning(&body["timePartitioning"], &columns)?;
    clustering(&body["clustering"], &columns)?;
    let mut written = body.clone();
    if let Some(written) = written.as_object_mut() {
        written.remove("schema");
    }
    written["kind"] = json!("bigquery#table");
    written["id"] = json!(format!("{project}:{dataset_name}.{name}"));
    written["tableReference"] =
        json!({"projectId": project, "datasetId": dataset_name, "tableId": name});
    written["type"] = json!(if body["view"].is_object() {
        "VIEW"
    } else {
        "TABLE"
    });
    written["location"] = location;
    stamp(&mut written, state.next_number());
    let table = Table {
        written,
        columns,
        rows: Vec::new(),
        streamed: 0,
        insert_ids: HashMap::new(),
        made_at: Instant::now(),
        added_at: BTreeMap::new(),
        settled: false,
    };
    let resource = table.resource();
    state.tables.insert(key, table);
    Ok(resource)
}

pub fn table<'a>(state: &'a mut State, name: &TableName) -> Result<&'a mut Table, Refusal> {
    dataset(state, &name.0, &name.1)?;
    let found = state.tables.get_mut(name);
    found.ok_or_else(|| {
        Refusal::not_found(format!("Not found: Table {}:{}.{}", name.0, name.1, name.2))
    })
}

pub fn list_tables(state: &mut State, project: &str, dataset_name: &str) -> Result<Value, Refusal> {
    dataset(state, project, dataset_name)?;
    let inside = state
        .tables
        .iter()
        .filter(|(key, _)| key.0 == project && key.1 == dataset_name);
    let tables: Vec<Value> = inside
        .map(|(_, table)| {
            let mut short = table.written.clone();
            if let Some(short) = short.as_object_mut() {
                short.retain(|name, _| {
                    [
                        "kind",
                        "id",
                        "tableReference",
                        "type",
                        "timePartitioning",
                        "clustering",
                        "labels",
                        "creationTime",
                    ]
                    .contains(&name.as_str())
                });
            }
            short
        })
        .collect();
    let total = tables.len();
    Ok(json!({"kind": "bigquery#tableList", "tables": tables, "totalItems": total}))
}

/// `tabledata.list`: a page of rows.
pub fn list_rows(
    state: &mut State,
    name: &TableName,
    (start, limit): (usize, usize),
    int64: bool,
) -> Result<Value, Refusal> {
    let page_rows = state.orders.page_rows;
    let table = table(state, name)?;
    let end = table
        .rows
        .len()
        .min(start.saturating_add(limit.min(page_rows)));
    let rows = table.rows.get(start..end).unwrap_or_default();
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| cell::answered_row(row, &table.columns, int64))
        .collect();
    let mut answer = json!({
        "kind": "bigquery#tableDataList",
        "totalRows": table.rows.len().to_string(),
        "rows": rows,
    });
    if end < table.rows.len() {
        answer["pageToken"] = json!(end.to_string());
    }
    Ok(answer)
}

/// The tables and views that queries see, as the engine takes them.
pub fn for_queries(state: &State) -> (Value, Value) {
    let (mut tables, mut views) = (json!({}), json!({}));
    for table in state.tables.values() {
        let (dataset, name) = table.reference();
        let name = format!("{dataset}.{name}");
        if table.is_view() {
            views[name] = table.written["view"]["query"].clone();
        } else {
            let fields: Vec<Value> = table.columns.iter().map(Field::to_json).collect();
            tables[name] = json!({"schema": fields, "rows": table.rows});
        }
    }
    (tables, views)
}

/// A new version of a resource.
pub fn stamp(resource: &mut Value, number: u64) {
    resource["etag"] = json!(format!("\"etag-{number}\""));
    let now = now_ms();
    if resource["creationTime"].is_null() {
        resource["creationTime"] = json!(now);
    }
    resource["lastModifiedTime"] = json!(now);
}

fn named(name: &Value, marks: &str, of: &str) -> Result<String, Refusal> {
    let name = name.as_str().unwrap_or_default();
    let fits = !name.is_empty()
        && name.len() <= 1024
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || marks.contains(c));
    if fits {
        return Ok(name.to_owned());
    }
    Err(Refusal::invalid(format!("Invalid {of} ID \"{name}\".")))
}

/// Keys and values of labels: lowercase letters, digits, `_` and `-`, at most 63 of them.
pub fn labels(labels: &Value) -> Result<(), Refusal> {
    let fits = |text: &str| {
        text.len() <= 63
            && text
                .chars()
                .all(|c| c.is_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
    };
    let labels = labels.as_object();
    for (key, value) in labels.into_iter().flatten() {
        let starts = key.starts_with(char::is_lowercase);
        if !starts || !fits(key) || !value.as_str().is_some_and(fits) {
            let message = format!("Label \"{key}\": {value} has invalid characters.");
            return Err(Refusal::invalid(message));
        }
    }
    Ok(())
}

fn partitioning(partitioning: &Value, columns: &[Field]) -> Result<(), Refusal> {
    if partitioning.is_null() {
        return Ok(());
    }
    if !matches!(
        partitioning["type"].as_str(),
        Some("DAY" | "HOUR" | "MONTH" | "YEAR")
    ) {
        return Err(Refusal::invalid("Invalid time partitioning type."));
    }
    let Some(name) = partitioning["field"].as_str() else {
        return Ok(());
    };
    let fits = |field: &Field| {
        field.name == name
            && field.mode != Mode::Repeated
            && ["TIMESTAMP", "DATE", "DATETIME"].contains(&field.kind.as_str())
    };
    if columns.iter().any(fits) {
        return Ok(());
    }
    let message = format!(
        "The field specified for partitioning can only be of type TIMESTAMP, DATE or DATETIME: {name}"
    );
    Err(Refusal::invalid(message))
}

fn clustering(clustering: &Value, columns: &[Field]) -> Result<(), Refusal> {
    let names = clustering["fields"].as_array().cloned().unwrap_or_default();
    let fits = |name: &Value| {
        let column = columns.iter().find(|column| *name == column.name);
        column.is_some_and(|column| {
            column.mode != Mode::Repeated
                && !["RECORD", "FLOAT", "JSON"].contains(&column.kind.as_str())
        })
    };
    if names.len() <= 4 && names.iter().all(fits) {
        return Ok(());
    }
    Err(Refusal::invalid(
        "The clustering fields are not columns that can be clustered by.",
    ))
}
