//! A server that is about to go closes connections at awkward moments, as vLLM does: what it cannot
//! have begun costs no call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::calls::{chat, row_of, with};
use super::fakes::raw::read_request;
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";
const DRAINING: &str = r#"{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError","param":null,"code":500}}"#;
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

/// How the first calls are met.
#[derive(Clone, Copy)]
enum Leave {
    /// As vLLM does while it drains: refused on a connection that stays open, and is closed a moment
    /// later with whatever came meanwhile unread.
    Refuses,
    /// As vLLM's front end in Rust does while it drains: closed without a word, at last.
    HangsUp,
}

/// Ended on drop.
struct Server {
    url: String,
    calls: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A server that takes leave of `count` calls, and answers those after them.
async fn server(leave: Leave, count: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let calls: Arc<AtomicUsize> = Arc::default();
    let seen = calls.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, leave, count, seen.clone()));
        }
    });
    Server {
        url,
        calls,
        accepting,
    }
}

async fn serve(mut socket: TcpStream, leave: Leave, count: usize, calls: Arc<AtomicUsize>) {
    let models = json!({"object": "list", "data": [{"id": "tiny-chat", "max_model_len": 2048}]});
    let mut asked = 0;
    loop {
        if !read_request(&mut socket).await {
            asked += 1;
            let body = match asked {
                1 => models.to_string(),
                _ => r#"{"version":"0.32.0"}"#.to_owned(),
            };
            // An end of the connection comes here, too.
            if answer(&mut socket, 200, &body).await.is_err() || asked > 2 {
                return;
            }
            continue;
        }
        if calls.fetch_add(1, Ordering::SeqCst) >= count {
            let _ = answer(&mut socket, 200, ANSWER).await;
            return;
        }
        let pause_ms = match leave {
            Leave::Refuses => {
                let _ = answer(&mut socket, 500, DRAINING).await;
                // Others may come upon this connection now.
                80
            }
            Leave::HangsUp => 2_100,
        };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        return;
    }
}

async fn answer(socket: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await
}

#[tokio::test]
async fn a_server_that_drains_and_closes_what_it_refused_on_costs_no_call() {
    let server = server(Leave::Refuses, 12).await;
    let mut gate = Gate::with(&server.url, &[]).await;
    let body = with(chat(), "stream", json!(false));
    let calls = (0..4).map(|_| gate.post(CHAT, &body));
    for reply in join_all(calls).await {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["outcome"], "complete");
    }
    assert!(server.calls.load(Ordering::SeqCst) >= 16);
}

#[tokio::test]
async fn only_a_stream_that_vllm_cannot_have_read_goes_once_more() {
    let plain = with(chat(), "stream", json!(false));
    // The body, calls that are hung up on; the status, calls that the server sees.
    for (body, count, status, seen) in
        [(chat(), 1, 200, 2), (chat(), 9, 502, 2), (plain, 9, 502, 1)]
    {
        let server = server(Leave::HangsUp, count).await;
        let mut gate = Gate::with(&server.url, &[("KEEPALIVE_SECONDS", "30")]).await;
        let reply = gate.post(CHAT, &body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(server.calls.load(Ordering::SeqCst), seen);
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(row["attempts"], seen);
    }
}
