//! What a call brings as prompts: how many, and the most tokens of all of them together. Pure.

use super::conversation;
use super::template::Template;
use super::weight::{Style, weigh, wide};
use crate::error::{Code, Error};
use crate::upstream::json::elements;
use crate::upstream::{Endpoint, Object};

/// Tokens that a tokenizer or an engine adds to a text of its own accord.
const SPECIAL_TOKENS: u64 = 64;
/// What a template writes around each message.
const MESSAGE_TOKENS: u64 = 64;
/// What stands around each tool, and in its description for what was left out.
const TOOL_TOKENS: u64 = 256;

/// The members that the bound depends on, beside those that every call is checked for. None may
/// stand twice, for parsers differ in which one counts: who reads the call refuses it.
pub const DECISIVE: [&str; 23] = [
    "best_of",
    "min_tokens",
    "use_beam_search",
    "chat_template",
    "chat_template_kwargs",
    "prompt_embeds",
    "input",
    "tools",
    "functions",
    "system",
    "thinking",
    "documents",
    "query",
    "queries",
    "items",
    "text_1",
    "text_2",
    "data_1",
    "data_2",
    "suffix",
    "instructions",
    "instruction",
    "reasoning_effort",
];

/// The prompts of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompts {
    pub count: u64,
    /// Of all prompts together, at most.
    pub tokens: u64,
}

/// What is known of the model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Of the largest one that may take the call.
    pub context: Option<u64>,
    pub template: Template,
}

impl Model {
    /// One prompt, which never is longer than the context.
    fn prompt(self, tokens: u64) -> u64 {
        self.context.map_or(tokens, |context| tokens.min(context))
    }

    /// A prompt whose tokens nobody can tell from its text.
    fn whole(self) -> Result<u64, Error> {
        self.context.ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                "parts that are not text, and chat templates of your own, are not open to keys with a token limit until the context of the model is known",
            )
        })
    }
}

/// Measures the prompts of a call.
///
/// # Errors
/// `invalid_request` for what cannot be bounded.
pub fn measure(endpoint: Endpoint, object: &Object, model: Model) -> Result<Prompts, Error> {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages => {
            one_chat(endpoint, object, model)
        }
        Endpoint::Completions => completions(object, model),
        Endpoint::Embeddings if object.present("messages").is_some() => {
            one_chat(endpoint, object, model)
        }
        Endpoint::Embeddings => embeddings(object, model),
        Endpoint::Rerank | Endpoint::Score => pairs(object, model),
        // Nothing is counted there, or not in tokens.
        _ => Ok(Prompts {
            count: 0,
            tokens: 0,
        }),
    }
}

fn one_chat(endpoint: Endpoint, object: &Object, model: Model) -> Result<Prompts, Error> {
    let tools = tools(endpoint, object)?;
    let tokens = match (chat_weight(object), tools) {
        (Some(weight), Some(tools)) => model.prompt(
            weight
                .saturating_add(TOOL_TOKENS.saturating_mul(tools))
                .saturating_add(model.template.tokens(object)),
        ),
        _ => model.whole()?,
    };
    Ok(Prompts { count: 1, tokens })
}

/// Whether a prompt is text alone, of the model's own template.
pub fn is_text(endpoint: Endpoint, object: &Object) -> bool {
    endpoint == Endpoint::Completions || chat_weight(object).is_some()
}

/// The whole body, without what the template adds; `None` if not all of it is text.
fn chat_weight(object: &Object) -> Option<u64> {
    if object.present("chat_template").is_some() {
        return None;
    }
    let mut total = 0_u64;
    for (key, value) in object.members() {
        let weight = match key {
            "messages" | "input" => {
                let talk = conversation::measure(value)?;
                talk.tokens
                    .saturating_add(MESSAGE_TOKENS.saturating_mul(talk.messages))
            }
            "system" | "instructions" => {
                let talk = conversation::measure_text(value)?;
                talk.tokens.saturating_add(MESSAGE_TOKENS)
            }
            "chat_template_kwargs" if value.contains("chat_template") || value.contains('\\') => {
                return None;
            }
            _ => weigh(value.as_bytes(), Style::Printed),
        };
        total = total.saturating_add(weight).saturating_add(wide(key.len()));
    }
    Some(total)
}

/// How many tools there are; `None` if their size cannot be told.
///
/// # Errors
/// `invalid_request` for tools that the model server runs itself: each use is one more prompt.
fn tools(endpoint: Endpoint, object: &Object) -> Result<Option<u64>, Error> {
    let mut count = 0_u64;
    for name in ["tools", "functions"] {
        let Some(list) = object.present(name) else {
            continue;
        };
        let Some(mut walk) = elements(list.as_bytes(), 0..list.len()) else {
            continue;
        };
        while let Some(tool) = walk.next_element() {
            count = count.saturating_add(1);
            if endpoint != Endpoint::Responses {
                continue;
            }
            match conversation::kind(&list.as_bytes()[tool]).as_deref() {
                None | Some("function" | "custom" | "local_shell") => {}
                // Its name stands once more before the name of each of its tools.
                Some("namespace") => return Ok(None),
                Some(_) => {
                    return Err(Error::new(
                        Code::InvalidRequest,
                        "tools that the model server runs itself are not open to keys with a token limit; offer functions alone",
                    )
                    .param("tools"));
                }
            }
        }
    }
    Ok(Some(count))
}

