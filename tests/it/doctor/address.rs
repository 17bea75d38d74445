//! What can be wrong before the gateway is reached, or with the gateway itself.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::fakes::google::secret_manager::{Kind, Order, SecretManager};
use super::super::fakes::model_server::{Dialect, IdTokens, ModelServer, Settings};
use super::super::harness::{Gate, reserve_port};
use super::super::secret;
use super::{doctor, with_key};

/// A server that answers anything with these bytes, and closes.
async fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // A knock without a word ends with nothing read.
            if let Ok(1..) = socket.read(&mut request).await {
                let _ = socket.write_all(bytes).await;
            }
        }
    });
    addr
}

#[tokio::test]
async fn nothing_listens() {
    let (_kept, addr) = reserve_port();
    let said = with_key(&[&format!("http://{addr}")]).await;
    said.breaks_at("address", &["nothing listens", "tollgate serve", "HOST"]);
}

#[tokio::test]
async fn the_name_does_not_resolve() {
    let said = with_key(&["https://no-such-host.invalid/v1"]).await;
    said.breaks_at("address", &["no-such-host.invalid", "spelling"]);
}

#[tokio::test]
async fn the_model_server_itself_answers() {
    for (dialect, who) in [
        (Dialect::Python, "a vLLM server"),
        (Dialect::Rust, "a vLLM server"),
        (Dialect::Foreign, "another OpenAI-compatible server"),
    ] {
        let server = ModelServer::start(Settings {
            dialect,
            ..Settings::default()
        })
        .await;
        let said = with_key(&[&server.url()]).await;
        let remedy = format!("VLLM_ENDPOINT={}", server.url());
        said.breaks_at("address", &[who, "not the gateway", &remedy]);
        let calls = server.calls();
        assert!(calls.iter().all(|call| call.method == "GET"), "{calls:?}");
    }
}

#[tokio::test]
async fn another_web_server_answers() {
    let page = b"HTTP/1.1 404 Not Found\r\nserver: nginx/1.27\r\ncontent-type: text/html\r\ncontent-length: 22\r\nconnection: close\r\n\r\n<html>Not Found</html>";
    let said = with_key(&[&format!("http://{}", answering(page).await)]).await;
    said.breaks_at("address", &["is not Tollgate", "nginx", "another server"]);
    let page = b"HTTP/1.1 302 Found\r\nlocation: https://gate.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let said = with_key(&[&format!("http://{}", answering(page).await)]).await;
    said.breaks_at("address", &["redirects", "https://gate.example/"]);
    let page = b"HTTP/1.1 502 Bad Gateway\r\nserver: nginx\r\ncontent-type: text/html\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let said = with_key(&[&format!("http://{}", answering(page).await)]).await;
    said.breaks_at("address", &["a proxy answers", "behind it"]);
}

#[tokio::test]
async fn the_scheme_is_the_wrong_one() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let said = with_key(&[&format!("https://{}", gate.addr)]).await;
    let remedy = format!("http://{}", gate.addr);
    said.breaks_at("address", &["does not speak TLS", &remedy]);
    // What a server of TLS says to a request in clear: an alert.
    let addr = answering(b"\x15\x03\x01\x00\x02\x02\x46").await;
    let said = with_key(&[&format!("http://{addr}")]).await;
    said.breaks_at("address", &[&format!("https://{addr}")]);
}

#[tokio::test]
async fn the_gateway_has_no_keys_yet() {
    let server = ModelServer::start(Settings::default()).await;
    let secrets = SecretManager::start().await;
    secrets.always(Kind::Access, Some(Order::Refuse(503)));
    let gate = secret::gate(&server.url(), &secrets, &[]).await;
    let said = with_key(&[&format!("http://{}", gate.addr), "--wait", "1"]).await;
    said.breaks_at("address", &["not ready", "API_KEYS_SECRET_NAME", "its log"]);
}

#[tokio::test]
async fn the_gateways_database_does_not_answer() {
    let server = ModelServer::start(Settings::default()).await;
    let (_kept, addr) = reserve_port();
    let database = format!("postgres://nobody@{addr}/none");
    let settings = [
        ("DATABASE_URL", database.as_str()),
        ("JWT_SECRET_KEY", "0123456789abcdef-0123456789abcdef"),
    ];
    let gate = Gate::with(&server.url(), &settings).await;
    let said = with_key(&[&format!("http://{}", gate.addr), "--wait", "1"]).await;
    said.breaks_at("address", &["not ready", "DATABASE_URL"]);
}

#[tokio::test]
async fn cloud_run_asks_who_calls_before_the_gateway_is_reached() {
    let nobody = IdTokens::judged_by(|_, _| false);
    let server = ModelServer::start(Settings {
        id_tokens: Some(nobody),
        ..Settings::default()
    })
    .await;
    let remedy = ["Cloud Run", "roles/run.invoker", "allUsers"];
    with_key(&[&server.url()]).await.breaks_at("key", &remedy);
    let said = doctor(&[&server.url()]).said().await;
    said.breaks_at("key", &remedy);
}

#[tokio::test]
async fn the_key_is_missing_or_wrong() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    let said = doctor(&[&url]).said().await;
    said.breaks_at("key", &["no key", "TOLLGATE_API_KEY", "tollgate keys add"]);
    for wrong in ["sk-wrong-0123456789abcdef", "short"] {
        let said = doctor(&[&url, "--key", wrong]).said().await;
        said.breaks_at("key", &["invalid_api_key", "tollgate keys list"]);
    }
    assert_eq!(server.model_calls().len(), 0);
}
