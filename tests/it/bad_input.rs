//! Bodies and headers that no call can be made of: each gets a clear error, costs nothing, and
//! harms nobody.

use serde_json::json;

use super::expect::refusal;
use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{ADMIN, Gate, KEY};
use super::raw;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

async fn start() -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    (server, gate)
}

/// Nothing of what came before reached the model server or left a row, and a good call works.
async fn assert_unharmed(server: &ModelServer, gate: &mut Gate) {
    assert_eq!(server.model_calls().len(), 0);
    let body = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let reply = gate.post(CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let rows = gate.rows(1).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["request_id"], reply.header("x-request-id"));
    assert!(gate.stop().await.success());
    assert_eq!(gate.table().await.len(), 1);
}

/// Path, body, and the field that is at fault.
const UNUSABLE: &[(&str, &[u8], &str)] = &[
    (CHAT, b"", ""),
    (CHAT, b"hello", ""),
    (CHAT, b"[{}]", ""),
    (CHAT, b"null", ""),
    (CHAT, b"\"{}\"", ""),
    (CHAT, b"{", ""),
    (CHAT, b"{\"model\":\"tiny-chat\"", ""),
    (CHAT, b"{\"model\":\"tiny-chat\"}}", ""),
    (CHAT, b"{\"model\":\"tiny-chat\"}{}", ""),
    (CHAT, b"{'model':'tiny-chat'}", ""),
    (CHAT, b"{\"model\":\"tiny-chat\",}", ""),
    (CHAT, b"{\"a\":NaN}", ""),
    (CHAT, b"{\"a\":01}", ""),
    (CHAT, b"{\"a\":\"\x00\"}", ""),
    (CHAT, b"\x00", ""),
    (CHAT, b"{\"a\":\"\xff\xfe\"}", ""),
    (CHAT, b"{\"\xc3\x28\":1}", ""),
    (CHAT, b"\xef\xbb\xbf{}", ""),
    (CHAT, b"{\"a\":\"\\ud800\",\"model\":\"\\ud800\"}", "model"),
    (CHAT, b"{\"model\":7}", "model"),
    (CHAT, b"{\"model\":[\"tiny-chat\"]}", "model"),
    (CHAT, b"{\"model\":{}}", "model"),
    (CHAT, b"{\"stream\":\"true\"}", "stream"),
    (CHAT, b"{\"stream\":1}", "stream"),
    (CHAT, b"{\"stream\":[]}", "stream"),
    (CHAT, b"{\"model\":\"a\",\"model\":\"b\"}", "model"),
    (CHAT, b"{\"model\":\"a\",\"mod\\u0065l\":\"b\"}", "model"),
    (
        CHAT,
        b"{\"\\u006dodel\":\"a\",\"mod\\u0065l\":\"b\"}",
        "model",
    ),
    (CHAT, b"{\"stream\":true,\"stream\":false}", "stream"),
    (CHAT, b"{\"stream\":true,\"\\u0073tream\":true}", "stream"),
    (CHAT, b"{\"messages\":[],\"messages\":[]}", "messages"),
    (CHAT, b"{\"max_tokens\":1,\"max_tokens\":2}", "max_tokens"),
    (CHAT, b"{\"max_tokens\":\"5\"}", "max_tokens"),
    (CHAT, b"{\"max_tokens\":1e400}", "max_tokens"),
    (
        CHAT,
        b"{\"max_completion_tokens\":{}}",
        "max_completion_tokens",
    ),
    (
        CHAT,
        b"{\"stream\":true,\"stream_options\":[]}",
        "stream_options",
    ),
    (
        CHAT,
        b"{\"stream_options\":{\"include_usage\":\"yes\"}}",
        "stream_options",
    ),
    (
        CHAT,
        b"{\"stream_options\":{\"include_usage\":true,\"include_usag\\u0065\":false}}",
        "stream_options",
    ),
    (RESPONSES, b"{\"background\":true}", "background"),
    (RESPONSES, b"{\"background\":\"no\"}", "background"),
    (
        RESPONSES,
        b"{\"previous_response_id\":\"resp_1\"}",
        "previous_response_id",
    ),
    (RESPONSES, b"{\"store\":\"no\"}", "store"),
    (CHAT, b"{\"model\":\"tiny-chat\"}", "messages"),
    (CHAT, b"{\"messages\":null}", "messages"),
    (CHAT, b"{\"messages\":\"hi\"}", "messages"),
    (CHAT, b"{\"messages\":[],\"n\":\"2\"}", "n"),
    (RESPONSES, b"{}", "input"),
    ("/v1/completions", b"{\"max_tokens\":5}", "prompt"),
    ("/v1/completions", b"[]", ""),
    ("/v1/embeddings", b"{\"model\":1}", "model"),
    ("/tokenize", b"x", ""),
];

