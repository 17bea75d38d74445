//! No key, prompt or answer is ever found where it has no business: log, table, metrics, admin
//! pages, errors. Not even at the most talkative log level.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::fakes::model_server::{Answer, Behaviour, Fault, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::Gate;
use super::raw;

const PLAIN: &str = "sk-plain-zebra-0123456789";
const OPS: &str = "sk-ops-yak-0123456789abc";
const FOREIGN: &str = "sk-foreign-xerus-0123456789";
const UPSTREAM: &str = "sk-upstream-wombat-0123456789";
const PROMPT: &str = "prompt-vulture";
/// In pieces as short as the model server's tokens.
const ANSWER: &str = "qzxjqzxj";
const PASSWORD: &str = "password-tapir";
const CHAT: &str = "/v1/chat/completions";

/// Everything that must not be found, keys as hashes too.
fn secrets() -> Vec<String> {
    let keys = [PLAIN, OPS, FOREIGN, UPSTREAM];
    let hashes = keys.map(|key| {
        Sha256::digest(key.as_bytes())
            .iter()
            .fold(String::new(), |mut hex, byte| {
                let _infallible = write!(hex, "{byte:02x}");
                hex
            })
    });
    let words = [
        "zebra", "yak-0", "xerus", "wombat", "vulture", "qzxj", "tapir",
    ];
    words.map(str::to_owned).into_iter().chain(hashes).collect()
}

fn assert_clean(place: &str, text: &str) {
    for secret in secrets() {
        if let Some(at) = text.find(&secret) {
            let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
            let line = text[start..].lines().next().unwrap_or_default();
            panic!("{secret} in {place}: {line}");
        }
    }
}

fn prompt(stream: bool) -> Value {
    json!({"stream": stream, "max_tokens": 30, "user": PROMPT, "messages": [{"role": "user", "content": PROMPT}]})
}

/// Calls that succeed; their answers are the client's own.
async fn good_calls(server: &ModelServer, gate: &Gate) {
    let bearer = format!("Bearer {PLAIN}");
    for stream in [false, true] {
        for credential in [("x-api-key", PLAIN), ("authorization", bearer.as_str())] {
            for path in [CHAT, "/v1/messages"] {
                server.next(Behaviour::text(ANSWER));
                let headers = [
                    credential,
                    ("content-type", "application/json"),
                    ("cookie", PASSWORD),
                ];
                let body = prompt(stream).to_string();
                let reply = gate
                    .ask(
                        &format!("POST {path}?api_key={PLAIN}"),
                        &headers,
                        body.as_bytes(),
                    )
                    .await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert!(reply.text().contains("qzxj"), "{}", reply.text());
            }
        }
    }
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .expect("a client");
    let request = client
        .post(format!("http://{}{CHAT}", gate.addr))
        .header("x-api-key", PLAIN)
        .header("authorization", format!("Bearer {FOREIGN}"))
        .header("content-type", "application/json")
        .body(prompt(false).to_string());
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let tokens = gate
        .ask(
            "POST /tokenize",
            &[("x-api-key", PLAIN), ("content-type", "application/json")],
            prompt(false).to_string().as_bytes(),
        )
        .await;
    assert_eq!(tokens.status, 200);
}

/// What an upstream may say of a prompt when it fails.
fn failures() -> Vec<Behaviour> {
    let echo = json!({"error": {"message": format!("{PROMPT} {ANSWER} {UPSTREAM}"), "type": PROMPT, "code": 500}});
    vec![
        Behaviour::answer(Answer::json(500, echo.to_string())),
        Behaviour::answer(Answer::json(401, echo.to_string())),
        Behaviour::answer(Answer::json(503, echo.to_string())),
        Behaviour::answer(Answer::html(502, format!("<p>{PROMPT}</p>"))),
        Behaviour::answer(Answer::html(400, format!("<p>{PROMPT}</p>"))),
        Behaviour::answer(
            Answer::json(302, "{}").header("location", &format!("http://x.example/?{PROMPT}")),
        ),
        Behaviour::fault(Fault::HangUpBeforeHead),
    ]
}

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// Calls that the gateway refuses, or that fail behind it; the errors are its own.
async fn bad_calls(server: &ModelServer, gate: &Gate) -> Vec<Reply> {
    let json = ("content-type", "application/json");
    let good = prompt(false).to_string();
    let broken = good.replace("max_tokens\":30", "max_tokens\":\"tapir\"");
    let unknown = good.replace("{\"stream\"", "{\"model\":\"nobody\",\"stream\"");
    let admin = good.replace("{\"stream\"", "{\"priority\":1,\"stream\"");
    let basic = format!("Basic {FOREIGN}");
    let foreign = format!("Bearer {FOREIGN}");
    let gzip = [("x-api-key", PLAIN), json, ("content-encoding", "gzip")];
    let cases: &[(&str, Headers, &str)] = &[
        (CHAT, &[("x-api-key", FOREIGN), json], &good),
        (CHAT, &[("authorization", &foreign), json], &good),
        (CHAT, &[("authorization", &basic), json], &good),
        (
            CHAT,
            &[("x-api-key", PLAIN), ("x-api-key", FOREIGN), json],
            &good,
        ),
        (CHAT, &[("x-api-key", PLAIN), json], &good[..good.len() - 3]),
        (CHAT, &[("x-api-key", PLAIN), json], &broken),
        (CHAT, &[("x-api-key", PLAIN), json], &unknown),
        (CHAT, &[("x-api-key", PLAIN), json], &admin),
        (
            CHAT,
            &[("x-api-key", PLAIN), ("content-type", PASSWORD)],
            &good,
        ),
        (CHAT, &gzip, &good),
        ("/v1/vulture/tapir", &[("x-api-key", PLAIN), json], &good),
        (
            "/auth/register",
            &[json],
            r#"{"username":"ann","password":"password-tapir"}"#,
        ),
        (
            "/auth/token",
            &[json],
            r#"{"username":"ann","password":"password-tapir"}"#,
        ),
        ("/admin/reload-keys", &[("x-api-key", FOREIGN)], ""),
    ];
    let mut replies = Vec::new();
    for (path, headers, body) in cases {
        let reply = gate
            .ask(&format!("POST {path}"), headers, body.as_bytes())
            .await;
        assert!(reply.status >= 400, "{path}: {}", reply.text());
        replies.push(reply);
    }
    for failure in failures() {
        server.next(failure);
        let headers = [("x-api-key", PLAIN), json];
        replies.push(
            gate.ask(&format!("POST {CHAT}"), &headers, good.as_bytes())
                .await,
        );
    }
    replies
}

