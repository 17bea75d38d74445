//! The engine behind the scripted answers: decides what is generated, token by token, for every
//! choice. It knows neither HTTP nor the shape of any API.

use serde_json::{Map, Value, json};

use super::agent;
use super::behaviour::Behaviour;
use super::tokens;

/// Words of the engine's own answers: one token each.
const WORDS: [&str; 12] = [
    "The", " sea", " is", " big", " and", " old", ",", " it", " has", " no", " end", ".",
];
/// Tokens of an answer when nothing says otherwise, without the one that ends it.
const USUAL_PIECES: u64 = 12;
/// Tokens that begin and end a tool call and are never shown as such.
const CALL_OPENING: u64 = 8;
const CALL_CLOSING: u64 = 3;

/// What the engine is asked.
pub struct Task {
    /// The prompts as text; several for a list of prompts.
    pub prompts: Vec<String>,
    /// Choices for each prompt.
    pub choices: u64,
    /// Most tokens for each choice.
    pub max_tokens: u64,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Tools in OpenAI's nested form; empty if none.
    pub tools: Vec<Value>,
    /// `Some(name)` when a tool must be called (an empty name: any).
    pub forced_tool: Option<String>,
    /// Messages in OpenAI's form, for what depends on the conversation.
    pub messages: Vec<Value>,
}

/// One step of one choice.
#[derive(Clone, Debug)]
pub struct Step {
    pub choice: usize,
    pub delta: Delta,
    /// Tokens of this choice so far, this step's included.
    pub tokens: u64,
    /// Tokens of this step alone.
    pub grew: u64,
    pub finish: Option<Finish>,
}

/// What a step adds to its choice.
#[derive(Clone, Debug)]
pub enum Delta {
    Text(String),
    CallName { id: String, name: String },
    CallArguments(String),
    Nothing,
}

/// Why a choice ended.
#[derive(Clone, Debug)]
pub struct Finish {
    pub reason: String,
    /// The stop string that was met.
    pub stop: Option<String>,
}

/// All that is generated for a task.
pub struct Generation {
    /// Tokens of each prompt.
    pub prompt_tokens: Vec<u64>,
    pub choices_per_prompt: usize,
    /// Every choice's steps, mixed as they would come from a batch.
    pub steps: Vec<Step>,
}

/// A choice put together from its steps.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    pub text: String,
    /// Id, name, arguments.
    pub call: Option<(String, String, String)>,
    pub tokens: u64,
    pub reason: String,
    pub stop: Option<String>,
}

impl Generation {
    /// Tokens of all prompts.
    pub fn prompt_total(&self) -> u64 {
        self.prompt_tokens.iter().sum()
    }

    /// Tokens of all choices.
    pub fn completion_total(&self) -> u64 {
        self.steps.iter().map(|step| step.grew).sum()
    }

    /// How many choices there are.
    pub fn choices(&self) -> usize {
        self.prompt_tokens.len() * self.choices_per_prompt
    }

    /// Tokens of the prompt that a choice answers.
    pub fn prompt_of(&self, choice: usize) -> u64 {
        self.prompt_tokens[choice / self.choices_per_prompt]
    }

    /// The choices as a plain answer shows them.
    pub fn wholes(&self) -> Vec<Whole> {
        let mut wholes = vec![Whole::default(); self.choices()];
        for step in &self.steps {
            let whole = &mut wholes[step.choice];
            whole.tokens = step.tokens;
            match &step.delta {
                Delta::Text(text) => whole.text += text,
                Delta::CallName { id, name } => {
                    whole.call = Some((id.clone(), name.clone(), String::new()));
                }
                Delta::CallArguments(piece) => {
                    if let Some((_, _, arguments)) = &mut whole.call {
                        *arguments += piece;
                    }
                }
                Delta::Nothing => {}
            }
            if let Some(finish) = &step.finish {
                whole.reason.clone_from(&finish.reason);
                whole.stop.clone_from(&finish.stop);
            }
        }
        wholes
    }
}

/// Generates. `seed` makes ids of calls differ between requests.
pub fn generate(task: &Task, behaviour: &Behaviour, seed: usize) -> Generation {
    let per_prompt = usize::try_from(task.choices).unwrap_or(1).max(1);
    let total = task.prompts.len() * per_prompt;
    let mut columns: Vec<std::vec::IntoIter<Step>> = (0..total)
        .map(|choice| steps_of(task, behaviour, (choice, seed)).into_iter())
        .collect();
    let mut steps = Vec::new();
    let longest = columns
        .iter()
        .map(ExactSizeIterator::len)
        .max()
        .unwrap_or(0);
    for _ in 0..longest {
        steps.extend(columns.iter_mut().filter_map(Iterator::next));
    }
    Generation {
        prompt_tokens: task
            .prompts
            .iter()
            .map(|prompt| tokens::count(prompt))
            .collect(),
        choices_per_prompt: per_prompt,
        steps,
    }
}

fn steps_of(task: &Task, behaviour: &Behaviour, (choice, seed): (usize, usize)) -> Vec<Step> {
    let mut steps = match wanted_call(task, behaviour) {
        Some((name, arguments)) => call_steps(choice, seed, &name, &arguments),
        None => text_steps(choice, &pieces(task, behaviour), &task.stop),
    };
    shorten(&mut steps, task.max_tokens);
    if let (Some(reason), Some(last)) = (&behaviour.finish_reason, steps.last_mut()) {
        last.finish = Some(Finish {
            reason: reason.clone(),
            stop: None,
        });
    }
    steps
}

