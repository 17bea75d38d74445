//! Cross-origin requests, for applications in a browser. Credentials are never allowed: keys
//! travel in headers that the page sets itself.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Response, StatusCode};

use super::body::{Answer, full};

/// What pages may send; what a page asks for besides is allowed too.
const HEADERS: &str = "authorization, x-api-key, content-type";
/// What pages may read.
const EXPOSED: &str = "x-request-id, x-client-request-id, retry-after, x-ratelimit-limit-requests, \
    x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
    x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

/// The origins that may call.
pub struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Cors {
    #[must_use]
    pub fn new(origins: &[String]) -> Self {
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            origins: origins.to_vec(),
        }
    }

    /// Marks an answer for the page that asked.
    pub fn mark(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        let Some(origin) = self.allow(origin) else {
            return;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
        if !self.any {
            answer.append(VARY, HeaderValue::from_static("origin"));
        }
    }

    /// Answers `OPTIONS`: a preflight, or the question which methods there are.
    pub fn preflight(&self, request: &HeaderMap, allow: &'static str) -> Answer {
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(allow));
        if request
            .get(ORIGIN)
            .and_then(|origin| self.allow(origin))
            .is_some()
        {
            headers.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static(allow),
            );
            let asked = request
                .get(ACCESS_CONTROL_REQUEST_HEADERS)
                .and_then(|value| value.to_str().ok());
            let named = match asked {
                Some(asked) if !asked.is_empty() => format!("{HEADERS}, {asked}"),
                _ => HEADERS.to_owned(),
            };
            if let Ok(value) = HeaderValue::try_from(named) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, value);
            }
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        answer
    }

    fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let sent = origin.to_str().ok()?;
        self.origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(sent))
            .then(|| origin.clone())
    }
}