#[tokio::test]
async fn a_body_that_cannot_be_used_is_refused_with_its_field() {
    let (server, mut gate) = start().await;
    for (path, body, param) in UNUSABLE {
        let reply = gate.ask(&format!("POST {path}"), &[JSON], body).await;
        let text = refusal(&reply, 400, "invalid_request");
        let named = reply.json()["error"]["param"].clone();
        let expected = if param.is_empty() {
            json!(null)
        } else {
            json!(param)
        };
        assert_eq!(named, expected, "{text}: {}", String::from_utf8_lossy(body));
    }
    assert_unharmed(&server, &mut gate).await;
}

#[tokio::test]
async fn what_steers_the_scheduler_needs_an_admin_key() {
    let (server, mut gate) = start().await;
    for field in [
        "priority",
        "request_id",
        "kv_transfer_params",
        "pri\\u006frity",
    ] {
        let body = format!("{{\"{field}\":1,\"messages\":[]}}");
        let reply = gate
            .ask(&format!("POST {CHAT}"), &[JSON], body.as_bytes())
            .await;
        refusal(&reply, 403, "admin_required");
    }
    assert_unharmed(&server, &mut gate).await;
    let (server, gate) = start().await;
    let body = json!({"priority": 1, "messages": [{"role": "user", "content": "Hello"}]});
    let headers = [JSON, ("x-api-key", ADMIN)];
    let reply = gate
        .ask(
            &format!("POST {CHAT}"),
            &headers,
            body.to_string().as_bytes(),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(server.model_calls()[0].json()["priority"], 1);
}

#[tokio::test]
async fn compressed_and_foreign_media_types_are_refused() {
    let (server, mut gate) = start().await;
    let good = br#"{"messages":[{"role":"user","content":"Hello"}]}"#;
    let gzip: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0];
    let cases: &[(&str, Headers, &[u8])] = &[
        (CHAT, &[JSON, ("content-encoding", "gzip")], gzip),
        (CHAT, &[JSON, ("content-encoding", "br")], good),
        (
            CHAT,
            &[
                JSON,
                ("content-encoding", "identity"),
                ("content-encoding", "gzip"),
            ],
            gzip,
        ),
        (CHAT, &[], good),
        (CHAT, &[("content-type", "")], good),
        (CHAT, &[("content-type", "text/plain")], good),
        (CHAT, &[("content-type", "application/jsonx")], good),
        (
            CHAT,
            &[("content-type", "application/x-www-form-urlencoded")],
            good,
        ),
        (
            CHAT,
            &[("content-type", "multipart/form-data; boundary=x")],
            good,
        ),
        ("/v1/audio/transcriptions", &[JSON], good),
    ];
    for (path, headers, body) in cases {
        let reply = gate.ask(&format!("POST {path}"), headers, body).await;
        refusal(&reply, 415, "unsupported_media_type");
    }
    let form = [("content-type", "multipart/form-data")];
    let reply = gate.ask("POST /v1/audio/translations", &form, b"x").await;
    refusal(&reply, 400, "invalid_request");
    let form = [("content-type", "multipart/form-data; boundary=x")];
    let part = "--x\r\ncontent-disposition: form-data; name=model\r\n\r\ntiny-chat\r\n";
    let twice = format!("{part}{part}--x--\r\n");
    let path = "POST /v1/audio/translations";
    let reply = gate.ask(path, &form, twice.as_bytes()).await;
    refusal(&reply, 400, "invalid_request");
    assert_eq!(reply.json()["error"]["param"], "model");
    let charset = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-encoding", "identity"),
    ];
    assert_unharmed(&server, &mut gate).await;
    let (_server, gate) = start().await;
    let reply = gate.ask(&format!("POST {CHAT}"), &charset, good).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn credentials_are_judged_as_the_contract_says() {
    let (server, mut gate) = start().await;
    let wrong = "sk-wrong-0123456789abcdef";
    let bearer = format!("Bearer {KEY}");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("x-api-key", "")], "missing_api_key"),
        (&[("authorization", "")], "missing_api_key"),
        (&[("authorization", "Bearer")], "missing_api_key"),
        (&[("authorization", "Bearer ")], "missing_api_key"),
        (
            &[("x-api-key", ""), ("authorization", "")],
            "missing_api_key",
        ),
        (&[("x-api-key", wrong)], "invalid_api_key"),
        (&[("x-api-key", "short")], "invalid_api_key"),
        (&[("authorization", "Basic eDp5")], "invalid_api_key"),
        (&[("authorization", KEY)], "invalid_api_key"),
        (
            &[("x-api-key", wrong), ("authorization", &bearer)],
            "invalid_api_key",
        ),
        (&[("x-api-key", KEY), ("x-api-key", KEY)], "invalid_api_key"),
        (
            &[("authorization", &bearer), ("authorization", &bearer)],
            "invalid_api_key",
        ),
    ];
    let body = br#"{"messages":[{"role":"user","content":"Hello"}]}"#;
    for (headers, code) in cases {
        let headers = [&[JSON], *headers].concat();
        let reply = gate.ask(&format!("POST {CHAT}"), &headers, body).await;
        let text = refusal(&reply, 401, code);
        if *code == "missing_api_key" {
            assert!(
                text.contains("X-API-Key") && text.contains("Authorization"),
                "{text}"
            );
        }
    }
    let no_header = raw::say(
        gate.addr,
        b"GET /admin/keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    refusal(&no_header[0], 401, "missing_api_key");
    assert_unharmed(&server, &mut gate).await;

    let (_server, gate) = start().await;
    let cases: &[&[(&str, &str)]] = &[
        &[("authorization", &bearer)],
        &[("authorization", &format!("bearer {KEY}"))],
        &[("x-api-key", ""), ("authorization", &bearer)],
        &[("x-api-key", KEY), ("authorization", "")],
        &[("x-api-key", KEY), ("authorization", "Bearer of-cloud-run")],
        &[("x-api-key", KEY), ("authorization", "Basic eDp5")],
    ];
    for headers in cases {
        let headers = [&[JSON], *headers].concat();
        let reply = gate.ask(&format!("POST {CHAT}"), &headers, body).await;
        assert_eq!(reply.status, 200, "{headers:?} {}", reply.text());
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_and_its_error_can_be_read() {
    let (server, mut gate) = start().await;
    let size = 40 << 20;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    );
    let mut whole = format!("{head}content-length: {size}\r\n\r\n").into_bytes();
    whole.resize(whole.len() + size, b' ');
    let replies = raw::say(gate.addr, &whole).await;
    refusal(&replies[0], 413, "body_too_large");

    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..40 {
        chunked.extend_from_slice(&chunk);
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let replies = raw::say(gate.addr, &chunked).await;
    refusal(&replies[0], 413, "body_too_large");

    // A wrong key is named as such, however large the body is.
    let wrong = String::from_utf8(whole)
        .expect("ASCII")
        .replace(KEY, "sk-wrong-0123456789abcdef");
    let replies = raw::say(gate.addr, wrong.as_bytes()).await;
    refusal(&replies[0], 401, "invalid_api_key");

    for length in ["99999999999999999999999", "-1", "1, 2", "x"] {
        let bytes = format!("{head}content-length: {length}\r\n\r\n");
        let replies = raw::say(gate.addr, bytes.as_bytes()).await;
        assert!(
            matches!(replies[0].status, 400 | 413),
            "{length}: {:?}",
            replies[0]
        );
    }
    assert_unharmed(&server, &mut gate).await;
}

#[tokio::test]
async fn bodies_together_are_bounded_before_a_byte_is_read() {
    let server = ModelServer::start(Settings::default()).await;
    let bounds = [
        ("MAX_BODY_BYTES", "1000000"),
        ("MAX_BUFFERED_BYTES", "1500000"),
    ];
    let gate = Gate::with(&server.url(), &bounds).await;
    let head = |more: &str| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n{more}\r\n"
        )
    };
    let mut first = gate.wire().await;
    first.send_raw(head("").as_bytes()).await.expect("sent");
    // The first holds its place as soon as its head is read; that is soon, but not at once.
    let started = std::time::Instant::now();
    let refused = loop {
        let mut second = gate.wire().await;
        let asking = head("expect: 100-continue\r\n");
        second.send_raw(asking.as_bytes()).await.expect("sent");
        let reply = second.reply().await.expect("an answer");
        if reply.status != 100 {
            break reply;
        }
        assert!(started.elapsed() < super::harness::PATIENCE);
    };
    refusal(&refused, 503, "overloaded");
    assert!(!refused.header("retry-after").is_empty());
    drop(first);
    let started = std::time::Instant::now();
    loop {
        let body = json!({"messages": [{"role": "user", "content": "x".repeat(800_000)}]});
        let reply = gate.post("/tokenize", &body).await;
        if reply.status != 503 {
            assert_eq!(reply.status, 200, "{}", reply.text());
            break;
        }
        assert!(started.elapsed() < super::harness::PATIENCE);
    }
}

