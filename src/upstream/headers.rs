//! Which headers cross the gateway: an allow list towards the upstream, a deny list back. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The headers of the upstream request: what a model server needs and nothing that identifies the
/// caller, steers the scheduler, or asks for compression.
pub fn outgoing(client: &HeaderMap, request_id: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for name in [
        header::CONTENT_TYPE,
        header::ACCEPT,
        header::USER_AGENT,
        TRACEPARENT,
    ] {
        if let Some(value) = client.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in client {
        if name.as_str().starts_with("anthropic-") {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(REQUEST_ID, request_id.clone());
    headers
}

/// Takes out of an upstream's answer what is between it and the gateway, or the gateway's to say.
pub fn clean_incoming(headers: &mut HeaderMap) {
    const NEVER: [HeaderName; 19] = [
        header::SET_COOKIE,
        header::SERVER,
        header::LOCATION,
        header::WWW_AUTHENTICATE,
        header::ALT_SVC,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::PROXY_AUTHENTICATE,
        header::DATE,
        header::VARY,
        header::STRICT_TRANSPORT_SECURITY,
        REQUEST_ID,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("x-client-request-id"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("x-should-retry"),
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in NEVER.iter().chain(&named) {
        headers.remove(name);
    }
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_headers_go_upstream() {
        let mut client = HeaderMap::new();
        for name in [
            "content-type",
            "accept",
            "user-agent",
            "traceparent",
            "anthropic-version",
            "anthropic-beta",
            "accept-encoding",
            "cookie",
            "authorization",
            "x-api-key",
            "x-forwarded-for",
            "x-goog-iap",
            "x-request-id",
            "x-session-id",
            "x-data-parallel-rank",
            "host",
            "content-length",
            "connection",
            "x-serverless-authorization",
            "origin",
        ] {
            client.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static("client"),
            );
        }
        let sent = outgoing(&client, &HeaderValue::from_static("id"));
        let mut names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "anthropic-beta",
            "anthropic-version",
            "content-type",
            "traceparent",
            "user-agent",
            "x-request-id",
        ];
        assert_eq!(names, expected);
        assert_eq!(sent["x-request-id"], "id");
    }

    #[test]
    fn listed_headers_do_not_come_back() {
        let mut answer = HeaderMap::new();
        for name in [
            "set-cookie",
            "server",
            "location",
            "alt-svc",
            "x-secret-hop",
            "content-type",
            "access-control-allow-origin",
            "openai-processing-ms",
        ] {
            answer.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        answer.insert(
            "connection",
            HeaderValue::from_static("close, X-Secret-Hop"),
        );
        clean_incoming(&mut answer);
        let mut names: Vec<&str> = answer.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "openai-processing-ms"]);
    }
}
