//! The worst engine behind a socket, with counters as vLLM's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::worst::{self, CONTEXT};

/// Ended on drop.
pub struct Server {
    pub addr: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counters {
    prompt: AtomicU64,
    output: AtomicU64,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let counters: Arc<Counters> = Arc::default();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let counters = counters.clone();
                let service = service_fn(move |request| answer(request, counters.clone()));
                connections
                    .spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { addr, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    counters: Arc<Counters>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        return Ok(match path.as_str() {
            "/v1/models" => json(
                200,
                &json!({"data": [{"id": "worst", "max_model_len": CONTEXT}]}),
            ),
            "/version" => json(200, &json!({"version": "worst"})),
            "/metrics" => metrics(&counters),
            _ => json(404, &json!({})),
        });
    }
    let read = request.into_body().collect().await;
    let body = read
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let body: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
    Ok(work(&path, &body, &counters))
}

fn work(path: &str, body: &Map<String, Value>, counters: &Counters) -> Response<Full<Bytes>> {
    let counts = match path {
        "/tokenize" => Some("count"),
        "/v1/messages/count_tokens" => Some("input_tokens"),
        _ => None,
    };
    if let Some(name) = counts {
        return match worst::prompts(path, body).as_deref() {
            Some([count]) => json(200, &json!({name: count, "max_model_len": CONTEXT})),
            _ => refusal(),
        };
    }
    let Some(work) = worst::work(path, body) else {
        return refusal();
    };
    counters.prompt.fetch_add(work.prompt, Ordering::Relaxed);
    counters.output.fetch_add(work.output, Ordering::Relaxed);
    json(200, &json!({"done": true}))
}

fn refusal() -> Response<Full<Bytes>> {
    let error =
        json!({"message": "no such thing", "type": "BadRequestError", "param": null, "code": 400});
    json(400, &json!({"error": error}))
}

fn metrics(counters: &Counters) -> Response<Full<Bytes>> {
    let (prompt, output) = (&counters.prompt, &counters.output);
    let page = format!(
        "vllm:prompt_tokens_total{{}} {}.0\nvllm:generation_tokens_total{{}} {}.0\n",
        prompt.load(Ordering::Relaxed),
        output.load(Ordering::Relaxed)
    );
    Response::new(page.into())
}

fn json(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(value.to_string()));
    answer.expect("an answer")
}