/// Answers that break in their middle, and requests that do: what of them may be shown went to the
/// client already.
async fn broken_calls(server: &ModelServer, gate: &Gate) {
    for fault in [
        Fault::Cut { after: 2 },
        Fault::EndEarly { after: 2 },
        Fault::EngineError { after: 2 },
        Fault::Garbage { after: 2 },
    ] {
        let mut behaviour = Behaviour::text(&ANSWER.repeat(5));
        behaviour.fault = fault;
        for stream in [false, true] {
            server.next(behaviour.clone());
            let headers = [("x-api-key", PLAIN), ("content-type", "application/json")];
            let mut wire = gate.wire().await;
            let body = prompt(stream).to_string();
            wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
                .await
                .expect("sent");
            // However it ends.
            let _ = wire.reply().await;
        }
    }
    // Verbatim refusals quote prompts.
    let quote = json!({"error": {"message": PROMPT, "type": "BadRequestError", "param": null, "code": 400}});
    server.next(Behaviour::answer(Answer::json(400, quote.to_string())));
    let headers = [("x-api-key", PLAIN), ("content-type", "application/json")];
    gate.ask(
        &format!("POST {CHAT}"),
        &headers,
        prompt(false).to_string().as_bytes(),
    )
    .await;
    let half = format!(
        "POST {CHAT} HTTP/1.1\r\nx-api-key: {PLAIN}\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{PROMPT}"
    );
    raw::say_and_end(gate.addr, half.as_bytes()).await;
    let noise = format!("{PROMPT} {PLAIN}\r\n\r\n");
    raw::say_and_end(gate.addr, noise.as_bytes()).await;
}

/// All bytes below a folder.
fn bytes_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                return bytes_below(&path);
            }
            vec![(path.display().to_string(), fs::read(&path).expect("a file"))]
        })
        .collect()
}

#[tokio::test]
async fn keys_prompts_and_answers_are_nowhere_to_be_found() {
    // Another test may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for level in ["info", "trace"] {
        let server = ModelServer::start(Settings {
            api_key: Some(UPSTREAM.to_owned()),
            ..Settings::default()
        })
        .await;
        let keys = json!({"plain": PLAIN, "ops": {"key": OPS, "admin": true}});
        let settings = [
            ("VLLM_API_KEY", UPSTREAM),
            ("LOG_LEVEL", level),
            ("H2C", "true"),
        ];
        let mut gate = Gate::with_keys(&server.url(), &settings, &keys).await;
        good_calls(&server, &gate).await;
        for reply in bad_calls(&server, &gate).await {
            assert_clean("an error", &format!("{:?} {}", reply.headers, reply.text()));
        }
        broken_calls(&server, &gate).await;
        for path in [
            "/metrics",
            "/admin/keys",
            "/admin/status",
            "/admin/reload-keys",
            "/ready",
            "/",
            "/v1/models",
        ] {
            let reply = gate
                .ask(&format!("GET {path}"), &[("x-api-key", OPS)], b"")
                .await;
            assert_eq!(reply.status, 200, "{path}");
            assert_clean(path, &format!("{:?} {}", reply.headers, reply.text()));
        }
        // 10 good ones, 7 that failed behind the gateway, 9 that broke; the refused have none.
        let rows = gate.rows(26).await;
        assert_eq!(rows.len(), 26, "{rows:#?}");
        assert!(gate.stop().await.success());
        let log: Vec<String> = gate.log().iter().map(Value::to_string).collect();
        if level == "trace" {
            assert!(log.len() > 200, "the libraries talk too: {}", log.len());
        }
        assert_clean("the log", &log.join("\n"));
        let data = gate.folder.path().join("data");
        for (path, bytes) in bytes_below(&data) {
            assert_clean(&path, &String::from_utf8_lossy(&bytes));
        }
        assert_eq!(gate.table().await.len(), 26);
    }
}
