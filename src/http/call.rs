//! Headers and body become a call that can be sent on. Looks at the top level of the body alone;
//! everything that the gateway does not act on stays as it came.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;

use super::form;
use crate::auth::Principal;
use crate::error::{Code, Error};
use crate::upstream::{Affinity, Asked, DECISIVE, Endpoint, Object, Payload, Request};

/// Members that steer vLLM's scheduler and internals.
const ADMIN_MEMBERS: [&str; 3] = ["priority", "request_id", "kv_transfer_params"];
/// Members that the gateway acts on: none may stand twice, for parsers differ in which one counts.
/// Nor may those that say what a call can cost.
const ACTED_ON: [&str; 15] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "messages",
    "prompt",
    "store",
    "background",
    "previous_response_id",
    "priority",
    "request_id",
    "kv_transfer_params",
];

/// Checks the headers that describe the body; done before a byte of it is read.
///
/// # Errors
/// `unsupported_media_type`.
pub fn check_type(endpoint: Endpoint, headers: &HeaderMap) -> Result<(), Error> {
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|encoding| encoding != "identity")
    {
        return Err(Error::new(
            Code::UnsupportedMediaType,
            "compressed request bodies are not taken; send it without content-encoding",
        ));
    }
    let (wanted, words) = if endpoint.takes_form() {
        (
            "multipart/form-data",
            "this route takes multipart/form-data",
        )
    } else {
        (
            "application/json",
            "this route takes JSON; send content-type: application/json",
        )
    };
    let sent = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        Ok(())
    } else {
        Err(Error::new(Code::UnsupportedMediaType, words))
    }
}

/// Reads a principal's call, to be sent on with the headers `outgoing`. `held` stands for the
/// body's bytes and lives as long as they do.
///
/// # Errors
/// `invalid_request`, `admin_required`.
pub fn parse(
    endpoint: Endpoint,
    principal: &Principal,
    headers: &HeaderMap,
    outgoing: HeaderMap,
    (body, held): (Bytes, OwnedSemaphorePermit),
) -> Result<Request, Error> {
    let said = if endpoint.takes_form() {
        parse_form(headers, body)?
    } else {
        parse_json(endpoint, body, principal.is_admin())?
    };
    Ok(Request {
        endpoint,
        headers: outgoing,
        payload: said.payload,
        model: said.model.filter(|model| !model.is_empty()),
        allowed: principal.models().map(<[String]>::to_vec),
        stream: said.stream,
        asked: said.asked,
        affinity: None,
        cap: None,
        may_wake: principal.may_wake(),
        by: principal.name(),
        held,
    })
}

/// The conversation that a principal's call belongs to.
pub fn affinity(request: &Request, principal: &Principal, headers: &HeaderMap) -> Option<Affinity> {
    let Payload::Json(body) = &request.payload else {
        return None;
    };
    // By name, not by key: a key that is rotated finds its conversations again.
    let name = principal.key_name().or_else(|| principal.username());
    let caller = [principal.kind(), name.as_deref().unwrap_or_default()];
    let session = headers.get("x-session-affinity").map(HeaderValue::as_bytes);
    Affinity::of(caller, session, request.endpoint, body)
}

/// What a body says of its call.
struct Said {
    payload: Payload,
    model: Option<String>,
    stream: bool,
    asked: Asked,
}

fn parse_json(endpoint: Endpoint, body: Bytes, is_admin: bool) -> Result<Said, Error> {
    let object = Object::parse(body).map_err(|cause| {
        Error::new(
            Code::InvalidRequest,
            "the request body is not a JSON object",
        )
        .because(place(&cause))
    })?;
    check_members(endpoint, &object, is_admin)?;
    let model = match object.present("model") {
        None => None,
        Some(_) => Some(
            object
                .string("model")
                .ok_or_else(|| wrong_type("model", "a string"))?,
        ),
    };
    let stream = flag(object.present("stream"), "stream")?.unwrap_or(false) && endpoint.streams();
    let asked = asked(endpoint, &object)?;
    check_needed(endpoint, &object)?;
    Ok(Said {
        payload: Payload::Json(object),
        model,
        stream,
        asked,
    })
}

fn check_members(endpoint: Endpoint, object: &Object, is_admin: bool) -> Result<(), Error> {
    for name in ACTED_ON.into_iter().chain(DECISIVE) {
        if object.repeats(name) {
            // No digits in texts.
            let message = if name.contains(|c: char| c.is_ascii_digit()) {
                "a field stands twice in the request; param names it".to_owned()
            } else {
                format!("the field {name} stands twice in the request")
            };
            return Err(Error::new(Code::InvalidRequest, message).param(name));
        }
    }
    if !is_admin
        && let Some(name) = ADMIN_MEMBERS
            .into_iter()
            .find(|name| object.present(name).is_some())
    {
        let message = format!("the field {name} needs an admin key");
        return Err(Error::new(Code::AdminRequired, message).param(name));
    }
    for &name in endpoint.output_limits().iter().chain(&["n"]) {
        if object
            .present(name)
            .is_some_and(|value| serde_json::from_str::<serde_json::Number>(value).is_err())
        {
            return Err(wrong_type(name, "a number"));
        }
    }
    if endpoint == Endpoint::Responses {
        if flag(object.present("background"), "background")? == Some(true) {
            return Err(Error::new(
                Code::InvalidRequest,
                "background responses are not kept by this gateway; leave background out",
            )
            .param("background"));
        }
        if object.present("previous_response_id").is_some() {
            return Err(Error::new(
                Code::InvalidRequest,
                "responses are not stored by this gateway; send the whole conversation as input",
            )
            .param("previous_response_id"));
        }
        flag(object.present("store"), "store")?;
    }
    Ok(())
}

