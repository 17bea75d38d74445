//! A gateway at a URL, as its clients see it: the address, the key, bounded answers. Judges nothing;
//! what an answer means is the business of `remedy`. Goes there directly, never through a proxy of
//! the environment.

pub mod models;
pub mod remedy;
mod trouble;

pub use trouble::Trouble;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use reqwest::Url;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::secret::Secret;

/// Longest answer that is read; what lies beyond is left.
const ANSWER_BYTES: usize = 4 << 20;
/// Longest text of an answer that is repeated, in characters.
const ECHO_CHARS: usize = 400;
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A gateway, or what may be one.
pub struct Remote {
    http: reqwest::Client,
    base: Url,
    key: Option<Secret<String>>,
    /// The header that carries the key.
    carrier: HeaderName,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer whose body is still to come.
pub struct Opened {
    pub status: u16,
    pub headers: HeaderMap,
    body: reqwest::Body,
}

/// A base URL as people write it: with or without `/v1` and trailing slashes.
///
/// # Errors
/// What is wrong, in words that repeat no credentials.
pub fn parse_base(text: &str) -> Result<Url, String> {
    const RIGHT: &str =
        "is no address such as http://127.0.0.1:8000 or https://tollgate-abc.run.app";
    let text = text.trim();
    if !text.contains("://") {
        let is_plain = text.chars().all(|c| c.is_ascii_graphic() && c != '@');
        let named = if is_plain && !text.is_empty() {
            text
        } else {
            "HOST"
        };
        return Err(format!(
            "has no scheme; write http://{named} or https://{named}"
        ));
    }
    let mut url = Url::parse(text).map_err(|_| RIGHT.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(RIGHT.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; an address has none, the key is given apart".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment; an address has neither".to_owned());
    }
    let mut path = url.path().trim_end_matches('/');
    while let Some(rest) = path.strip_suffix("/v1") {
        path = rest.trim_end_matches('/');
    }
    let path = path.to_owned();
    url.set_path(&path);
    Ok(url)
}

impl Remote {
    /// The key goes into `Authorization`, as OpenCode and the SDKs send it.
    ///
    /// # Errors
    /// The key is one that no header can carry.
    pub fn new(base: Url, key: Option<Secret<String>>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .no_proxy()
            .referer(false)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        if let Some(key) = &key
            && !key.expose().bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(super::refuse(
                "the key holds blanks or characters that no header can carry; is all of it the key?",
            ));
        }
        Ok(Self {
            http,
            base,
            key,
            carrier: AUTHORIZATION,
        })
    }

    /// From now on the key goes into `X-API-Key` alone.
    pub fn use_x_api_key(&mut self) {
        self.carrier = X_API_KEY;
    }

    /// From now on the key goes into `Authorization` alone.
    pub fn use_bearer(&mut self) {
        self.carrier = AUTHORIZATION;
    }

    pub const fn has_key(&self) -> bool {
        self.key.is_some()
    }

    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// The base without its trailing slash.
    pub fn shown_base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// # Errors
    /// No whole answer within `limit`.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<Answer, Trouble> {
        self.exchange((Method::GET, path), None, limit).await
    }

    /// # Errors
    /// As [`Remote::get`].
    pub async fn post(&self, path: &str, body: &Value, limit: Duration) -> Result<Answer, Trouble> {
        self.exchange((Method::POST, path), Some(body), limit).await
    }

    /// Sends a call and reads the head of its answer.
    ///
    /// # Errors
    /// No head by the deadline.
    pub async fn open(
        &self,
        (method, path): (Method, &str),
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<Opened, Trouble> {
        let url = format!("{}{path}", self.shown_base());
        let mut request = self.http.request(method, url).headers(self.headers());
        if let Some(body) = body {
            request = request
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let answer = timeout_at(deadline, request.send()).await;
        let answer = answer.map_err(|_| Trouble::TimedOut)?;
        let answer = answer.map_err(|error| Trouble::of(&error, self.base.scheme() == "https"))?;
        let (head, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        Ok(Opened {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    /// A text that came from outside as it may be shown: short, on one line, without the key.
    pub fn clean(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.expose().as_str(), "***"),
            None => text.to_owned(),
        };
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shown: String = words
            .chars()
            .filter(|c| !c.is_control())
            .take(ECHO_CHARS)
            .collect();
        if words.chars().count() > ECHO_CHARS {
            shown.push('…');
        }
        shown
    }

    async fn exchange(
        &self,
        call: (Method, &str),
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + limit;
        let opened = self.open(call, body, deadline).await?;
        opened.read(deadline).await
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(key) = &self.key else {
            return headers;
        };
        let value = if self.carrier == AUTHORIZATION {
            format!("Bearer {}", key.expose())
        } else {
            key.expose().clone()
        };
        // The constructor has judged the key.
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            headers.insert(self.carrier.clone(), value);
        }
        headers
    }
}

impl Opened {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came by the deadline.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, Trouble> {
        loop {
            let frame = timeout_at(deadline, self.body.frame()).await;
            match frame.map_err(|_| Trouble::TimedOut)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Trouble::of(&error, false)),
                // Trailers are no data.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// As [`Opened::next`].
    pub async fn read(mut self, deadline: Instant) -> Result<Answer, Trouble> {
        let mut body = BytesMut::new();
        while body.len() < ANSWER_BYTES
            && let Some(data) = self.next(deadline).await?
        {
            body.extend_from_slice(&data[..data.len().min(ANSWER_BYTES - body.len())]);
        }
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body: body.freeze(),
        })
    }
}

impl Answer {
    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gateway_has_one_address() {
        for spelling in [
            "http://h:8000",
            "http://h:8000/",
            "http://h:8000/v1",
            "http://h:8000/v1/",
            "http://h:8000/v1//v1",
            " HTTP://H:8000 ",
        ] {
            let base = parse_base(spelling).unwrap();
            assert_eq!(base.as_str(), "http://h:8000/", "{spelling}");
        }
        let behind = parse_base("https://h/llm/v1").unwrap();
        assert_eq!(behind.as_str(), "https://h/llm");
    }

    #[test]
    fn what_is_no_address_is_told_without_its_credentials() {
        for (wrong, word) in [
            ("localhost:8000", "http://localhost:8000"),
            ("tollgate-abc.run.app/v1", "https://tollgate-abc.run.app/v1"),
            ("u:hidden@h:1", "http://HOST"),
            ("", "http://HOST"),
            ("ftp://h", "no address"),
            ("http://", "no address"),
            ("http://u:hidden@h", "credentials"),
            ("http://h?key=hidden", "query"),
        ] {
            let told = parse_base(wrong).unwrap_err();
            assert!(told.contains(word), "{wrong}: {told}");
            assert!(!told.contains("hidden"), "{told}");
        }
    }

    #[test]
    fn what_is_shown_is_one_line_without_the_key() {
        let key = Secret::new("sk-hidden-0123456789".to_owned());
        let remote = Remote::new(parse_base("http://h").unwrap(), Some(key)).unwrap();
        let shown = remote.clean("no\n \x1b[31msuch key: sk-hidden-0123456789");
        assert_eq!(shown, "no [31msuch key: ***");
        assert_eq!(remote.clean(&"x".repeat(500)).chars().count(), 401);
    }
}