#[tokio::test]
async fn odd_but_valid_json_passes_untouched() {
    let (server, mut gate) = start().await;
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let odd = [
        format!(r#"{{"messages":[{{"role":"user","content":"Hello"}}],"x":{deep}}}"#),
        r#"{"messages":[{"role":"user","content":"Hello"}],"x":123456789012345678901234567890,"y":1e999,"z":-0.0}"#.to_owned(),
        r#"{"messages":[{"role":"user","content":"a\u0000b"}],"\u0000":null,"":1}"#.to_owned(),
        r#"{"model":null,"stream":null,"messages":[{"role":"user","content":"Hello"}],"tools":null}"#.to_owned(),
        r#"{"model":"","messages":[{"role":"user","content":"Hello"}]}"#.to_owned(),
    ];
    for body in &odd {
        let reply = gate
            .ask(&format!("POST {CHAT}"), &[JSON], body.as_bytes())
            .await;
        assert!(matches!(reply.status, 200 | 400), "{}", reply.text());
        let call = server
            .call(reply.header("x-request-id"))
            .expect("it was passed on");
        let sent = String::from_utf8(call.body.to_vec()).expect("text");
        let rest = body.split_once("\"messages\"").expect("messages").1;
        assert!(sent.contains(rest.trim_end_matches('}')), "{sent}");
    }
    let rows = gate.rows(odd.len()).await;
    assert_eq!(rows.len(), odd.len());
}
