//! Answers by recording: the request as it arrives is looked up among the recorded requests, in the
//! form (plain, with usage, with running usage) in which it asks for its stream. A gateway changes
//! requests, so what it may add is left out of the comparison.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::journal::Call;
use super::plan::{Body, Event, Plan};
use super::recording::{self, Recording};
use super::sse;

/// Headers of an answer that belong to its connection, not to its content.
const OF_CONNECTION: [&str; 5] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "date",
    "keep-alive",
];

/// Recordings, and where to find them.
pub struct Replay {
    recordings: Vec<Recording>,
    by_request: HashMap<String, usize>,
}

impl Replay {
    /// Every recording under a folder.
    pub fn load(folder: &Path) -> Self {
        let recordings = recording::load_all(folder);
        let mut by_request = HashMap::new();
        // Streams recorded in all their forms come first: their forms agree with one another.
        let mut order: Vec<usize> = (0..recordings.len()).collect();
        order.sort_by_key(|at| !recordings[*at].name.starts_with("streams/"));
        for at in order.into_iter().filter(|at| is_usual(&recordings[*at])) {
            let found = &recordings[at];
            let key = key(found.method.as_str(), &found.path, &found.request_body);
            by_request.entry(key).or_insert(at);
        }
        Self {
            recordings,
            by_request,
        }
    }

    /// The recorded answer to this very request.
    pub fn find(&self, call: &Call) -> Option<Plan> {
        let path = match &call.query {
            Some(query) => format!("{}?{query}", call.path),
            None => call.path.clone(),
        };
        let at = self
            .by_request
            .get(&key(call.method.as_str(), &path, &call.body))?;
        Some(plan(&self.recordings[*at]))
    }

    /// The recorded answer of this name.
    pub fn named(&self, name: &str) -> Option<Plan> {
        self.recordings
            .iter()
            .find(|found| found.name == name)
            .map(plan)
    }
}

/// Recordings that need special headers, or a server in a special state, are found by name alone.
fn is_usual(recording: &Recording) -> bool {
    let name = recording.name.as_str();
    !name.starts_with("queue-full-")
        && !name.starts_with("keyed/key-")
        && !matches!(name, "error-no-content-type" | "error-text-content-type")
}

/// What two requests must share to be the same: JSON with sorted keys, and the form of the stream.
fn key(method: &str, path: &str, body: &[u8]) -> String {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(body) else {
        return format!("{method} {path} {}", String::from_utf8_lossy(body));
    };
    let options = body.remove("stream_options").unwrap_or(Value::Null);
    let streams = body.get("stream") == Some(&Value::Bool(true));
    let wants = |key: &str| options[key] == Value::Bool(true);
    let form = match (wants("include_usage"), wants("continuous_usage_stats")) {
        (true, true) => "running",
        (true, false) => "usage",
        // Without a stream the options are a mistake, and part of what is asked.
        _ if !streams && !options.is_null() => "mistaken",
        _ => "plain",
    };
    // A gateway switches the store of responses off.
    body.remove("store");
    format!("{method} {path} {form} {}", sorted(&Value::Object(body)))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            let pairs = keys
                .into_iter()
                .map(|key| (key.clone(), sorted(&object[key])));
            Value::Object(pairs.collect::<Map<String, Value>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn plan(recording: &Recording) -> Plan {
    let mut plan = Plan::bytes(recording.status.as_u16(), "", recording.body.clone());
    plan.recording = Some(recording.name.clone());
    plan.headers = recording
        .headers
        .iter()
        .filter(|(name, _)| !OF_CONNECTION.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    if recording.is_stream() {
        let mut count = Count::default();
        let events = recording
            .events()
            .into_iter()
            .map(|bytes| count.event(bytes))
            .collect();
        plan.prompt_tokens = count.prompt;
        plan.body = Body::Stream(events);
    } else if let Some(usage) = recording.json().as_ref().and_then(|body| body.get("usage")) {
        let (prompt, made) = counts(usage);
        plan.prompt_tokens = prompt;
        plan.body = Body::Plain {
            bytes: recording.body.clone(),
            tokens: made,
        };
    }
    plan
}

/// Tokens as the events of a recorded stream tell them: each choice has a count of its own, the last
/// word is the sum.
#[derive(Default)]
struct Count {
    prompt: u64,
    by_choice: HashMap<u64, u64>,
    total: u64,
}

impl Count {
    fn event(&mut self, bytes: Bytes) -> Event {
        let data = sse::data(&bytes).and_then(|data| serde_json::from_str(&data).ok());
        let data: Value = data.unwrap_or(Value::Null);
        let nested = [
            &data["usage"],
            &data["response"]["usage"],
            &data["message"]["usage"],
        ];
        if let Some(usage) = nested.into_iter().find(|usage| usage.is_object()) {
            let (prompt, made) = counts(usage);
            let choice = data["choices"]
                .get(0)
                .and_then(|choice| choice["index"].as_u64());
            if let Some(choice) = choice {
                self.by_choice.insert(choice, made);
                self.total = self.by_choice.values().sum();
            } else {
                self.total = made;
            }
            self.prompt = self.prompt.max(prompt);
        }
        Event {
            bytes,
            generated: self.total,
        }
    }
}

fn counts(usage: &Value) -> (u64, u64) {
    let first = |keys: [&str; 2]| {
        keys.iter()
            .find_map(|key| usage[*key].as_u64())
            .unwrap_or(0)
    };
    let cached = usage["cache_read_input_tokens"].as_u64().unwrap_or(0);
    (
        first(["prompt_tokens", "input_tokens"]) + cached,
        first(["completion_tokens", "output_tokens"]),
    )
}