fn completions(object: &Object, model: Model) -> Result<Prompts, Error> {
    let suffix = object
        .present("suffix")
        .map_or(0, |suffix| weigh(suffix.as_bytes(), Style::Text));
    let extra = suffix.saturating_add(SPECIAL_TOKENS);
    let mut prompts = object.present("prompt").map_or(NONE, |prompt| {
        texts(prompt, |tokens| model.prompt(tokens.saturating_add(extra)))
    });
    if let Some(embeds) = object.present("prompt_embeds") {
        let count = count(embeds);
        let tokens = count.saturating_mul(model.whole()?);
        prompts.count = prompts.count.saturating_add(count);
        prompts.tokens = prompts.tokens.saturating_add(tokens);
    }
    Ok(prompts)
}

/// Texts longer than the context are embedded piece by piece where the server is set up so: they
/// count in full.
fn embeddings(object: &Object, model: Model) -> Result<Prompts, Error> {
    let Some(input) = object.present("input") else {
        return Ok(NONE);
    };
    if holds_objects(input) {
        let count = count(input);
        let tokens = count.saturating_mul(model.whole()?);
        return Ok(Prompts { count, tokens });
    }
    let around = SPECIAL_TOKENS.saturating_add(around_pair(object));
    Ok(texts(input, |tokens| tokens.saturating_add(around)))
}

/// What else the body says goes with each of its texts: instructions, for example.
fn around_pair(object: &Object) -> u64 {
    const MEASURED: [&str; 10] = [
        "input",
        "query",
        "queries",
        "documents",
        "items",
        "text_1",
        "text_2",
        "data_1",
        "data_2",
        "messages",
    ];
    let others = object
        .members()
        .filter(|(key, _)| !MEASURED.contains(key))
        .map(|(_, value)| weigh(value.as_bytes(), Style::Printed));
    others.fold(0, u64::saturating_add)
}

/// Each query with its documents: one with many, or pair by pair.
fn pairs(object: &Object, model: Model) -> Result<Prompts, Error> {
    let side = |names: &[&str]| {
        let lists = names.iter().filter_map(|name| object.present(name));
        lists.fold((NONE, true), |(sum, is_text), list| {
            let list_is_text = !holds_objects(list);
            let texts = texts(list, |tokens| tokens);
            let sum = Prompts {
                count: sum.count.max(texts.count),
                tokens: sum.tokens.saturating_add(texts.tokens),
            };
            (sum, is_text && list_is_text)
        })
    };
    let (queries, queries_are_text) = side(&["query", "queries", "text_1", "data_1"]);
    let (documents, documents_are_text) = side(&["documents", "items", "text_2", "data_2"]);
    let count = queries.count.max(documents.count).max(1);
    if !queries_are_text || !documents_are_text || object.present("chat_template").is_some() {
        let tokens = count.saturating_mul(model.whole()?);
        return Ok(Prompts { count, tokens });
    }
    let repeated = |side: Prompts| match side.count {
        0 | 1 => side.tokens.saturating_mul(count),
        _ => side.tokens,
    };
    // The template of pairs is none that a chat shows.
    let around = Template::UNKNOWN
        .bare
        .saturating_add(around_pair(object))
        .saturating_mul(count);
    let tokens = repeated(queries)
        .saturating_add(repeated(documents))
        .saturating_add(around);
    let most = model
        .context
        .map_or(u64::MAX, |context| context.saturating_mul(count));
    Ok(Prompts {
        count,
        tokens: tokens.min(most),
    })
}

const NONE: Prompts = Prompts {
    count: 0,
    tokens: 0,
};

/// A text or a list of texts; a list of token ids is one text, and may stand in a list itself.
/// `each` says what one of so many tokens comes to.
fn texts(json: &str, each: impl Fn(u64) -> u64) -> Prompts {
    let text = json.as_bytes();
    let Some(mut walk) = elements(text, 0..text.len()) else {
        return Prompts {
            count: 1,
            tokens: each(weigh(text, Style::Text)),
        };
    };
    let mut prompts = NONE;
    let mut loose_ids = 0_u64;
    let mut add = |tokens: u64| {
        prompts.count = prompts.count.saturating_add(1);
        prompts.tokens = prompts.tokens.saturating_add(each(tokens));
    };
    while let Some(element) = walk.next_element() {
        match text[element.start] {
            b'"' => add(weigh(&text[element], Style::Text)),
            b'[' => add(ids(&text[element])),
            _ => loose_ids = loose_ids.saturating_add(1),
        }
    }
    if loose_ids > 0 {
        add(loose_ids);
    }
    prompts
}

/// The tokens of a list of ids; what else may stand there counts by its bytes.
fn ids(list: &[u8]) -> u64 {
    let Some(mut walk) = elements(list, 0..list.len()) else {
        return weigh(list, Style::Text);
    };
    let mut tokens = 0_u64;
    while let Some(element) = walk.next_element() {
        let weight = match list[element.start] {
            b'-' | b'0'..=b'9' => 1,
            _ => weigh(&list[element], Style::Text),
        };
        tokens = tokens.saturating_add(weight);
    }
    tokens
}

/// Elements of a list; anything else is one.
fn count(json: &str) -> u64 {
    let Some(mut walk) = elements(json.as_bytes(), 0..json.len()) else {
        return 1;
    };
    let mut count = 0_u64;
    while walk.next_element().is_some() {
        count = count.saturating_add(1);
    }
    count
}

/// Whether there is an object in a list, or in place of one: none of the texts' own forms.
fn holds_objects(json: &str) -> bool {
    let text = json.as_bytes();
    if text.first() == Some(&b'{') {
        return true;
    }
    let Some(mut walk) = elements(text, 0..text.len()) else {
        return false;
    };
    while let Some(element) = walk.next_element() {
        if text[element.start] == b'{' {
            return true;
        }
    }
    false
}
