//! Connections that misbehave below the level of calls: what is no HTTP, too slow, too long, cut,
//! or merely unusual.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::expect::{refusal, request_id};
use super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY};
use super::raw;

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"messages":[{"role":"user","content":"Hello"}]}"#;

async fn start() -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    (server, gate)
}

/// A call with more head lines, on a connection that ends with it.
fn call(more: &str) -> String {
    let length = BODY.len();
    format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n{BODY}"
    )
}

fn assert_answered(replies: &[Reply]) {
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert_eq!(replies[0].status, 200, "{}", replies[0].text());
    request_id(&replies[0].headers);
}

/// Bytes, and the statuses that they may get.
fn no_http() -> Vec<(String, Vec<u16>)> {
    let many = (0..200).fold(String::new(), |mut lines, n| {
        let _ = write!(lines, "x-h{n}: v\r\n");
        lines
    });
    let long = "a".repeat(300_000);
    vec![
        ("hello\r\n\r\n".to_owned(), vec![400]),
        ("GET\r\n\r\n".to_owned(), vec![400]),
        ("GET /health HTTP/9.9\r\n\r\n".to_owned(), vec![400, 505]),
        (
            "GET /he alth HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            vec![400],
        ),
        (
            "GET /health HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
            vec![400],
        ),
        (
            "GET /health HTTP/1.1\r\nbad name: x\r\n\r\n".to_owned(),
            vec![400],
        ),
        (
            "GET /health HTTP/1.1\r\na: b\0c\r\n\r\n".to_owned(),
            vec![400],
        ),
        (format!("GET /health HTTP/1.1\r\n{many}\r\n"), vec![431]),
        (
            format!("GET /health HTTP/1.1\r\nx: {long}\r\n\r\n"),
            vec![431],
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
            vec![414, 431],
        ),
        (call("content-length: 3\r\n"), vec![400]),
        (
            format!(
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ntransfer-encoding: gzip\r\n\r\n{BODY}"
            ),
            vec![400],
        ),
        (
            format!(
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{BODY}\r\n0\r\n\r\n"
            ),
            vec![400],
        ),
        (
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned(),
            vec![400],
        ),
    ]
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_gateway_lives() {
    let (server, mut gate) = start().await;
    for (bytes, statuses) in no_http() {
        let replies = raw::say_and_end(gate.addr, bytes.as_bytes()).await;
        let start: String = bytes.chars().take(80).collect();
        let status = replies.first().map(|reply| reply.status);
        assert!(
            status.is_some_and(|status| statuses.contains(&status)),
            "{start:?} -> {replies:?}"
        );
    }
    assert_eq!(server.model_calls().len(), 0);
    assert_answered(&raw::say(gate.addr, call("").as_bytes()).await);
    assert_eq!(gate.rows(1).await.len(), 1);
}

#[tokio::test]
async fn half_a_request_costs_nothing() {
    let (server, mut gate) = start().await;
    let whole = call("");
    // Cut anywhere: in the line, in a header, between head and body, in the body.
    for end in (1..whole.len()).step_by(17) {
        let replies = raw::say_and_end(gate.addr, &whole.as_bytes()[..end]).await;
        if let Some(reply) = replies.first() {
            assert_eq!(reply.status, 400, "{end}: {reply:?}");
        }
        // And without a goodbye.
        let mut socket = TcpStream::connect(gate.addr).await.expect("a connection");
        socket
            .write_all(&whole.as_bytes()[..end])
            .await
            .expect("sent");
        socket.set_zero_linger().expect("a reset");
    }
    assert_eq!(server.model_calls().len(), 0);
    assert_answered(&raw::say(gate.addr, whole.as_bytes()).await);
    let rows = gate.rows(1).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
}

#[tokio::test]
async fn a_slow_body_times_out_and_a_slow_or_endless_head_is_cut() {
    let (server, mut gate) = start().await;
    let body = async {
        let mut wire = gate.wire().await;
        let head = call("").replace("connection: close\r\n", "");
        let at = head.len() - 5;
        wire.send_raw(&head.as_bytes()[..at]).await.expect("sent");
        // Mute for longer than the wire's own patience: the first wait ends without an answer.
        let early = wire.head().await;
        assert!(early.is_err(), "{early:?}");
        let reply = wire.reply().await.expect("an answer");
        refusal(&reply, 408, "request_timeout");
    };
    let started = Instant::now();
    let mute = |bytes: &'static str| {
        let addr = gate.addr;
        async move {
            let read = raw::said(addr, bytes.as_bytes(), false, Duration::from_secs(25)).await;
            let read = read.expect("closed in time");
            assert!(!read.starts_with(b"HTTP/1.1 200"), "{bytes:?}");
        }
    };
    let mute = async {
        tokio::join!(
            mute(""),
            mute("GET /health HTT"),
            mute("GET /health HTTP/1.1\r\nhost: x\r\n")
        );
    };
    let drip = async {
        let mut socket = TcpStream::connect(gate.addr).await.expect("a connection");
        let _ = socket.write_all(b"GET /health HTTP/1.1\r\n").await;
        let limit = started + Duration::from_secs(40);
        while socket.write_all(b"x-a: b\r\n").await.is_ok() {
            assert!(Instant::now() < limit, "the head is never cut");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let endless = async {
        let mut socket = TcpStream::connect(gate.addr).await.expect("a connection");
        let _ = socket.write_all(b"GET /health HTTP/1.1\r\n").await;
        let mut sent = 0;
        while socket.write_all(&[b'x'; 4096]).await.is_ok() {
            sent += 4096;
            assert!(sent < 64 << 20, "the head is never cut");
        }
    };
    tokio::join!(body, mute, drip, endless);
    assert_eq!(server.model_calls().len(), 0);
    assert_answered(&raw::say(gate.addr, call("").as_bytes()).await);
    assert_eq!(gate.rows(1).await.len(), 1);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_let_go() {
    let settings = Settings {
        max_model_len: 1_000_000,
        ..Settings::default()
    };
    let server = ModelServer::start(settings).await;
    let mut gate = Gate::with(&server.url(), &[("CLIENT_STALL_SECONDS", "1")]).await;
    // More than the sockets between hold.
    server.next(Behaviour::tokens(60_000));
    let body = BODY.replacen('{', "{\"stream\":true,\"max_tokens\":60000,", 1);
    let stream = call("").replace(BODY, &body).replace(
        &format!("content-length: {}", BODY.len()),
        &format!("content-length: {}", body.len()),
    );
    let mut wire = gate.wire().await;
    wire.send_raw(stream.as_bytes()).await.expect("sent");
    let rows = gate.rows(1).await;
    assert_eq!(rows[0]["outcome"], "client_abort");
    assert_eq!(rows[0]["status"], 200);
    assert_eq!(rows[0]["counted_by"], "running");
    server
        .wait_for(|calls| calls.iter().any(|call| call.disconnected_at().is_some()))
        .await;
    drop(wire);
    assert_answered(&raw::say(gate.addr, call("").as_bytes()).await);
    assert_eq!(gate.rows(2).await.len(), 2);
}

#[tokio::test]
async fn an_http2_stream_whose_client_opens_no_window_is_let_go() {
    // Another test may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = ModelServer::start(Settings::default()).await;
    let settings = [("CLIENT_STALL_SECONDS", "1"), ("H2C", "true")];
    let mut gate = Gate::with(&server.url(), &settings).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(1024)
        .no_proxy()
        .build()
        .expect("a client");
    let url = format!("http://{}{CHAT}", gate.addr);
    let ask = |body: String| {
        client
            .post(&url)
            .header("x-api-key", KEY)
            .header("content-type", "application/json")
            .body(body)
            .send()
    };
    server.next(Behaviour::tokens(200));
    // Nobody reads its body, while the connection itself stays in order.
    let unread = ask(BODY.replacen('{', "{\"stream\":true,\"max_tokens\":200,", 1)).await;
    let unread = unread.expect("a head");
    assert_eq!(unread.status(), 200);
    let rows = gate.rows(1).await;
    assert_eq!(rows[0]["outcome"], "client_abort");
    let other = ask(BODY.to_owned()).await.expect("an answer");
    assert_eq!(other.version(), http::Version::HTTP_2);
    assert!(other.text().await.expect("a body").contains("choices"));
    assert!(unread.bytes().await.is_err(), "the stream was reset");
    let rows = gate.rows(2).await;
    assert_eq!(rows[1]["outcome"], "complete");
}

#[tokio::test]
async fn unusual_requests_are_answered() {
    let (server, mut gate) = start().await;
    let plain = call("");
    let chunked = plain
        .replace(
            &format!("content-length: {}\r\n", BODY.len()),
            "transfer-encoding: chunked\r\ntrailer: x-t\r\n",
        )
        .replace(
            BODY,
            &format!(
                "{:x};ext=1\r\n{BODY}\r\n0\r\nx-t: v\r\nx-api-key: other\r\n\r\n",
                BODY.len()
            ),
        );
    let cases = [
        call("").replace("connection: close", "connection: close, upgrade"),
        call("upgrade: websocket\r\nsec-websocket-key: x\r\n")
            .replace("connection: close", "connection: close, upgrade"),
        call("upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n").replace(
            "connection: close",
            "connection: close, upgrade, http2-settings",
        ),
        plain.replace("HTTP/1.1", "HTTP/1.0"),
        plain.replace("host: x\r\n", ""),
        plain.replace("host: x\r\n", "host: \r\n"),
        plain.replace(CHAT, &format!("http://elsewhere.example{CHAT}")),
        plain.replace(CHAT, &format!("{CHAT}?api-version=1&x=%00")),
        plain.replace("\r\nhost", "\r\nhost: y\r\nhost"),
        chunked,
    ];
    for bytes in &cases {
        assert_answered(&raw::say(gate.addr, bytes.as_bytes()).await);
    }
    let sent = server.model_calls();
    assert_eq!(sent.len(), cases.len());
    for call in &sent {
        assert_eq!((call.path.as_str(), call.query.as_deref()), (CHAT, None));
        for name in [
            "upgrade",
            "connection",
            "sec-websocket-key",
            "http2-settings",
            "trailer",
            "x-t",
            "x-api-key",
        ] {
            assert_eq!(call.header(name), "", "{name}");
        }
        assert_eq!(call.header("host"), server.addr().to_string());
    }
    assert_eq!(gate.rows(cases.len()).await.len(), cases.len());
}

#[tokio::test]
async fn nginx_upgrades_every_connection_and_gets_its_answers() {
    let (_server, mut gate) = start().await;
    let mut wire = gate.wire().await;
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", ""),
        ("x-api-key", KEY),
        ("content-type", "application/json"),
    ];
    for _ in 0..3 {
        wire.send(&format!("POST {CHAT}"), &headers, BODY.as_bytes())
            .await
            .expect("sent");
        let reply = wire.reply().await.expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(gate.rows(3).await.len(), 3);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_server, mut gate) = start().await;
    let keep = call("").replace("connection: close\r\n", "");
    let health = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let wrong = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
    let all = [&keep, health, wrong, &keep, &call("")].concat();
    let replies = raw::say(gate.addr, all.as_bytes()).await;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 404, 200, 200]);
    let rows = gate.rows(3).await;
    let answered: Vec<&str> = [0, 3, 4]
        .map(|n: usize| replies[n].header("x-request-id"))
        .into();
    let kept: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["request_id"].as_str())
        .collect();
    assert_eq!(kept, answered);
}

