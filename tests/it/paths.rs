//! Paths and protocols: every proxied route under each of its names, what is no path at all,
//! browsers, HTTP/2 without TLS, and connections that stay.

use serde_json::json;

use super::expect::{refusal, request_id};
use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY};

const CHAT: &str = "/v1/chat/completions";
const PROXIED: [&str; 12] = [
    CHAT,
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/score",
    "/tokenize",
    "/detokenize",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
];

async fn start(settings: &[(&str, &str)]) -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with(&server.url(), settings).await;
    (server, gate)
}

#[tokio::test]
async fn every_proxied_route_reaches_its_upstream_path_under_each_of_its_names() {
    let (server, mut gate) = start(&[]).await;
    let answer = Behaviour::answer(Answer::json(200, "{\"x\":1}"));
    server.always(answer.clone());
    server.on("/tokenize", answer.clone());
    server.on("/detokenize", answer);
    let mut count = 0;
    for path in PROXIED {
        let bare = path.trim_start_matches("/v1");
        let form =
            "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ntiny-chat\r\n--b--\r\n";
        let (kind, body) = if path.contains("audio") {
            ("multipart/form-data; boundary=b", form)
        } else {
            (
                "application/json",
                r#"{"model":"tiny-chat","messages":[],"prompt":"a","input":"a"}"#,
            )
        };
        for name in [
            bare.to_owned(),
            format!("/v1{bare}"),
            format!("/v1/v1{bare}"),
            format!("//v1//{}/", bare.trim_start_matches('/')),
            format!("/v1{bare}?stream=true"),
        ] {
            let headers = [("content-type", kind)];
            let reply = gate
                .ask(&format!("POST {name}"), &headers, body.as_bytes())
                .await;
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (200, "{\"x\":1}"),
                "{name}"
            );
            let call = server.call(reply.header("x-request-id")).expect("the call");
            assert_eq!(
                (call.method.as_str(), call.path.as_str(), call.query),
                ("POST", path, None)
            );
            if path.contains("audio") {
                assert_eq!(call.body, form);
            }
            count += 1;
            let rows = gate.rows(count).await;
            assert_eq!(rows[count - 1]["endpoint"], path);
            assert_eq!(rows[count - 1]["model"], "tiny-chat");
        }
        let wrong = gate.ask(&format!("GET {path}"), &[], b"").await;
        assert_eq!(
            (wrong.status, wrong.header("allow")),
            (405, "POST, OPTIONS")
        );
    }
}

#[tokio::test]
async fn nothing_else_is_passed_on() {
    let (server, gate) = start(&[]).await;
    for path in [
        "/v1/%63hat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/./chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/chat/../chat/completions",
        "/v1/chat/completions/..",
        "/v1/chat/completions;x=1",
        "/v1/chat/completions%20",
        "/v1/chat/completions%00",
        "/v1/chat/completions/x",
        "/v1\\chat\\completions",
        "/V1/chat/completions",
        "/v2/chat/completions",
        "/v1",
        "/invocations",
        "/v1/load_lora_adapter",
        "/sleep",
        "/version",
        "/openapi.json",
        "/v1/files",
        "/admin",
        "/.env",
        "*",
    ] {
        for method in ["POST", "GET"] {
            let body = br#"{"messages":[{"role":"user","content":"Hello"}]}"#;
            let headers = [("content-type", "application/json")];
            let reply = gate.ask(&format!("{method} {path}"), &headers, body).await;
            if reply.body.is_empty() {
                assert_eq!(reply.status, 400, "{path}: no URI at all");
            } else {
                refusal(&reply, 404, "not_found");
            }
        }
    }
    assert!(server.calls().is_empty(), "{:#?}", server.calls());
}

#[tokio::test]
async fn methods_that_a_route_does_not_take_are_named_with_those_it_does() {
    let (_server, gate) = start(&[]).await;
    for (line, allow) in [
        ("PUT /v1/chat/completions", "POST, OPTIONS"),
        ("HEAD /v1/chat/completions", "POST, OPTIONS"),
        ("DELETE /v1/models", "GET, HEAD, OPTIONS"),
        ("POST /health", "GET, HEAD, OPTIONS"),
        ("TRACE /", "GET, HEAD, OPTIONS"),
        ("BREW /ready", "GET, HEAD, OPTIONS"),
        ("PUT /admin/reload-keys", "GET, HEAD, POST, OPTIONS"),
    ] {
        let mut wire = gate.wire().await;
        wire.send(line, &[], b"").await.expect("sent");
        let head = wire.head().await.expect("a head");
        assert_eq!(head.status, 405, "{line}");
        assert_eq!(head.headers["allow"], allow, "{line}");
        request_id(&head.headers);
    }
    let reply = gate.ask("PUT /health", &[], b"x").await;
    refusal(&reply, 405, "method_not_allowed");
}

