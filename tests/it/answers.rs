//! What the model server answers and what the client then gets: verbatim, wrapped, or made the
//! gateway's own; and which headers cross.

use serde_json::{Value, json};

use super::expect::{anthropic_refusal, refusal, request_id};
use super::fakes::model_server::{Answer, Behaviour, Fault, ModelServer, Settings};
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn ask() -> Value {
    json!({"max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]})
}

/// An error object whose text a client may read.
fn words(code: u16) -> String {
    json!({"error": {"message": "These words are 100 % the model server's", "type": "Own", "param": null, "code": code}, "more": [1]}).to_string()
}

/// Headers of an upstream that are no business of the client.
fn chatty(answer: Answer) -> Answer {
    answer
        .header("set-cookie", "a=b")
        .header("server", "uvicorn")
        .header("location", "http://elsewhere.example/")
        .header("www-authenticate", "Basic")
        .header("alt-svc", "h3=\":443\"")
        .header("x-request-id", "upstream-1")
        .header("access-control-allow-origin", "*")
        .header("x-should-retry", "true")
}

const SECRET_HEADERS: [&str; 7] = [
    "set-cookie",
    "server",
    "location",
    "alt-svc",
    "access-control-allow-origin",
    "x-should-retry",
    "x-client-request-id",
];

#[tokio::test]
async fn refusals_that_clients_can_use_pass_verbatim() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let mut count = 0;
    for stream in [false, true] {
        for status in [400, 404, 413, 422, 429] {
            let body = words(status);
            let answer = chatty(Answer::json(status, &body)).header("retry-after", "7");
            server.next(Behaviour::answer(answer));
            let mut asked = ask();
            asked["stream"] = stream.into();
            let reply = gate.post(CHAT, &asked).await;
            assert_eq!((reply.status, reply.text()), (status, body));
            assert_eq!(reply.header("content-type"), "application/json");
            assert_eq!(reply.header("retry-after"), "7");
            assert_eq!(reply.header("www-authenticate"), "");
            request_id(&reply.headers);
            for name in SECRET_HEADERS {
                assert_eq!(reply.header(name), "", "{name}");
            }
            count += 1;
            let rows = gate.rows(count).await;
            let row = &rows[count - 1];
            assert_eq!(row["status"], status);
            assert_eq!(row["error_code"], status.to_string());
            assert_eq!(row["completion_tokens"], 0);
        }
    }
    assert_eq!(gate.rows(count).await.len(), count);
}

/// An answer, the status and the code that the client gets for it, and its `Retry-After`.
type Case = (Answer, u16, &'static str, &'static str);

const HTML: &str = "<html><h1>502 Bad Gateway 429</h1></html>";

/// Answers that say nothing of the request.
fn failures() -> Vec<Case> {
    let location = |status| {
        Answer::json(status, words(status)).header("location", "http://elsewhere.example/v1")
    };
    vec![
        (Answer::json(401, words(401)), 502, "upstream_error", ""),
        (Answer::json(403, words(403)), 502, "upstream_error", ""),
        (Answer::empty(401), 502, "upstream_error", ""),
        (location(301), 502, "upstream_error", ""),
        (location(302), 502, "upstream_error", ""),
        (location(307), 502, "upstream_error", ""),
        (Answer::empty(308), 502, "upstream_error", ""),
        (Answer::json(500, words(500)), 502, "upstream_error", ""),
        (Answer::html(500, HTML), 502, "upstream_error", ""),
        (Answer::html(502, HTML), 502, "upstream_error", ""),
        (Answer::empty(504), 502, "upstream_error", ""),
        (Answer::empty(503), 502, "upstream_error", ""),
        (Answer::html(503, HTML), 502, "upstream_error", ""),
        (Answer::queue_full(), 503, "overloaded", "2"),
        (
            Answer::queue_full().header("retry-after", "11"),
            503,
            "overloaded",
            "11",
        ),
        (
            Answer::queue_full().header("retry-after", "soon"),
            503,
            "overloaded",
            "2",
        ),
    ]
}

/// Answers that refuse the request without words for the client.
fn refusals() -> Vec<Case> {
    vec![
        (Answer::html(400, HTML), 400, "invalid_request", ""),
        (Answer::empty(400), 400, "invalid_request", ""),
        (
            Answer::json(400, "{\"error\":{\"message\":7}}"),
            400,
            "invalid_request",
            "",
        ),
        (
            Answer::json(400, "{\"error\":\"words\"}"),
            400,
            "invalid_request",
            "",
        ),
        (Answer::json(400, "[1]"), 400, "invalid_request", ""),
        (
            Answer::json(422, "{\"detail\":[{\"loc\":[\"body\"]}]}"),
            422,
            "invalid_request",
            "",
        ),
        (
            Answer::json(404, "{\"detail\":\"Not Found\"}"),
            404,
            "not_found",
            "",
        ),
        (
            Answer::json(405, "{\"detail\":\"Method Not Allowed\"}"),
            405,
            "method_not_allowed",
            "",
        ),
        (Answer::json(409, words(409)), 409, "invalid_request", ""),
        (Answer::empty(408), 408, "request_timeout", ""),
        (Answer::html(413, HTML), 413, "body_too_large", ""),
        (
            Answer::json(415, words(415)),
            415,
            "unsupported_media_type",
            "",
        ),
        (
            Answer::html(429, HTML).header("retry-after", "9"),
            429,
            "rate_limit_exceeded",
            "9",
        ),
    ]
}

#[tokio::test]
async fn what_clients_cannot_use_is_wrapped() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let cases = [failures(), refusals()].concat();
    let count = cases.len();
    for (answer, status, code, retry_after) in cases {
        server.next(Behaviour::answer(chatty(answer.clone())));
        let reply = gate.post(CHAT, &ask()).await;
        let text = refusal(&reply, status, code);
        assert!(!text.contains("These words"), "{text}");
        assert_eq!(reply.header("retry-after"), retry_after, "{answer:?}");
        for name in SECRET_HEADERS {
            assert_eq!(reply.header(name), "", "{name}");
        }
    }
    let rows = gate.rows(count).await;
    assert_eq!(rows.len(), count);
    assert!(
        rows.iter()
            .all(|row| row["attempts"] == 1 && row["total_tokens"] == 0)
    );
    // A redirect is not followed: as many calls as there were.
    assert_eq!(server.model_calls().len(), count);
}

