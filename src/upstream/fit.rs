//! Fits the asked output into the model's context. OpenCode asks for 32000 tokens when its user
//! configured no limit, and a model of that size refuses it. The prompt's size comes from the
//! upstream's own counting routes alone; bytes only tell when it is worth asking.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::timeout;

use super::models::Knowledge;
use super::request::{Payload, Request};
use super::target::Target;
use super::{Endpoint, Object, read_bounded};

const TOKENIZE_LIMIT: Duration = Duration::from_secs(10);
/// The answer lists every token of the prompt.
const TOKENIZE_BYTES: usize = 16 * 1024 * 1024;
/// More than any chat template adds of its own.
const TEMPLATE_TOKENS: u64 = 4096;

/// What came of lowering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Lowered,
    Fits,
    PromptTooLong,
    /// The upstream cannot count.
    Unknown,
}

/// An upstream's count of a prompt.
#[derive(Deserialize)]
pub struct Counted {
    #[serde(alias = "input_tokens")]
    pub count: u64,
    max_model_len: Option<u64>,
}

/// Whether it is worth counting first: prompt and asked output might be too long together. Bytes
/// bound the prompt from above.
pub fn may_exceed(request: &Request, known: &Knowledge) -> bool {
    // Only /tokenize is there for this; messages are counted when they were refused.
    if request.endpoint == Endpoint::Messages {
        return false;
    }
    let Some((_, asked)) = asked_output(request) else {
        return false;
    };
    let (Payload::Json(object), Some(context)) = (&request.payload, context(request, known)) else {
        return false;
    };
    asked
        .saturating_add(object.text_bytes())
        .saturating_add(TEMPLATE_TOKENS)
        > context
}

/// The context of the model that goes upstream, which may have an alias.
pub fn context(request: &Request, known: &Knowledge) -> Option<u64> {
    let Payload::Json(object) = &request.payload else {
        return None;
    };
    let model = object.string("model");
    let only = || known.only_model().map(|card| card.id.clone());
    match model.filter(|id| known.card(id).is_some()).or_else(only) {
        Some(id) => known.context(&id),
        None => known.default_context,
    }
}

/// Counts the prompt and lowers the asked output to what is left beside it.
pub async fn lower(target: &Target, request: &mut Request, known: &Knowledge) -> Fit {
    let Some((limit, asked)) = asked_output(request) else {
        return Fit::Unknown;
    };
    let Some(counted) = count(target, request).await else {
        return Fit::Unknown;
    };
    let Some(context) = counted.max_model_len.or_else(|| context(request, known)) else {
        return Fit::Unknown;
    };
    let room = context.saturating_sub(counted.count);
    if room == 0 {
        return Fit::PromptTooLong;
    }
    if asked <= room {
        return Fit::Fits;
    }
    if let Payload::Json(object) = &mut request.payload {
        object.set(limit, room.to_string());
    }
    Fit::Lowered
}

/// Takes the bound on the output away, where the upstream cannot count and a chat may do without:
/// not if it was granted only so much. Tells whether there was one.
pub fn drop_limit(request: &mut Request, known: &Knowledge) -> bool {
    let context = context(request, known);
    if (request.cap).is_some_and(|cap| context.is_none_or(|context| cap < context)) {
        return false;
    }
    let (Endpoint::ChatCompletions, Payload::Json(object)) =
        (request.endpoint, &mut request.payload)
    else {
        return false;
    };
    let limits = Endpoint::ChatCompletions.output_limits();
    let is_there = limits.iter().any(|limit| object.present(limit).is_some());
    for limit in limits {
        object.remove(limit);
    }
    is_there
}

/// The member that bounds the output, and its value.
pub fn asked_output(request: &Request) -> Option<(&'static str, u64)> {
    let Payload::Json(object) = &request.payload else {
        return None;
    };
    let limit = request
        .endpoint
        .output_limits()
        .iter()
        .find(|limit| object.present(limit).is_some())?;
    Some((limit, object.present(limit)?.parse().ok()?))
}

async fn count(target: &Target, request: &Request) -> Option<Counted> {
    let Payload::Json(object) = &request.payload else {
        return None;
    };
    let (route, members) = question(request.endpoint, object)?;
    ask_count(target, route, object.only(members)).await
}

/// Puts a question to one of the counting routes.
pub async fn ask_count(target: &Target, route: Endpoint, question: Bytes) -> Option<Counted> {
    let mut headers = target.credentials().await.ok()?.headers();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let url = target.route(route.path());
    let answer = timeout(TOKENIZE_LIMIT, async {
        let asking = target.client().post(url, headers, question);
        let answer = asking.send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, read_bounded(answer, TOKENIZE_BYTES).await?))
    });
    match answer.await {
        Ok(Ok((status, body))) if status.is_success() => serde_json::from_slice(&body).ok(),
        _ => None,
    }
}

/// The route that counts a request's prompt, and the members that make it. Prompts that are lists,
/// and responses, no route can count.
pub fn question(
    endpoint: Endpoint,
    object: &Object,
) -> Option<(Endpoint, &'static [&'static str])> {
    Some(match endpoint {
        Endpoint::ChatCompletions => (
            Endpoint::Tokenize,
            &[
                "model",
                "messages",
                "tools",
                "chat_template",
                "chat_template_kwargs",
                "add_generation_prompt",
                "continue_final_message",
                "add_special_tokens",
                "mm_processor_kwargs",
            ],
        ),
        Endpoint::Completions if object.get("prompt")?.starts_with('"') => (
            Endpoint::Tokenize,
            &["model", "prompt", "add_special_tokens"],
        ),
        Endpoint::Messages => (
            Endpoint::CountTokens,
            &["model", "messages", "system", "tools", "tool_choice"],
        ),
        _ => return None,
    })
}