#[tokio::test]
async fn a_client_that_asks_first_sends_its_body_only_if_it_is_wanted() {
    let (server, mut gate) = start().await;
    let asking = call("expect: 100-continue\r\n");
    let head = &asking[..asking.len() - BODY.len()];
    let mut wire = gate.wire().await;
    wire.send_raw(head.as_bytes()).await.expect("sent");
    assert_eq!(wire.head().await.expect("an invitation").status, 100);
    wire.send_raw(BODY.as_bytes()).await.expect("sent");
    assert_eq!(wire.reply().await.expect("an answer").status, 200);

    let length = format!("content-length: {}", BODY.len());
    let cases = [
        (
            head.replace(KEY, "sk-wrong-0123456789abcdef"),
            401,
            "invalid_api_key",
        ),
        (
            head.replace(&format!("x-api-key: {KEY}\r\n"), ""),
            401,
            "missing_api_key",
        ),
        (
            head.replace(&length, "content-length: 50000000"),
            413,
            "body_too_large",
        ),
        (
            head.replace("application/json", "text/plain"),
            415,
            "unsupported_media_type",
        ),
        (head.replace(CHAT, "/v1/nothing"), 404, "not_found"),
        (head.replace("POST", "PUT"), 405, "method_not_allowed"),
    ];
    for (head, status, code) in &cases {
        let started = Instant::now();
        let replies = raw::say(gate.addr, head.as_bytes()).await;
        refusal(&replies[0], *status, code);
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{code}: nothing is waited for"
        );
    }
    assert_eq!(server.model_calls().len(), 1);
    assert_eq!(gate.rows(1).await.len(), 1);
}
