//! Failures of an upstream, and answers that are refusals: which class each belongs to, and what
//! the client gets for it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::reason::Reason;
use super::request::Request;
use super::stream::Api;
use crate::error::{Code, Error};

/// The type of vLLM's errors that are about the request's own JSON.
const SCHEMA_ERROR: &str = "Bad Request";
/// What vLLM says while it drains, and nothing else.
const DRAINING: &str = "cannot schedule new futures after shutdown";

/// An upstream's refusal in the form the client gets it.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The upstream's own `code` or `type`, for the row.
    pub code: String,
}

/// An answer that is no success, as it came.
#[derive(Clone)]
pub struct Rejected {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What the operator may do about it, for the log.
    pub advice: Option<String>,
}

/// Nothing listens there (yet): the only failures that starting can explain.
pub fn is_refused(error: &reqwest::Error) -> bool {
    if !error.is_connect() {
        return false;
    }
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            use io::ErrorKind::{
                ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut,
            };
            return matches!(
                io.kind(),
                ConnectionRefused
                    | ConnectionReset
                    | ConnectionAborted
                    | HostUnreachable
                    | TimedOut
            );
        }
        next = cause.source();
    }
    error.is_timeout()
}

/// The connection closed before an answer began.
pub fn is_closed(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>()
            && hyper.is_incomplete_message()
        {
            return true;
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionReset};
            return matches!(io.kind(), BrokenPipe | ConnectionReset);
        }
        next = cause.source();
    }
    false
}

impl Rejected {
    /// An answer to a question of ours.
    pub fn new(status: StatusCode, body: Bytes) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body,
            advice: None,
        }
    }

    /// A server that still loads its model, as llama.cpp says it. vLLM's own 503 is a full queue.
    pub fn is_loading(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && Reason::read(&self.body).is_some_and(|reason| reason.has_word("loading"))
    }

    /// Not the server speaks, but what stands before it: Cloud Run's front end, which has no
    /// instance to give the call to.
    pub fn is_front_end(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 503) && !is_json(&self.body)
    }

    /// Google's front end names itself.
    pub fn is_google(&self) -> bool {
        let server = self.headers.get(http::header::SERVER);
        server.is_some_and(|server| server == "Google Frontend")
    }

    /// vLLM finishes what it has and takes nothing new: nothing was generated.
    pub fn is_draining(&self) -> bool {
        self.status == StatusCode::INTERNAL_SERVER_ERROR
            && Reason::read(&self.body).is_some_and(|reason| reason.text == DRAINING)
    }

    /// Whether the engine may have worked on the call. vLLM refuses a call before it begins, but for
    /// one: a whole answer that turns out not to have the form that was asked for is 400, too. The
    /// head of its streams comes before anything is generated, so its own error in place of one is
    /// early; what a proxy says is not its own.
    pub fn may_be_late(&self, request: &Request, is_vllm: bool) -> bool {
        let status = self.status;
        if request.stream && is_vllm && status == StatusCode::INTERNAL_SERVER_ERROR {
            return false;
        }
        if !matches!(status.as_u16(), 400 | 422) {
            let is_refusal = status.is_redirection()
                || status.is_client_error()
                || matches!(status.as_u16(), 501 | 503);
            return !is_refusal;
        }
        let names_its_cause = serde_json::from_slice(&self.body).is_ok_and(|body: Value| {
            let error = &body["error"];
            error["param"].is_string() || error["type"] == SCHEMA_ERROR
        });
        request.asks_for_a_form() && self.too_long().is_none() && !names_its_cause
    }

    /// The upstream's own words, if it gave any.
    pub fn reason(&self) -> Option<Reason> {
        let kind = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let is_text = kind.is_some_and(|kind| kind.trim_start().starts_with("text/plain"));
        Reason::read(&self.body).or_else(|| is_text.then(|| Reason::plain(&self.body)).flatten())
    }

    /// An answer that is no success: passed on verbatim where clients can read it, in our shape
    /// where it gives a reason in another, else wrapped.
    ///
    /// # Errors
    /// What the client gets instead of the upstream's own words.
    pub fn refuse(self, api: Api) -> Result<Refusal, Error> {
        let reason = self.reason();
        let Self {
            status,
            headers,
            body,
            advice,
        } = self;
        if let Some(reason) = reason
            .as_ref()
            .filter(|reason| is_for_clients(status, reason))
        {
            let mut kept = json_headers();
            if let Some(wait) = headers.get(RETRY_AFTER) {
                kept.insert(RETRY_AFTER, wait.clone());
            }
            return Ok(Refusal {
                status,
                headers: kept,
                body: if reason.is_readable {
                    body
                } else {
                    reason.to_body(status, api)
                },
                code: (reason.code.clone()).unwrap_or_else(|| status.as_str().to_owned()),
            });
        }
        let mut cause = summary(status, &headers, &body);
        if let Some(advice) = advice {
            cause = format!("{cause}; {advice}");
        }
        Err(wrap(status, &headers, is_json(&body)).because(cause))
    }
}

