//! What every refusal of the gateway must look like, whatever it is about.

use http::HeaderMap;
use serde_json::Value;

use super::fakes::wire::Reply;

/// Words that clients take for an invitation to come again.
const INVITATIONS: [&str; 8] = [
    "try again",
    "retry",
    "later",
    "in a moment",
    "rate limit",
    "too many requests",
    "overloaded",
    "unavailable",
];

/// A refusal in OpenAI's shape; returns its text.
pub fn refusal(reply: &Reply, status: u16, code: &str) -> String {
    let shown = format!("{} {}", reply.status, reply.text());
    assert_eq!(reply.status, status, "{shown}");
    let error = &reply.json()["error"];
    let mut members: Vec<&str> = error
        .as_object()
        .unwrap_or_else(|| panic!("{shown}"))
        .keys()
        .map(String::as_str)
        .collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "type"], "{shown}");
    assert_eq!(error["code"], code, "{shown}");
    assert!(error["type"].is_string(), "{shown}");
    assert!(
        error["param"].is_null() || error["param"].is_string(),
        "{shown}"
    );
    common(reply, error)
}

/// A refusal in Anthropic's shape; returns its text.
pub fn anthropic_refusal(reply: &Reply, status: u16, kind: &str) -> String {
    let shown = format!("{} {}", reply.status, reply.text());
    assert_eq!(reply.status, status, "{shown}");
    let body = reply.json();
    assert_eq!(body["type"], "error", "{shown}");
    assert_eq!(body["error"]["type"], kind, "{shown}");
    common(reply, &body["error"])
}

fn common(reply: &Reply, error: &Value) -> String {
    let shown = format!("{} {}", reply.status, reply.text());
    assert!(reply.complete, "{shown}");
    assert_eq!(reply.header("content-type"), "application/json", "{shown}");
    request_id(&reply.headers);
    let expected = if reply.status == 401 { "Bearer" } else { "" };
    assert_eq!(reply.header("www-authenticate"), expected, "{shown}");
    let text = error["message"]
        .as_str()
        .unwrap_or_else(|| panic!("{shown}"));
    let status = reply.status;
    assert!(!text.contains(|c: char| c.is_ascii_digit()), "{shown}");
    if !matches!(status, 429 | 503 | 504) {
        let lower = text.to_ascii_lowercase();
        let found = INVITATIONS.iter().find(|words| lower.contains(*words));
        assert_eq!(found, None, "{shown}");
    }
    text.to_owned()
}

/// The one `x-request-id`, which is a `UUIDv7`.
pub fn request_id(headers: &HeaderMap) -> uuid::Uuid {
    let mut ids = headers.get_all("x-request-id").iter();
    let id = ids.next().expect("a request id").to_str().expect("text");
    assert!(ids.next().is_none(), "one request id: {headers:?}");
    let id: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(id.get_version_num(), 7, "{id}");
    id
}
