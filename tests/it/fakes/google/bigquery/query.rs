//! Queries: `jobs.query`, and jobs that are asked for their results later.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::serve::Call;
use super::{Shared, State, cell, now_ms, tables};

/// How long a call waits for a result unless it says otherwise.
const WAIT: Duration = Duration::from_secs(10);

/// A query that was run; its answer is given out from `done_at` on.
pub struct Job {
    project: String,
    id: String,
    configuration: Value,
    done_at: Instant,
    result: Result<Outcome, Refusal>,
}

#[derive(Clone)]
struct Outcome {
    fields: Vec<Value>,
    /// Cells as the API has them, timestamps in microseconds.
    rows: Vec<Vec<Value>>,
    changed_rows: Option<u64>,
}

/// `jobs.query`
pub async fn query(shared: &Arc<Shared>, project: &str, call: &Call) -> Result<Value, Refusal> {
    let configuration = json!({"query": call.body, "jobType": "QUERY"});
    let id = start(shared, project, configuration, None).await?;
    results(shared, project, &id, &Page::of_body(&call.body)).await
}

/// `jobs.insert`
pub async fn insert(shared: &Arc<Shared>, project: &str, call: &Call) -> Result<Value, Refusal> {
    let configuration = call.body["configuration"].clone();
    if !configuration["query"].is_object() {
        return Err(Refusal::invalid("Only query jobs are served here."));
    }
    let id = call.body["jobReference"]["jobId"].as_str();
    let id = start(shared, project, configuration, id).await?;
    job(&shared.state(), project, &id)
}

/// `jobs.get`
pub fn job(state: &State, project: &str, id: &str) -> Result<Value, Refusal> {
    let job = find(state, project, id)?;
    let done = job.done_at <= Instant::now();
    let mut status = json!({"state": if done { "DONE" } else { "RUNNING" }});
    if let (true, Err(refusal)) = (done, &job.result) {
        let error =
            json!({"reason": refusal.reason, "message": refusal.message, "location": "query"});
        status["errorResult"] = error.clone();
        status["errors"] = json!([error]);
    }
    Ok(json!({
        "kind": "bigquery#job",
        "id": format!("{project}:US.{id}"),
        "etag": "\"job\"",
        "jobReference": reference(job),
        "configuration": job.configuration,
        "status": status,
        "statistics": {
            "creationTime": now_ms(), "startTime": now_ms(), "endTime": now_ms(),
            "query": {"statementType": "SELECT", "totalBytesProcessed": "0", "cacheHit": false},
        },
        "user_email": "someone@example.com",
    }))
}

/// What a call asks of a result.
pub struct Page {
    start: usize,
    limit: usize,
    wait: Duration,
    int64_timestamps: bool,
}

impl Page {
    fn of_body(body: &Value) -> Self {
        let number = |name: &str| body[name].as_u64();
        Self {
            start: 0,
            limit: number("maxResults").map_or(usize::MAX, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            }),
            wait: number("timeoutMs").map_or(WAIT, Duration::from_millis),
            int64_timestamps: body["formatOptions"]["useInt64Timestamp"] == true,
        }
    }

    pub fn of_query(query: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
        Self {
            start: number("pageToken").or(number("startIndex")).unwrap_or(0),
            limit: number("maxResults").unwrap_or(usize::MAX),
            wait: number("timeoutMs").map_or(WAIT, |ms| Duration::from_millis(ms as u64)),
            int64_timestamps: query
                .get("formatOptions.useInt64Timestamp")
                .is_some_and(|text| text == "true"),
        }
    }
}

/// `jobs.getQueryResults`, and the answer of `jobs.query`.
pub async fn results(
    shared: &Arc<Shared>,
    project: &str,
    id: &str,
    page: &Page,
) -> Result<Value, Refusal> {
    let (done_at, wait) = {
        let state = shared.state();
        // A call may wait for less than it was allowed to.
        let wait = page.wait.min(state.orders.query_runs / 2);
        (find(&state, project, id)?.done_at, wait)
    };
    tokio::time::sleep_until(done_at.min(Instant::now() + wait)).await;
    let state = shared.state();
    let job = find(&state, project, id)?;
    let mut answer = json!({
        "kind": "bigquery#queryResponse",
        "etag": "\"results\"",
        "jobReference": reference(job),
        "jobComplete": false,
    });
    if Instant::now() < done_at {
        return Ok(answer);
    }
    let outcome = job.result.as_ref().map_err(Clone::clone)?;
    let end = outcome.rows.len().min(
        page.start
            .saturating_add(page.limit.min(state.orders.page_rows)),
    );
    let rows = outcome.rows.get(page.start..end).unwrap_or_default();
    answer["jobComplete"] = json!(true);
    answer["schema"] = json!({"fields": outcome.fields});
    answer["totalRows"] = json!(outcome.rows.len().to_string());
    answer["totalBytesProcessed"] = json!("0");
    answer["cacheHit"] = json!(false);
    if !rows.is_empty() {
        answer["rows"] = rows
            .iter()
            .map(|row| outcome.answered(row, page.int64_timestamps))
            .collect();
    }
    if end < outcome.rows.len() {
        answer["pageToken"] = json!(end.to_string());
    }
    if let Some(count) = outcome.changed_rows {
        answer["numDmlAffectedRows"] = json!(count.to_string());
    }
    Ok(answer)
}

