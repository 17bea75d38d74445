//! A request's JSON body, checked as vLLM checks it, and turned into a task for the engine: one way
//! for each API. It knows no answers.

use http::HeaderMap;
use serde_json::{Map, Value, json};

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

type Object = Map<String, Value>;

/// The text in which a prompt may carry directives: what the user said last.
pub fn last_words(body: &Value) -> String {
    let list = body["messages"]
        .as_array()
        .or_else(|| body["input"].as_array());
    if let Some(list) = list {
        let said =
            |item: &&Value| item["role"] == "user" && item["content"][0]["type"] != "tool_result";
        let last = list.iter().rfind(said);
        return last
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

    /// A chat completion's task.
    pub fn chat(&self, body: &Object) -> Result<Task, Refusal> {
        self.check(body, &[("messages", "list")])?;
        let messages = list(body, "messages");
        if messages.is_empty() {
            let message = "Cannot apply chat template to an empty conversation. \
                           Provide at least one message.";
            return Err(Refusal::Invalid {
                message: message.into(),
                param: None,
            });
        }
        let field = ["max_completion_tokens", "max_tokens"];
        let field = field
            .into_iter()
            .find(|field| !body.get(*field).is_none_or(Value::is_null));
        let mut task = self.task(
            body,
            vec![tokens::chat_prompt(None, &messages, body.get("tools"))],
        )?;
        task.max_tokens = self.room(body, field.unwrap_or("max_tokens"), &task.prompts, None)?;
        task.tools = list(body, "tools");
        task.forced_tool = forced(body.get("tool_choice"), &task.tools, |choice| {
            choice["function"]["name"].as_str().map(str::to_owned)
        })?;
        if body
            .get("tool_choice")
            .is_some_and(|choice| choice == "none")
        {
            task.tools.clear();
        }
        task.messages = messages;
        Ok(task)
    }

    /// A text completion's task.
    pub fn completion(&self, body: &Object) -> Result<Task, Refusal> {
        self.check(body, &[])?;
        let prompts: Vec<String> = match body.get("prompt") {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) if items.iter().all(Value::is_number) => {
                vec![from_ids(items)]
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_array()
                        .map_or_else(|| tokens::flat(item), |ids| from_ids(ids))
                })
                .collect(),
            _ => Vec::new(),
        };
        if prompts.iter().all(String::is_empty) {
            let message = "Either prompt or prompt_embeds must be provided and non-empty. \
                           (parameter=prompt)";
            return Err(Refusal::Invalid {
                message: message.into(),
                param: Some("prompt"),
            });
        }
        if prompts.len() > 1 && self.dialect == Dialect::Rust {
            let got = body["prompt"].clone();
            return Err(Refusal::WrongType {
                field: "prompt".into(),
                wanted: "string",
                got,
            });
        }
        let mut task = self.task(body, prompts)?;
        task.max_tokens = self.room(body, "max_tokens", &task.prompts, Some(16))?;
        Ok(task)
    }

    /// A response's task.
    pub fn response(&self, body: &Object) -> Result<Task, Refusal> {
        if !body.contains_key("input") {
            return Err(Refusal::Missing {
                field: "input",
                fields: body.len() + 1,
            });
        }
        self.check(body, &[])?;
        if let Some(id) = body.get("previous_response_id").and_then(Value::as_str) {
            let message = format!("Response with id '{id}' not found.");
            return Err(Refusal::NotFound {
                message,
                param: "response_id",
            });
        }
        let messages: Vec<Value> = match &body["input"] {
            Value::Array(items) => items.iter().map(as_message).collect(),
            input => vec![json!({"role": "user", "content": input})],
        };
        let tools: Vec<Value> = list(body, "tools")
            .into_iter()
            .map(|tool| json!({"type": "function", "function": tool}))
            .collect();
        let prompt = tokens::chat_prompt(body.get("instructions"), &messages, Some(&json!(tools)));
        let mut task = self.task(body, vec![prompt])?;
        task.max_tokens = self.room(body, "max_output_tokens", &task.prompts, None)?;
        task.forced_tool = forced(body.get("tool_choice"), &tools, |choice| {
            choice["name"].as_str().map(str::to_owned)
        })?;
        task.messages = messages;
        task.tools = tools;
        Ok(task)
    }

    /// A message's task; `counting` when only the tokens are asked for.
    pub fn message(&self, body: &Object, counting: bool) -> Result<Task, Refusal> {
        let needs: &[_] = if counting {
            &[("messages", "list")]
        } else {
            &[("messages", "list"), ("max_tokens", "integer")]
        };
        self.check(body, needs)?;
        let messages: Vec<Value> = list(body, "messages")
            .iter()
            .flat_map(from_blocks)
            .collect();
        let tools: Vec<Value> = list(body, "tools")
            .into_iter()
            .map(|tool| {
                let parameters = tool["input_schema"].clone();
                json!({"type": "function",
                       "function": {"name": tool["name"], "parameters": parameters}})
            })
            .collect();
        let prompt = tokens::chat_prompt(body.get("system"), &messages, Some(&json!(tools)));
        let mut task = self.task(body, vec![prompt])?;
        if !counting {
            task.max_tokens = self.room(body, "max_tokens", &task.prompts, None)?;
        }
        task.forced_tool = match body
            .get("tool_choice")
            .and_then(|choice| choice["type"].as_str())
        {
            Some("tool") => body["tool_choice"]["name"].as_str().map(str::to_owned),
            Some("any") => Some(String::new()),
            _ => None,
        };
        task.messages = messages;
        task.tools = tools;
        Ok(task)
    }

    fn task(&self, body: &Object, prompts: Vec<String>) -> Result<Task, Refusal> {
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
    fn room(
        &self,
        body: &Object,
        field: &'static str,
        prompts: &[String],
        usual: Option<u64>,
    ) -> Result<u64, Refusal> {
        let context = self.context;
        let asked = body.get(field).and_then(Value::as_i64);
        let echoes = body.get("echo").and_then(Value::as_bool).unwrap_or(false);
        let least = if echoes { 0 } else { 1 };
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

fn list(body: &Object, field: &str) -> Vec<Value> {
    body.get(field)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

fn from_ids(items: &[Value]) -> String {
    let id = |item: &Value| {
        item.as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or(0)
    };
    tokens::text(&items.iter().map(id).collect::<Vec<u32>>())
}

fn forced(
    choice: Option<&Value>,
    tools: &[Value],
    name: impl Fn(&Value) -> Option<String>,
) -> Result<Option<String>, Refusal> {
    let forced = match choice {
        Some(Value::String(word)) if word == "required" => Some(String::new()),
        Some(choice @ Value::Object(_)) => name(choice),
        _ => None,
    };
    let Some(wanted) = &forced else {
        return Ok(None);
    };
    let message = if tools.is_empty() {
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)"
    } else if wanted.is_empty()
        || tools
            .iter()
            .any(|tool| tool["function"]["name"] == **wanted)
    {
        return Ok(forced);
    } else {
        "The tool specified in `tool_choice` does not match any of the specified `tools` \
         (parameter=tool_choice)"
    };
    Err(Refusal::Invalid {
        message: message.into(),
        param: Some("tool_choice"),
    })
}

/// An item of a response's input as a chat message.
fn as_message(item: &Value) -> Value {
    match item["type"].as_str() {
        Some("function_call_output") => json!({"role": "tool", "content": item["output"]}),
        Some("function_call") => {
            json!({"role": "assistant", "content": null, "tool_calls": [item]})
        }
        _ => json!({"role": item["role"], "content": item["content"]}),
    }
}

/// A message of blocks as chat messages: results of tools become messages of their own.
fn from_blocks(message: &Value) -> Vec<Value> {
    let blocks = message["content"].as_array().cloned().unwrap_or_default();
    let results: Vec<Value> = blocks
        .iter()
        .filter(|block| block["type"] == "tool_result")
        .map(|block| json!({"role": "tool", "content": block["content"]}))
        .collect();
    if results.is_empty() {
        vec![message.clone()]
    } else {
        results
    }
}
