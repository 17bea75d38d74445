//! Requests as tasks for the engine: one way for each API. It knows no answers.

use serde_json::{Value, json};

use super::ask::{Limits, Object, list};
use super::engine::Task;
use super::refusal::{Dialect, Refusal};
use super::tokens;

impl Limits {
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