impl Outcome {
    fn answered(&self, row: &[Value], int64: bool) -> Value {
        let cells = self.fields.iter().zip(row).map(|(field, value)| {
            let micros = value.as_str().and_then(|text| text.parse().ok());
            match (field["type"].as_str(), micros) {
                (Some("TIMESTAMP"), Some(micros)) => json!({"v": cell::timestamp(micros, int64)}),
                _ => json!({"v": value}),
            }
        });
        json!({"f": cells.collect::<Vec<_>>()})
    }
}

/// Runs the query and keeps its job.
async fn start(
    shared: &Arc<Shared>,
    project: &str,
    configuration: Value,
    id: Option<&str>,
) -> Result<String, Refusal> {
    let query = &configuration["query"];
    // The API's default is the old dialect.
    if query["useLegacySql"] != false {
        return Err(Refusal::new(
            400,
            "invalidQuery",
            "Legacy SQL is not served here.",
        ));
    }
    let (request, runs) = {
        let state = shared.state();
        let (tables, views) = tables::for_queries(&state);
        let request = json!({
            "query": query["query"],
            "parameters": parameters(&query["queryParameters"])?,
            "default_dataset": query["defaultDataset"]["datasetId"],
            "tables": tables,
            "views": views,
        });
        (request, state.orders.query_runs)
    };
    let dry = query["dryRun"] == true || configuration["dryRun"] == true;
    let asked = Arc::clone(shared);
    let answer = tokio::task::spawn_blocking(move || {
        let mut engine = asked.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.run(&request)
    });
    let answer = answer.await.expect("the engine answers");
    let mut state = shared.state();
    let result = outcome(&mut state, project, &answer, dry);
    let id = id.map_or_else(|| format!("job_{}", state.next_number()), str::to_owned);
    let job = Job {
        project: project.to_owned(),
        id: id.clone(),
        configuration,
        done_at: Instant::now() + runs,
        result,
    };
    if state.jobs.insert(id.clone(), job).is_some() {
        return Err(Refusal::duplicate(format!(
            "Already Exists: Job {project}:US.{id}"
        )));
    }
    Ok(id)
}

/// Named parameters as the engine takes them.
fn parameters(parameters: &Value) -> Result<Value, Refusal> {
    let mut named = json!({});
    for parameter in parameters.as_array().into_iter().flatten() {
        let Some(name) = parameter["name"].as_str() else {
            return Err(Refusal::invalid("Only named parameters are served here."));
        };
        let kind = &parameter["parameterType"];
        let value = &parameter["parameterValue"];
        named[name] = if kind["type"] == "ARRAY" {
            let values = value["arrayValues"].as_array().into_iter().flatten();
            let values: Vec<&Value> = values.map(|value| &value["value"]).collect();
            json!({"type": "ARRAY", "array_type": kind["arrayType"]["type"], "values": values})
        } else {
            json!({"type": kind["type"], "value": value["value"]})
        };
    }
    Ok(named)
}

/// The engine's answer; changes of tables and views are kept.
fn outcome(
    state: &mut State,
    project: &str,
    answer: &Value,
    dry: bool,
) -> Result<Outcome, Refusal> {
    if let Some(error) = answer["error"].as_str() {
        return Err(refused(project, error));
    }
    let mut outcome = Outcome {
        fields: answer["schema"]["fields"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        rows: serde_json::from_value(answer["rows"].clone()).unwrap_or_default(),
        changed_rows: None,
    };
    if dry {
        outcome.rows.clear();
        return Ok(outcome);
    }
    let count = |name: &str| answer["dml"][name].as_u64().unwrap_or(0);
    for (name, rows) in answer["tables"].as_object().into_iter().flatten() {
        let (dataset, table) = name.split_once('.').unwrap_or_default();
        let key = (project.to_owned(), dataset.to_owned(), table.to_owned());
        let table = tables::table(state, &key)?;
        if table.streamed > 0 && count("updated") + count("deleted") > 0 {
            let message = format!(
                "UPDATE or DELETE statement over table {project}.{name} would affect rows in the streaming buffer, which is not supported"
            );
            return Err(Refusal::new(400, "invalidQuery", message));
        }
        table.rows = rows.as_array().cloned().unwrap_or_default();
        outcome.changed_rows = Some(count("inserted") + count("updated") + count("deleted"));
    }
    for (name, text) in answer["views"].as_object().into_iter().flatten() {
        let (dataset, view) = name.split_once('.').unwrap_or_default();
        let key = (project.to_owned(), dataset.to_owned(), view.to_owned());
        state.tables.remove(&key);
        let body = json!({
            "tableReference": {"projectId": project, "datasetId": dataset, "tableId": view},
            "view": {"query": text, "useLegacySql": false},
        });
        tables::insert_table(state, (project, dataset), &body)?;
    }
    Ok(outcome)
}

fn refused(project: &str, error: &str) -> Refusal {
    match error.split_once("Not found: Table ") {
        Some((_, name)) => {
            let message = format!("Not found: Table {project}:{name} was not found in location US");
            Refusal::not_found(message)
        }
        None => Refusal::new(400, "invalidQuery", error),
    }
}

fn find<'a>(state: &'a State, project: &str, id: &str) -> Result<&'a Job, Refusal> {
    let job = state.jobs.get(id).filter(|job| job.project == project);
    job.ok_or_else(|| Refusal::not_found(format!("Not found: Job {project}:{id}")))
}

fn reference(job: &Job) -> Value {
    json!({"projectId": job.project, "jobId": job.id, "location": "US"})
}
