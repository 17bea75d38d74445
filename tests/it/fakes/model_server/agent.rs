//! The turn of a coding agent, played by heart: write a file, run a command, read the file, then say
//! what came back. The step follows from the conversation, so nothing is remembered between calls.

use serde_json::{Map, Value, json};

use super::tokens;

const FILE: &str = "hello.txt";
const CONTENT: &str = "written by the scripted agent\n";

/// The tool call that comes next, if the turn is not over: name and arguments. A tool that was not
/// offered is left out of the turn.
pub fn next_call(messages: &[Value], tools: &[Value]) -> Option<(String, Value)> {
    let offered = |name: &str| {
        let mut functions = tools.iter().map(|tool| &tool["function"]);
        functions.find(|function| function["name"] == name)
    };
    let turn: Vec<&Value> = ["write", "bash", "read"]
        .into_iter()
        .filter_map(offered)
        .collect();
    let function = turn.get(results(messages).len())?;
    let name = function["name"].as_str()?;
    Some((
        name.to_owned(),
        arguments(name, &function["parameters"], messages),
    ))
}

/// What is said when there is no call to make: the results of the tools, word for word, or a title
/// where no tool was in play.
pub fn last_words(messages: &[Value]) -> String {
    let results = results(messages);
    if results.is_empty() {
        return "A scripted session".to_owned();
    }
    let quoted: Vec<String> = results
        .iter()
        .map(|result| format!("<<{result}>>"))
        .collect();
    format!("All steps are done. The tools said: {}", quoted.join(" "))
}

/// The results of tools since the user last spoke.
fn results(messages: &[Value]) -> Vec<String> {
    let since = messages
        .iter()
        .rposition(|message| message["role"] == "user")
        .unwrap_or(0);
    let turn = messages[since..]
        .iter()
        .filter(|message| message["role"] == "tool");
    turn.map(|message| tokens::flat(&message["content"]))
        .collect()
}

/// Arguments by the names that the tool's own schema has.
fn arguments(name: &str, schema: &Value, messages: &[Value]) -> Value {
    let file = file(messages);
    let content = quoted(messages, "content").unwrap_or_else(|| CONTENT.to_owned());
    let command = quoted(messages, "command").unwrap_or_else(|| format!("cat '{file}'"));
    let mut arguments = Map::new();
    for property in schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        let value = match (name, property.as_str()) {
            (_, "filePath" | "file_path" | "path") => json!(file),
            ("write", "content") => json!(content),
            ("bash", "command") => json!(command),
            ("bash", "description") => json!("Shows the file"),
            _ => continue,
        };
        arguments.insert(property.clone(), value);
    }
    Value::Object(arguments)
}

/// The file of the turn: `file=...` in the user's words, else the first word that looks like a path.
fn file(messages: &[Value]) -> String {
    let words = user_words(messages);
    quoted(messages, "file").unwrap_or_else(|| {
        let path = words
            .split_whitespace()
            .map(bare)
            .find(|word| word.starts_with('/') && word.len() > 1);
        path.unwrap_or(FILE).to_owned()
    })
}

/// `key="value"` or `key=value` in the user's words.
fn quoted(messages: &[Value], key: &str) -> Option<String> {
    let words = user_words(messages);
    let (_, rest) = words.split_once(&format!("{key}="))?;
    match rest.strip_prefix('"') {
        Some(rest) => rest.split_once('"').map(|(value, _)| value.to_owned()),
        None => rest
            .split_whitespace()
            .next()
            .map(|word| bare(word).to_owned()),
    }
}

fn bare(word: &str) -> &str {
    word.trim_matches(|letter: char| "\"'`,;:()[]".contains(letter))
}

fn user_words(messages: &[Value]) -> String {
    let last = messages.iter().rfind(|message| message["role"] == "user");
    last.map(|message| tokens::flat(&message["content"]))
        .unwrap_or_default()
}