async fn preflight(gate: &Gate, path: &str, origin: &str) -> Reply {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "x-stainless-lang,content-type",
        ),
        ("x-api-key", ""),
    ];
    gate.ask(&format!("OPTIONS {path}"), &headers, b"").await
}

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    let mine = "https://page.example";
    let listed = format!("{mine},http://localhost:3000");
    for (setting, origin, allowed) in [
        (listed.as_str(), mine, mine),
        (&listed, "http://localhost:3000", "http://localhost:3000"),
        (&listed, "https://other.example", ""),
        (&listed, "null", ""),
        ("*", "https://other.example", "*"),
        ("", mine, ""),
    ] {
        let (_server, gate) = start(&[("CORS_ORIGINS", setting)]).await;
        let answer = preflight(&gate, CHAT, origin).await;
        assert_eq!(answer.status, 204, "no key is asked for");
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
        assert_eq!(answer.header("access-control-allow-credentials"), "");
        let named = answer
            .header("access-control-allow-headers")
            .to_ascii_lowercase();
        let methods = answer.header("access-control-allow-methods");
        for name in [
            "authorization",
            "x-api-key",
            "content-type",
            "x-stainless-lang",
        ] {
            assert_eq!(named.contains(name), !allowed.is_empty(), "{named}");
        }
        assert_eq!(methods.contains("POST"), !allowed.is_empty());
        request_id(&answer.headers);
        let body = br#"{"messages":[{"role":"user","content":"Hello"}]}"#;
        let headers = [("origin", origin), ("content-type", "application/json")];
        // Errors too must be readable for the page.
        for (line, status) in [
            (format!("POST {CHAT}"), 200),
            ("POST /nothing".to_owned(), 404),
        ] {
            let reply = gate.ask(&line, &headers, body).await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.header("access-control-allow-origin"), allowed);
            let exposed = reply.header("access-control-expose-headers");
            assert_eq!(exposed.contains("x-request-id"), !allowed.is_empty());
            assert_eq!(reply.header("access-control-allow-credentials"), "");
        }
        refusal(
            &preflight(&gate, "/nothing", origin).await,
            404,
            "not_found",
        );
        let plain = gate.ask("OPTIONS /health", &[], b"").await;
        assert_eq!(
            (plain.status, plain.header("allow")),
            (204, "GET, HEAD, OPTIONS")
        );
    }
}

#[tokio::test]
async fn http2_without_tls_is_taken_beside_http1() {
    // Another test may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (server, mut gate) = start(&[("H2C", "true")]).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build();
    let client = client.expect("a client");
    let body = json!({"messages": [{"role": "user", "content": "Hello"}]}).to_string();
    let post = |path: &str, key: &'static str| {
        let request = client.post(format!("http://{}{path}", gate.addr));
        request
            .header("x-api-key", key)
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
    };
    let answers = futures_util::future::join_all((0..20).map(|_| post(CHAT, KEY))).await;
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, http::Version::HTTP_2)
        );
        request_id(answer.headers());
        assert!(answer.text().await.expect("a body").contains("choices"));
    }
    assert_eq!(
        post(CHAT, "sk-wrong-0123456789abcdef")
            .await
            .expect("an answer")
            .status(),
        401
    );
    assert_eq!(
        post("/nothing", KEY).await.expect("an answer").status(),
        404
    );
    let head = client
        .head(format!("http://{}/health", gate.addr))
        .send()
        .await;
    let head = head.expect("an answer");
    assert_eq!(head.status(), 200);
    assert!(head.headers()["content-length"] != "0");
    assert_eq!(head.bytes().await.expect("no body").len(), 0);
    let plain = gate
        .post(
            CHAT,
            &json!({"messages": [{"role": "user", "content": "Hello"}]}),
        )
        .await;
    assert_eq!(plain.status, 200);
    assert_eq!(gate.rows(21).await.len(), 21);
    assert_eq!(server.model_calls().len(), 21);
    // A connection that says nothing does not stand in the way of the end.
    let _mute = gate.wire().await;
    assert!(gate.stop().await.success());
}

#[tokio::test]
async fn connections_are_kept() {
    let (server, mut gate) = start(&[]).await;
    let mut wire = gate.wire().await;
    let body = br#"{"messages":[{"role":"user","content":"Hello"}]}"#;
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    for turn in 0..30 {
        wire.send(&format!("POST {CHAT}"), &headers, body)
            .await
            .expect("sent");
        assert_eq!(wire.reply().await.expect("an answer").status, 200);
        // Refusals keep the connection too.
        let wrong = [
            ("x-api-key", "sk-wrong-0123456789abcdef"),
            ("content-type", "application/json"),
        ];
        wire.send(&format!("POST {CHAT}"), &wrong, body)
            .await
            .expect("sent");
        assert_eq!(wire.reply().await.expect("an answer").status, 401, "{turn}");
        wire.send("GET /nothing", &[], b"").await.expect("sent");
        assert_eq!(wire.reply().await.expect("an answer").status, 404);
    }
    assert_eq!(gate.rows(30).await.len(), 30);
    let connections: std::collections::BTreeSet<u64> = server
        .model_calls()
        .iter()
        .map(|call| call.connection)
        .collect();
    assert!(
        connections.len() <= 2,
        "upstream connections are used again: {connections:?}"
    );
}