fn pieces(task: &Task, behaviour: &Behaviour) -> Vec<String> {
    let spoken = behaviour
        .text
        .clone()
        .or_else(|| behaviour.agent.then(|| agent::last_words(&task.messages)));
    if let Some(text) = spoken {
        return tokens::pieces(&text)
            .into_iter()
            .map(str::to_owned)
            .collect();
    }
    // Of a fixed number of tokens the last is the one that ends the answer.
    let count = behaviour
        .tokens
        .map_or(USUAL_PIECES, |tokens| tokens.saturating_sub(1));
    let count = usize::try_from(count.min(task.max_tokens)).unwrap_or(usize::MAX);
    WORDS
        .iter()
        .cycle()
        .take(count)
        .map(|&word| word.to_owned())
        .collect()
}

fn wanted_call(task: &Task, behaviour: &Behaviour) -> Option<(String, Value)> {
    let find = |name: &str| {
        let mut tools = task.tools.iter().map(|tool| &tool["function"]);
        tools.find(|tool| name.is_empty() || tool["name"] == name)
    };
    if let Some(name) = &task.forced_tool {
        return find(name).map(|tool| (tool_name(tool), made_up(&tool["parameters"])));
    }
    if behaviour.agent {
        return agent::next_call(&task.messages, &task.tools);
    }
    let answered = task
        .messages
        .last()
        .is_some_and(|last| last["role"] == "tool");
    let name = behaviour.call_tool.as_ref().filter(|_| !answered)?;
    find(name).map(|tool| (tool_name(tool), made_up(&tool["parameters"])))
}

fn tool_name(tool: &Value) -> String {
    tool["name"].as_str().unwrap_or_default().to_owned()
}

/// A value that a schema allows, simple schemas only.
fn made_up(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            let filled: Map<String, Value> = properties
                .iter()
                .map(|(name, inner)| (name.clone(), made_up(inner)))
                .collect();
            Value::Object(filled)
        }
        Some("array") => json!([]),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => json!("some text"),
    }
}

fn text_steps(choice: usize, pieces: &[String], stop: &[String]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut said = String::new();
    for piece in pieces {
        let before = said.len();
        said += piece;
        let tokens = steps.len() as u64 + 1;
        let met = stop
            .iter()
            .filter(|text| !text.is_empty())
            .find_map(|text| said.find(text.as_str()).map(|at| (at, text.clone())));
        let (shown, finish) = match met {
            Some((at, text)) => {
                let finish = Finish {
                    reason: "stop".into(),
                    stop: Some(text),
                };
                (
                    said.get(before..at.max(before))
                        .unwrap_or_default()
                        .to_owned(),
                    Some(finish),
                )
            }
            None => (piece.clone(), None),
        };
        let done = finish.is_some();
        steps.push(Step {
            choice,
            delta: Delta::Text(shown),
            tokens,
            grew: 1,
            finish,
        });
        if done {
            return steps;
        }
    }
    let finish = Some(Finish {
        reason: "stop".into(),
        stop: None,
    });
    let tokens = steps.len() as u64 + 1;
    steps.push(Step {
        choice,
        delta: Delta::Nothing,
        tokens,
        grew: 1,
        finish,
    });
    steps
}

fn call_steps(choice: usize, seed: usize, name: &str, arguments: &Value) -> Vec<Step> {
    let id = format!("chatcmpl-tool-{:016x}", seed * 64 + choice + 1);
    let arguments = arguments.to_string();
    let mut tokens = CALL_OPENING;
    let opening = Delta::CallName {
        id,
        name: name.to_owned(),
    };
    let mut steps = vec![Step {
        choice,
        delta: opening,
        tokens,
        grew: tokens,
        finish: None,
    }];
    for piece in tokens::pieces(&arguments) {
        tokens += 1;
        let delta = Delta::CallArguments(piece.to_owned());
        steps.push(Step {
            choice,
            delta,
            tokens,
            grew: 1,
            finish: None,
        });
    }
    tokens += CALL_CLOSING;
    let finish = Some(Finish {
        reason: "tool_calls".into(),
        stop: None,
    });
    steps.push(Step {
        choice,
        delta: Delta::Nothing,
        tokens,
        grew: CALL_CLOSING,
        finish,
    });
    steps
}

/// Ends a choice at its most tokens; the last token that is shown carries the reason.
fn shorten(steps: &mut Vec<Step>, max_tokens: u64) {
    let Some(last) = steps.last().filter(|last| last.tokens > max_tokens) else {
        return;
    };
    let choice = last.choice;
    steps.retain(|step| step.tokens <= max_tokens);
    let finish = Some(Finish {
        reason: "length".into(),
        stop: None,
    });
    let shown = steps.last().map_or(0, |step| step.tokens);
    if let Some(step) = steps.last_mut().filter(|_| shown == max_tokens) {
        step.finish = finish;
        return;
    }
    let grew = max_tokens - shown;
    let delta = Delta::Nothing;
    steps.push(Step {
        choice,
        delta,
        tokens: max_tokens,
        grew,
        finish,
    });
}