fn check_needed(endpoint: Endpoint, object: &Object) -> Result<(), Error> {
    let wanted = needed(endpoint);
    if let [first, ..] = wanted
        && wanted.iter().all(|name| object.present(name).is_none())
    {
        let message = format!("the request lacks the field {first}");
        return Err(Error::new(Code::InvalidRequest, message).param(first));
    }
    if object
        .present("messages")
        .is_some_and(|messages| !messages.starts_with('['))
    {
        return Err(wrong_type("messages", "a list"));
    }
    Ok(())
}

/// The members of which a route needs one. What else it needs, the upstream says in its own words.
const fn needed(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::CountTokens => &["messages"],
        Endpoint::Completions => &["prompt", "prompt_embeds"],
        Endpoint::Embeddings => &["input", "messages"],
        Endpoint::Responses => &["input"],
        _ => &[],
    }
}

/// What the client asked of the stream itself.
fn asked(endpoint: Endpoint, object: &Object) -> Result<Asked, Error> {
    let choices_per_prompt = match endpoint {
        Endpoint::Completions => object
            .present("n")
            .and_then(|n| n.parse().ok())
            .unwrap_or(1),
        _ => u64::MAX,
    };
    let Some(options) = object.present("stream_options") else {
        return Ok(Asked {
            choices_per_prompt,
            ..Asked::default()
        });
    };
    let options = Object::parse(Bytes::copy_from_slice(options.as_bytes()))
        .map_err(|_| wrong_type("stream_options", "an object"))?;
    if ["include_usage", "continuous_usage_stats"]
        .iter()
        .any(|name| options.repeats(name))
    {
        return Err(Error::new(
            Code::InvalidRequest,
            "a member of stream_options stands twice in the request",
        )
        .param("stream_options"));
    }
    let usage = flag(options.present("include_usage"), "stream_options")?.unwrap_or(false);
    let continuous =
        flag(options.present("continuous_usage_stats"), "stream_options")?.unwrap_or(false);
    Ok(Asked {
        usage,
        continuous: usage && continuous,
        choices_per_prompt,
    })
}

fn flag(value: Option<&str>, name: &'static str) -> Result<Option<bool>, Error> {
    match value {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(wrong_type(name, "true or false")),
    }
}

fn wrong_type(name: &'static str, wanted: &str) -> Error {
    Error::new(
        Code::InvalidRequest,
        format!("the field {name} has the wrong type: it must be {wanted}"),
    )
    .param(name)
}

fn parse_form(headers: &HeaderMap, body: Bytes) -> Result<Said, Error> {
    let boundary = headers
        .get(CONTENT_TYPE)
        .and_then(|value| form::boundary(value.to_str().ok()?))
        .ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                "the content type names no boundary between the parts of the form",
            )
        })?;
    let [model, stream] =
        form::fields(&body, &boundary, ["model", "stream"]).map_err(refused_form)?;
    let stream = stream.is_some_and(|value| matches!(value.as_str(), "true" | "True" | "1"));
    Ok(Said {
        payload: Payload::Form(body),
        model,
        stream,
        asked: Asked::default(),
    })
}

fn refused_form(fault: form::Fault) -> Error {
    let refuse = |message| Error::new(Code::InvalidRequest, message);
    match fault {
        form::Fault::Twice(name) => {
            refuse(format!("the field {name} stands twice in the form")).param(name)
        }
        form::Fault::NoWord(name) => {
            refuse(format!("the field {name} of the form must be a short text")).param(name)
        }
        form::Fault::TooManyParts => {
            refuse("the form has more parts than this gateway takes".to_owned())
        }
        form::Fault::Malformed => refuse("the body is not a well-formed multipart form".to_owned()),
    }
}

/// Words for the log: where JSON breaks, not what it says.
fn place(error: &serde_json::Error) -> String {
    format!(
        "JSON {:?} error at line {} column {}",
        error.classify(),
        error.line(),
        error.column()
    )
}

/// The product of a user-agent: what stands before the first slash or space.
pub fn product(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(http::header::USER_AGENT)?.to_str().ok()?;
    let product = agent
        .split(['/', ' '])
        .next()
        .filter(|product| !product.is_empty())?;
    Some(product.to_owned())
}

/// An id of the caller's own: the first that can be kept.
pub fn client_request_id(headers: &HeaderMap) -> Option<String> {
    ["x-client-request-id", "x-request-id"]
        .into_iter()
        .filter_map(|name| headers.get(name)?.to_str().ok())
        .find(|id| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
        .map(str::to_owned)
}

/// The id of the trace that the request belongs to, by W3C's header or Google's older one.
pub fn trace(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let id = match text("traceparent") {
        Some(parent) => parent.split('-').nth(1)?,
        None => text("x-cloud-trace-context")?.split('/').next()?,
    };
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_cannot_be_kept_hides_no_other() {
        let id = |mine: &str, other: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-client-request-id", mine.parse().expect("a value"));
            headers.insert("x-request-id", other.parse().expect("a value"));
            client_request_id(&headers)
        };
        assert_eq!(id("mine", "other").as_deref(), Some("mine"));
        assert_eq!(id("two words", "other").as_deref(), Some("other"));
        assert_eq!(id("", "other").as_deref(), Some("other"));
        assert_eq!(id("a/b", &"a".repeat(65)), None);
    }
}
