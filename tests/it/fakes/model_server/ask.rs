//! A request's JSON body, checked as vLLM checks it: what all APIs have in common. It knows no
//! answers.

use http::HeaderMap;
use serde_json::{Map, Value};

use super::engine::Task;
use super::refusal::{Dialect, Refusal};
use super::tokens;

/// What the checks need to know of the server.
#[derive(Clone, Debug)]
pub struct Limits {
    pub dialect: Dialect,
    pub model: String,
    pub context: u64,
    /// Prompt and output together over the context are refused, as older servers do; else the
    /// output is lowered in silence.
    pub refuses_overflow: bool,
}

/// Fields that need not be there, and what they are where they are.
const OPTIONAL: [(&str, &str); 8] = [
    ("model", "string"),
    ("stream", "boolean"),
    ("n", "integer"),
    ("max_tokens", "integer"),
    ("max_completion_tokens", "integer"),
    ("max_output_tokens", "integer"),
    ("tools", "list"),
    ("temperature", "number"),
];

/// A JSON object.
pub type Object = Map<String, Value>;

/// The text in which a prompt may carry directives: what the user said last.
pub fn last_words(body: &Value) -> String {
    let list = body["messages"]
        .as_array()
        .or_else(|| body["input"].as_array());
    if let Some(list) = list {
        let said =
            |item: &&Value| item["role"] == "user" && item["content"][0]["type"] != "tool_result";
        let found = list.iter().rfind(said);
        return found
            .map(|item| tokens::flat(&item["content"]))
            .unwrap_or_default();
    }
    let text = ["prompt", "input", "query", "text_1"].map(|key| tokens::flat(&body[key]));
    text.concat()
}

/// The body as a JSON object.
pub fn object(headers: &HeaderMap, body: &[u8]) -> Result<Object, Refusal> {
    let kind = headers.get(http::header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json")) {
        return Err(Refusal::ContentType);
    }
    if body.is_empty() {
        return Err(Refusal::Missing {
            field: "",
            fields: 0,
        });
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::NotAnObject),
        Err(error) => Err(Refusal::Malformed { at: error.column() }),
    }
}

impl Limits {
    /// Types of the fields that every route reads, and the model.
    pub fn check(
        &self,
        body: &Object,
        needs: &[(&'static str, &'static str)],
    ) -> Result<(), Refusal> {
        for (field, wanted) in needs {
            match body.get(*field) {
                None => {
                    return Err(Refusal::Missing {
                        field,
                        fields: body.len(),
                    });
                }
                Some(value) => typed(field, wanted, value)?,
            }
        }
        for (field, wanted) in OPTIONAL {
            match body.get(field) {
                None | Some(Value::Null) => {}
                Some(value) => typed(field, wanted, value)?,
            }
        }
        if self.dialect == Dialect::Foreign {
            known_fields(body)?;
        }
        self.model(
            body.get("model")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    }

    /// The model by its name; none is the only one there is.
    pub fn model(&self, asked: &str) -> Result<(), Refusal> {
        if asked.is_empty() || asked == self.model {
            return Ok(());
        }
        let served = self.model.clone();
        Err(Refusal::UnknownModel {
            model: asked.to_owned(),
            served,
        })
    }

    /// A task with what all APIs share.
    pub fn task(&self, body: &Object, prompts: Vec<String>) -> Result<Task, Refusal> {
        let invalid = |message: String, param| Err(Refusal::Invalid { message, param });
        let streams = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        if !streams && body.get("stream_options").is_some_and(Value::is_object) {
            let message = "Stream options can only be defined when `stream=True`. \
                           (parameter=stream_options)";
            return invalid(message.into(), Some("stream_options"));
        }
        let choices = body.get("n").and_then(Value::as_i64).unwrap_or(1);
        if choices < 1 {
            return invalid(format!("n must be at least 1, got {choices}."), None);
        }
        if choices > 1 && self.dialect == Dialect::Rust {
            return invalid("Only n=1 is supported.".into(), Some("n"));
        }
        let greedy = body.get("temperature").and_then(Value::as_f64) == Some(0.0);
        if choices > 1 && greedy {
            let text = format!("n must be 1 when using greedy sampling, got {choices}.");
            return invalid(text, None);
        }
        let stop = match body.get("stop").or_else(|| body.get("stop_sequences")) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(texts)) => texts.iter().map(tokens::flat).collect(),
            _ => Vec::new(),
        };
        let choices = choices.unsigned_abs();
        Ok(Task {
            prompts,
            choices,
            max_tokens: 0,
            stop,
            tools: Vec::new(),
            forced_tool: None,
            messages: Vec::new(),
        })
    }

    /// Most tokens of the output, for the longest of the prompts.
    pub fn room(
        &self,
        body: &Object,
        field: &'static str,
        prompts: &[String],
        usual: Option<u64>,
    ) -> Result<u64, Refusal> {
        let context = self.context;
        let asked = body.get(field).and_then(Value::as_i64);
        let echoes = body.get("echo").and_then(Value::as_bool).unwrap_or(false);
        let least = i64::from(!echoes);
        if let Some(value) = asked.filter(|value| *value < least) {
            return Err(Refusal::MaxTokens {
                field,
                value,
                context,
            });
        }
        let over = asked.filter(|value| value.unsigned_abs() > context);
        if let (Some(value), Dialect::Python, false) = (over, self.dialect, self.refuses_overflow) {
            return Err(Refusal::MaxTokens {
                field,
                value,
                context,
            });
        }
        let prompt = prompts
            .iter()
            .map(|prompt| tokens::count(prompt))
            .max()
            .unwrap_or(0);
        if prompt >= context {
            return Err(Refusal::Context {
                context,
                tokens: prompt,
            });
        }
        let asked = asked.map(i64::unsigned_abs).or(usual);
        match asked {
            Some(asked) if self.refuses_overflow && prompt + asked > context => {
                Err(Refusal::Together {
                    context,
                    prompt,
                    asked,
                })
            }
            Some(asked) => Ok(asked.min(context - prompt)),
            None => Ok(context - prompt),
        }
    }
}

fn typed(field: &str, wanted: &'static str, value: &Value) -> Result<(), Refusal> {
    let fits = match wanted {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => value.is_array(),
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::WrongType {
        field: field.to_owned(),
        wanted,
        got: value.clone(),
    })
}

/// What a strict server that is not vLLM takes.
fn known_fields(body: &Object) -> Result<(), Refusal> {
    const KNOWN: [&str; 22] = [
        "model",
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "stop",
        "tools",
        "tool_choice",
        "echo",
        "seed",
        "logprobs",
        "top_logprobs",
        "user",
        "response_format",
        "presence_penalty",
        "frequency_penalty",
    ];
    let unknown = body
        .keys()
        .find(|key| !KNOWN.contains(&key.as_str()))
        .cloned();
    let options = body.get("stream_options").and_then(Value::as_object);
    let inner = options.and_then(|options| options.keys().find(|key| *key != "include_usage"));
    let inner = inner.map(|key| format!("stream_options.{key}"));
    unknown
        .or(inner)
        .map_or(Ok(()), |field| Err(Refusal::UnknownField { field }))
}

/// A field's items; none if it is no list.
pub fn list(body: &Object, field: &str) -> Vec<Value> {
    body.get(field)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}
