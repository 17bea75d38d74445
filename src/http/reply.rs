//! The sole mapping of errors to HTTP: status, headers, and the error object in the dialect of the
//! route. Also the small JSON answers.

use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body::Body as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{Answer, full};
use crate::error::{Code, Error};
use crate::upstream::Api;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The status of a code.
#[must_use]
pub const fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidRequest | Code::ContextLengthExceeded | Code::UsernameTaken => {
            StatusCode::BAD_REQUEST
        }
        Code::MissingApiKey
        | Code::InvalidApiKey
        | Code::InvalidToken
        | Code::InvalidCredentials => StatusCode::UNAUTHORIZED,
        Code::ModelNotAllowed
        | Code::AdminRequired
        | Code::RegistrationClosed
        | Code::UserDisabled => StatusCode::FORBIDDEN,
        Code::NotFound | Code::ModelNotFound | Code::AccountsDisabled => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::RateLimitExceeded | Code::TokenLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::UpstreamUnreachable | Code::UpstreamError | Code::ReloadFailed => {
            StatusCode::BAD_GATEWAY
        }
        Code::UpstreamStarting
        | Code::WakeNotAllowed
        | Code::Overloaded
        | Code::NotReady
        | Code::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The status of an error: its code's, unless an upstream's was kept.
#[must_use]
pub fn status_of(error: &Error) -> StatusCode {
    error
        .kept_status()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(status(error.code()))
}

/// OpenAI's name for the class of an error.
const fn kind(code: Code, status: StatusCode) -> &'static str {
    if matches!(code, Code::TokenLimitExceeded) {
        return "insufficient_quota";
    }
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// Anthropic's name for the class of an error.
const fn anthropic_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// An error as an answer.
#[must_use]
pub fn error(error: &Error, api: Api) -> Answer {
    let status = status_of(error);
    let object = match api {
        Api::Messages => json!({"type": "error", "error": anthropic(error, status)}),
        _ => json!({"error": openai(error, status, &Value::from(error.code().as_str()))}),
    };
    let mut answer = json(status, &object);
    let headers = answer.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(
        error.code(),
        Code::TokenLimitExceeded | Code::WakeNotAllowed
    ) {
        // No wait helps. OpenCode tries again all the same, and takes its pauses from here.
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from_static("1"));
    }
    if let Some(wait) = error.wait() {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    answer
}

/// Makes an answer one to `HEAD`: the length stays, the bytes go.
pub fn keep_head(answer: &mut Answer) {
    if let Some(length) = answer.body().size_hint().exact() {
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *answer.body_mut() = full("");
}

/// An error inside a stream that has begun. The code is the number that makes clients try again
/// where that helps, and the word where it does not.
#[must_use]
pub fn error_event(error: &Error, api: Api) -> String {
    let status = status_of(error);
    let code = if status.is_server_error() {
        Value::from(status.as_u16())
    } else {
        Value::from(error.code().as_str())
    };
    match api {
        Api::Messages => {
            let object = json!({"type": "error", "error": anthropic(error, status)});
            format!("event: error\ndata: {object}\n\n")
        }
        Api::Responses => {
            let object = json!({"type": "error", "code": error.code().as_str(), "message": error.message(), "param": error.field(), "sequence_number": 0});
            format!("event: error\ndata: {object}\n\n")
        }
        Api::Choices | Api::Opaque => format!(
            "data: {}\n\n",
            json!({"error": openai(error, status, &code)})
        ),
    }
}

/// An upstream's refusal, whose body holds an error object, inside a stream that has begun.
#[must_use]
pub fn refusal_event(body: &[u8], api: Api) -> String {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &object["error"];
    match api {
        Api::Messages => {
            let object = json!({"type": "error", "error": {"type": error["type"], "message": error["message"]}});
            format!("event: error\ndata: {object}\n\n")
        }
        Api::Responses => {
            let object = json!({"type": "error", "code": error["code"], "message": error["message"], "param": error["param"], "sequence_number": 0});
            format!("event: error\ndata: {object}\n\n")
        }
        Api::Choices | Api::Opaque => format!("data: {object}\n\n"),
    }
}

fn openai(error: &Error, status: StatusCode, code: &Value) -> Value {
    json!({"message": error.message(), "type": kind(error.code(), status), "param": error.field(), "code": code})
}

fn anthropic(error: &Error, status: StatusCode) -> Value {
    // `code` is ours: Anthropic has no word for most of what a gateway refuses.
    json!({"type": anthropic_kind(status), "message": error.message(), "code": error.code().as_str()})
}

/// A JSON answer, which nobody may cache.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).unwrap_or_default();
    with_type(status, "application/json", text)
}

/// An answer of a given content type.
#[must_use]
pub fn with_type(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<bytes::Bytes>,
) -> Answer {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Headers that keep an event stream flowing through proxies.
pub fn mark_stream(headers: &mut http::HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
}
