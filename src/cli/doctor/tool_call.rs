//! The last hop: tools that are offered can be called. First as agents do it, the model being free to
//! choose; if it says something instead, as small models do, the tool is forced by its name.

use std::time::Duration;

use serde_json::{Value, json};

use super::Outcome;
use super::chat::{PATH, no_chat};
use super::report::{Broken, Passed};
use crate::cli::remote::remedy::{error_of, explain, unanswered};
use crate::cli::remote::{Answer, Remote};

const LIMIT: Duration = Duration::from_mins(2);
const TOOL: &str = "get_weather";
const NO_TOOLS: &str = "start the model server with tool calling. vLLM: --enable-auto-tool-choice --tool-call-parser NAME, the parser of the model's family (hermes, llama3_json, mistral, ...); llama.cpp: --jinja; else a model that can call tools";

/// What came of offering a tool.
enum Offer {
    Called {
        arguments: String,
    },
    /// Something was said instead.
    Said(String),
}

/// Offers a tool, and forces it if it is not called.
pub async fn check(remote: &Remote, model: &str) -> Outcome<()> {
    match offer(remote, model, &json!("auto")).await? {
        Offer::Called { arguments } => return Ok(called("by itself", &arguments)),
        Offer::Said(text) if is_unparsed(&text) => {
            return Err(Broken::new(
                format!("the model's tool call came as text: {text}"),
                "give the model server the parser of this model's family: vLLM's --tool-call-parser",
            ));
        }
        Offer::Said(_) => {}
    }
    let forced = json!({"type": "function", "function": {"name": TOOL}});
    match offer(remote, model, &forced).await? {
        Offer::Called { arguments } => Ok(called("when it had to", &arguments).warn(
            "free to choose, the model said something instead; small models do. Agents such as OpenCode leave it free: try a larger model if they do not get on",
        )),
        Offer::Said(_) => Err(Broken::new(
            "the tool was offered, then forced, and the answer was text both times: model server was not started with tool calling",
            NO_TOOLS,
        )),
    }
}

async fn offer(remote: &Remote, model: &str, choice: &Value) -> Result<Offer, Broken> {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    });
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "What is the weather like in Paris?"}],
        "max_tokens": 200,
        "tools": [{"type": "function", "function": {
            "name": TOOL, "description": "Weather of a city", "parameters": parameters,
        }}],
        "tool_choice": choice,
    });
    let answer = remote.post(PATH, &body, LIMIT).await;
    let answer = answer.map_err(|trouble| unanswered(&trouble, remote))?;
    if !answer.is_success() {
        return Err(refused(&answer, remote));
    }
    read(&answer)
}

/// The chat before went well, so what is refused now is the tool.
fn refused(answer: &Answer, remote: &Remote) -> Broken {
    let broken = explain(answer, remote);
    let text = error_of(&answer.json()).map_or_else(String::new, |(_, text)| text);
    let text = text.to_ascii_lowercase();
    let speaks_of_tools = ["tool", "function call", "jinja"]
        .iter()
        .any(|word| text.contains(word));
    if speaks_of_tools {
        return Broken::new(
            format!(
                "model server was not started with tool calling; {}",
                broken.saw
            ),
            NO_TOOLS,
        );
    }
    match answer.status {
        // Some servers fail at tools with an error of their own, which is not passed on.
        400 | 422 | 501 | 502 => Broken::new(
            format!("a chat works, the same with tools does not; {}", broken.saw),
            format!("{}. If it refuses tools: {NO_TOOLS}", broken.todo),
        ),
        _ => broken,
    }
}

fn read(answer: &Answer) -> Result<Offer, Broken> {
    let body = answer.json();
    let message = &body["choices"][0]["message"];
    if !message.is_object() {
        return Err(no_chat(answer));
    }
    let call = &message["tool_calls"][0];
    if call.is_null() {
        let text = message["content"].as_str().unwrap_or_default();
        return Ok(Offer::Said(text.to_owned()));
    }
    let name = call["function"]["name"].as_str();
    let arguments = call["function"]["arguments"].as_str();
    match (call["id"].as_str(), name, arguments) {
        (Some(id), Some(TOOL), Some(arguments)) if !id.is_empty() => Ok(Offer::Called {
            arguments: arguments.to_owned(),
        }),
        _ => Err(Broken::new(
            format!("a tool call of the wrong shape: {call}"),
            "it has to have an id, the name of the tool and its arguments as a string of JSON; update the model server, or give it another --tool-call-parser",
        )),
    }
}

fn called(how: &str, arguments: &str) -> Passed {
    let passed = Passed::new(format!("the model called {TOOL} {how}: {arguments}"));
    let is_object = serde_json::from_str::<Value>(arguments).is_ok_and(|it| it.is_object());
    if is_object {
        passed
    } else {
        passed.warn("its arguments are no JSON object, which clients cannot use: a larger model, or another --tool-call-parser, does better")
    }
}

/// A call that the model wrote and no parser read.
fn is_unparsed(text: &str) -> bool {
    text.contains(TOOL)
        && [
            "<tool_call>",
            "[TOOL_CALLS]",
            "<|python_tag|>",
            "\"arguments\"",
            "\"parameters\"",
        ]
        .iter()
        .any(|mark| text.contains(mark))
}
