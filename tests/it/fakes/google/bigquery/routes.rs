//! Which call wants what, and who does it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::Shared;
use super::faults::Operation;
use super::query::{self, Page};
use super::refusal::Refusal;
use super::serve::{Answer, Call};
use super::{change, insert, tables};

/// The verb that asks which rights the caller has.
const RIGHTS: &str = ":testIamPermissions";
const PREFIX: &str = "/bigquery/v2/";

pub fn operation(method: &Method, path: &str) -> Operation {
    let parts = parts(path);
    match (method.as_str(), parts.as_slice()) {
        ("GET", _) if is_discovery(path) => Operation::Discovery,
        (_, ["projects", _, "datasets"] | ["projects", _, "datasets", _]) => Operation::Datasets,
        (
            "GET",
            ["projects", _, "datasets", _, "tables"] | ["projects", _, "datasets", _, "tables", _],
        ) => Operation::TablesGet,
        ("POST", ["projects", _, "datasets", _, "tables"]) => Operation::TablesInsert,
        ("POST", ["projects", _, "datasets", _, "tables", asked]) if asked.ends_with(RIGHTS) => {
            Operation::TablesGet
        }
        (_, ["projects", _, "datasets", _, "tables", _]) => Operation::TablesChange,
        ("POST", ["projects", _, "datasets", _, "tables", _, "insertAll"]) => Operation::InsertAll,
        ("GET", ["projects", _, "datasets", _, "tables", _, "data"]) => Operation::DataList,
        (_, ["projects", _, "queries" | "jobs", ..]) => Operation::Query,
        _ => Operation::Unknown,
    }
}

pub async fn handle(shared: &Arc<Shared>, call: &Call) -> Answer {
    if call.operation == Operation::Discovery {
        let state = shared.state();
        let document = state.orders.discovery.as_deref();
        let document = document.and_then(|text| serde_json::from_str(text).ok());
        return document.ok_or_else(|| Refusal::not_found("no description is served"));
    }
    authenticated(shared, call)?;
    let query = query_of(&call.query);
    let parts = parts(&call.path);
    match (call.method.as_str(), parts.as_slice()) {
        ("POST", ["projects", project, "queries"]) => query::query(shared, project, call).await,
        ("GET", ["projects", project, "queries", id]) => {
            query::results(shared, project, id, &Page::of_query(&query)).await
        }
        ("POST", ["projects", project, "jobs"]) => query::insert(shared, project, call).await,
        ("GET", ["projects", project, "jobs", id]) => query::job(&shared.state(), project, id),
        (_, ["projects", project, "datasets", rest @ ..]) => {
            datasets(shared, call, (project, rest), &query)
        }
        _ => Err(unknown(call)),
    }
}

fn datasets(
    shared: &Shared,
    call: &Call,
    (project, rest): (&str, &[&str]),
    query: &BTreeMap<String, String>,
) -> Answer {
    let mut state = shared.state();
    let state = &mut *state;
    match (call.method.as_str(), rest) {
        ("GET", []) => Ok(tables::list_datasets(state, project)),
        ("POST", []) => tables::insert_dataset(state, project, &call.body),
        ("GET", [dataset]) => tables::dataset(state, project, dataset).cloned(),
        ("PATCH" | "PUT", [dataset]) => change::change_dataset(state, (project, dataset), call),
        ("DELETE", [dataset]) => {
            let contents = query
                .get("deleteContents")
                .is_some_and(|text| text == "true");
            tables::delete_dataset(state, project, dataset, contents)
        }
        ("GET", [dataset, "tables"]) => tables::list_tables(state, project, dataset),
        ("POST", [dataset, "tables"]) => {
            tables::insert_table(state, (project, dataset), &call.body)
        }
        ("POST", [dataset, "tables", asked]) if asked.ends_with(RIGHTS) => {
            let table = asked.trim_end_matches(RIGHTS).to_owned();
            tables::table(state, &(project.to_owned(), (*dataset).to_owned(), table))?;
            let mut rights = call.body["permissions"].clone();
            if let Some(rights) = rights.as_array_mut() {
                rights.retain(|right| !state.orders.withheld.iter().any(|held| right == held));
            }
            Ok(json!({"permissions": rights}))
        }
        (method, [dataset, "tables", table, rest @ ..]) => {
            let name = (
                project.to_owned(),
                (*dataset).to_owned(),
                (*table).to_owned(),
            );
            match (method, rest) {
                ("GET", []) => Ok(tables::table(state, &name)?.resource()),
                ("PATCH" | "PUT", []) => change::change_table(state, &name, call),
                ("DELETE", []) => {
                    tables::table(state, &name)?;
                    state.tables.remove(&name);
                    Ok(Value::Null)
                }
                ("POST", ["insertAll"]) => insert::insert_all(state, &name, call),
                ("GET", ["data"]) => {
                    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
                    let start = number("pageToken").or(number("startIndex")).unwrap_or(0);
                    let limit = number("maxResults").unwrap_or(usize::MAX);
                    let int64 = query
                        .get("formatOptions.useInt64Timestamp")
                        .is_some_and(|text| text == "true");
                    tables::list_rows(state, &name, (start, limit), int64)
                }
                _ => Err(unknown(call)),
            }
        }
        _ => Err(unknown(call)),
    }
}

fn authenticated(shared: &Shared, call: &Call) -> Result<(), Refusal> {
    let Some(token) = shared.state().orders.bearer.clone() else {
        return Ok(());
    };
    let sent = call
        .headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    if sent == Some(&format!("Bearer {token}")) {
        Ok(())
    } else {
        Err(Refusal::unauthenticated())
    }
}

fn is_discovery(path: &str) -> bool {
    path == "/$discovery/rest" || path == "/discovery/v1/apis/bigquery/v2/rest"
}

fn parts(path: &str) -> Vec<&str> {
    let rest = path.strip_prefix(PREFIX);
    rest.map_or_else(Vec::new, |rest| rest.split('/').collect())
}

fn query_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn unknown(call: &Call) -> Refusal {
    Refusal::not_found(json!({"method": call.method.as_str(), "path": call.path}).to_string())
}