/// Whether the caller is told in the upstream's own words. A route that is not there is our
/// matter, a model that is not there the caller's.
fn is_for_clients(status: StatusCode, reason: &Reason) -> bool {
    match status.as_u16() {
        400 | 413 | 422 | 429 => true,
        404 => reason.is_readable || reason.has_word("model"),
        _ => false,
    }
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|body: Value| body.is_object())
}

fn wrap(status: StatusCode, headers: &HeaderMap, is_json: bool) -> Error {
    match status.as_u16() {
        401 | 403 => Error::new(
            Code::UpstreamError,
            "the model server refused the gateway's own credential; this is for its operator to mend, not for the caller",
        ),
        300..=399 => Error::new(
            Code::UpstreamError,
            "the model server answered with a redirect, which is not followed; its operator should check VLLM_ENDPOINT",
        ),
        503 if is_json => Error::new(
            Code::Overloaded,
            "the model server has no room in its queue; try again in a moment",
        )
        .retry_after(retry_after(headers).unwrap_or(Duration::from_secs(2))),
        404 => Error::new(Code::NotFound, "the model server does not serve this route"),
        status @ 400..=499 => {
            let code = match status {
                405 => Code::MethodNotAllowed,
                408 => Code::RequestTimeout,
                413 => Code::BodyTooLarge,
                415 => Code::UnsupportedMediaType,
                429 => Code::RateLimitExceeded,
                _ => Code::InvalidRequest,
            };
            let error = Error::new(
                code,
                "the model server refused the request and gave no reason that can be shown",
            )
            .status(status);
            match retry_after(headers) {
                Some(wait) => error.retry_after(wait),
                None => error,
            }
        }
        _ => Error::new(
            Code::UpstreamError,
            "the model server failed with an internal error",
        ),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// For the log. Not the text: upstreams quote prompts in their errors.
fn summary(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("no content type");
    let code = Reason::read(body)
        .and_then(|reason| reason.code)
        .unwrap_or_default();
    format!(
        "upstream answered {status} {code} ({kind}, {} bytes)",
        body.len()
    )
}

pub(super) fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(status: u16, body: &str) -> Rejected {
        Rejected {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            advice: None,
        }
    }

    #[test]
    fn what_starts_drains_or_stands_before_the_server_is_told_from_its_own_refusals() {
        let llama =
            r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        let hub = r#"{"error":"Model m is currently loading","estimated_time":20.0}"#;
        let full = r#"{"error":{"message":"The engine is overloaded, overloading it ends","type":"ServiceUnavailableError","code":503}}"#;
        let draining = r#"{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError","param":null,"code":500}}"#;
        let quoted = r#"{"error":{"message":"no such word: cannot schedule new futures after shutdown","code":500}}"#;
        let html = "<html><title>503 Service Unavailable</title> loading</html>";
        // Status, body; loading, front end, draining.
        let cases = [
            (503, llama, [true, false, false]),
            (503, hub, [true, false, false]),
            (500, llama, [false; 3]),
            (429, llama, [false; 3]),
            (503, full, [false; 3]),
            (503, html, [false, true, false]),
            (503, "", [false, true, false]),
            (429, "Rate exceeded.", [false, true, false]),
            (429, "\"Rate exceeded.\"", [false, true, false]),
            (429, r#"{"error":"overloaded"}"#, [false; 3]),
            (500, html, [false; 3]),
            (502, html, [false; 3]),
            (500, draining, [false, false, true]),
            (503, draining, [false; 3]),
            (500, quoted, [false; 3]),
        ];
        for (status, body, expected) in cases {
            let it = rejected(status, body);
            let seen = [it.is_loading(), it.is_front_end(), it.is_draining()];
            assert_eq!(seen, expected, "{status} {body}");
        }
    }
}