#[tokio::test]
async fn a_broken_connection_is_an_upstream_error() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    for stream in [false, true] {
        let mut asked = ask();
        asked["stream"] = stream.into();
        server.next(Behaviour::fault(Fault::HangUpBeforeHead));
        refusal(&gate.post(CHAT, &asked).await, 502, "upstream_error");
        server.next(Behaviour::fault(Fault::HangUpBeforeHead));
        anthropic_refusal(&gate.post(MESSAGES, &asked).await, 502, "api_error");
    }
    let rows = gate.rows(4).await;
    assert!(
        rows.iter()
            .all(|row| row["outcome"] == "upstream_error" && row["status"] == 502)
    );
    assert_eq!(server.model_calls().len(), 4, "nothing is sent twice");
}

#[tokio::test]
async fn messages_keep_their_own_dialect() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let own =
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no 5"}});
    server.next(Behaviour::answer(Answer::json(400, own.to_string())));
    let reply = gate.post(MESSAGES, &ask()).await;
    assert_eq!((reply.status, reply.json()), (400, own));
    let cases = [
        (Answer::json(401, words(401)), 502, "api_error"),
        (Answer::html(502, "<p>"), 502, "api_error"),
        (Answer::queue_full(), 503, "overloaded_error"),
        (Answer::empty(404), 404, "not_found_error"),
        (Answer::empty(413), 413, "request_too_large"),
        (Answer::empty(429), 429, "rate_limit_error"),
        (Answer::empty(418), 418, "invalid_request_error"),
    ];
    for (answer, status, kind) in cases {
        for path in [MESSAGES, "/v1/messages/count_tokens"] {
            server.next(Behaviour::answer(answer.clone()));
            anthropic_refusal(&gate.post(path, &ask()).await, status, kind);
        }
    }
}

#[tokio::test]
async fn a_prompt_over_the_context_is_named_in_both_dialects() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let text = "This model's maximum context length is 2048 tokens. However, your prompt has 5000 input tokens";
    let openai = json!({"error": {"message": text, "type": "BadRequestError", "param": "input_tokens", "code": 400}});
    let anthropic = json!({"type": "error", "error": {"message": text, "type": "BadRequestError"}});
    server.next(Behaviour::answer(Answer::json(400, openai.to_string())));
    let reply = gate.post(CHAT, &ask()).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    assert_eq!(reply.json()["error"]["message"], text);
    assert_eq!(reply.json()["type"], Value::Null);
    server.next(Behaviour::answer(Answer::json(400, anthropic.to_string())));
    let reply = gate.post(MESSAGES, &ask()).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(reply.json()["type"], "error");
    assert_eq!(reply.json()["error"]["message"], text);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
}

/// What a client may send.
const SENT: [(&str, &str); 18] = [
    ("content-type", "application/json"),
    ("accept", "application/json"),
    ("user-agent", "OpenAI/Python 1.2"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "a"),
    ("accept-encoding", "gzip"),
    ("cookie", "a=b"),
    ("x-goog-iap-jwt-assertion", "x"),
    ("x-forwarded-for", "10.0.0.1"),
    ("forwarded", "for=10.0.0.1"),
    ("x-data-parallel-rank", "1"),
    ("x-session-id", "x"),
    ("x-request-id", "mine-1"),
    ("x-serverless-authorization", "Bearer x"),
    ("openai-organization", "x"),
    ("origin", "http://page.example"),
    ("te", "trailers"),
];

#[tokio::test]
async fn only_listed_headers_cross() {
    let server = ModelServer::start(Settings::default()).await;
    let upstream_key = [("VLLM_API_KEY", "sk-of-the-upstream-0123456789")];
    let gate = Gate::with(&server.url(), &upstream_key).await;
    let body = ask().to_string();
    let reply = gate
        .ask(&format!("POST {CHAT}"), &SENT, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200);
    let id = request_id(&reply.headers).to_string();
    let call = server.call(&id).expect("the call has our id");
    let mut names: Vec<&str> = call.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "user-agent",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        call.header("authorization"),
        "Bearer sk-of-the-upstream-0123456789"
    );
    let body = json!({"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    let answer = chatty(Answer::json(200, body.to_string())).header("x-own", "kept");
    server.next(Behaviour::answer(answer));
    let reply = gate.post(CHAT, &ask()).await;
    assert_eq!(reply.json(), body);
    for name in SECRET_HEADERS.into_iter().chain(["www-authenticate"]) {
        assert_eq!(reply.header(name), "", "{name}");
    }
    request_id(&reply.headers);
}

#[tokio::test]
async fn a_callers_own_id_is_kept_if_it_is_one() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    let longest = "a".repeat(64);
    let cases = [
        ("x-request-id", "mine-1", "mine-1"),
        ("x-client-request-id", "A.b_c-9", "A.b_c-9"),
        ("x-client-request-id", &longest, &longest),
        ("x-client-request-id", &format!("{longest}a"), ""),
        ("x-client-request-id", "", ""),
        ("x-client-request-id", "two words", ""),
        ("x-client-request-id", "a/b", ""),
        ("x-client-request-id", "\u{e9}", ""),
    ];
    for (index, (name, value, kept)) in cases.into_iter().enumerate() {
        let headers = [("content-type", "application/json"), (name, value)];
        let body = ask().to_string();
        let reply = gate
            .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
            .await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-client-request-id"), kept);
        let rows = gate.rows(index + 1).await;
        let id = rows[index]["client_request_id"]
            .as_str()
            .unwrap_or_default();
        assert_eq!(id, kept);
        let refused = gate.ask("GET /nothing", &headers[1..], b"").await;
        refusal(&refused, 404, "not_found");
        assert_eq!(refused.header("x-client-request-id"), kept);
    }
}
