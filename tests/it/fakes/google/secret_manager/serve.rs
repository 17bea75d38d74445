//! The sockets: accepts, reads requests, follows orders, asks the vault, answers as JSON.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::orders::{self, Order};
use super::routes::{Target, field};
use super::{Call, Refusal, Shared};

/// Google's front end takes less.
const BODY_BYTES: usize = 16 << 20;

pub async fn run(shared: Arc<Shared>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let accepting = tokio::spawn(async move {
        // Connections end with this task.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((socket, _)) = accepted else { continue };
                    connections.spawn(connection(socket, Arc::clone(&shared)));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    (addr, accepting)
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    socket.set_nodelay(true).ok();
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // A caller that leaves is no fault of the server.
    let _ended = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let method = head.method.as_str();
    let target = Target::parse(method, head.uri.path());
    let token = head
        .headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let number = shared.book(Call {
        kind: target.as_ref().map(|target| target.kind),
        target: head.uri.to_string(),
        token: token.map(str::to_owned),
        status: None,
    });
    let body = Limited::new(body, BODY_BYTES).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let order = target
        .as_ref()
        .and_then(|target| shared.orders().take(target.kind));
    if matches!(order, Some(Order::Swallow)) {
        return std::future::pending().await;
    }
    if let Some(Order::Html(status)) = order {
        shared.note(number, status);
        return Ok(page(status));
    }
    if let Some(Order::Delay(delay)) = order {
        tokio::time::sleep(delay).await;
    }
    let admitted = shared.orders().admits(token);
    let result = admitted
        .and_then(|()| target.ok_or_else(|| Refusal::not_found("The requested URL was not found.")))
        .and_then(|target| shared.perform(&target, query, &body, order.as_ref()));
    match order {
        Some(Order::Drop) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Order::Mute) => return std::future::pending().await,
        _ => {}
    }
    let status = result
        .as_ref()
        .map_or_else(|refusal| refusal.status, |_| 200);
    shared.note(number, status);
    let body = result.unwrap_or_else(|refusal| refusal.to_json());
    Ok(json(status, &body))
}

fn json(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=UTF-8")
        .body(Full::from(body.to_string()))
        .expect("an answer")
}

fn page(status: u16) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "text/html; charset=UTF-8")
        .body(Full::from("<!DOCTYPE html><title>Error</title>"))
        .expect("an answer")
}

impl Shared {
    fn book(&self, call: Call) -> usize {
        let mut calls = self.calls();
        calls.push(call);
        calls.len() - 1
    }

    fn note(&self, number: usize, status: u16) {
        self.calls()[number].status = Some(status);
    }

    fn perform(
        &self,
        target: &Target,
        query: &str,
        body: &[u8],
        order: Option<&Order>,
    ) -> Result<Value, Refusal> {
        match order {
            Some(Order::Refuse(status)) => return Err(orders::refusal(*status)),
            Some(Order::Deny) => return Err(target.denied()),
            _ => {}
        }
        let body: Value = match body {
            [] => Value::Null,
            body => serde_json::from_slice(body)
                .map_err(|_| Refusal::invalid("Invalid JSON payload received."))?,
        };
        let mut vault = self.vault();
        if let Some(Order::After(change)) = order {
            let (project, secret) = (&target.project, &target.secret);
            let newest = vault.newest(project, secret).expect("a version");
            let payload = change(&String::from_utf8_lossy(&newest.data));
            vault.put(project, secret, payload.as_bytes());
        }
        let as_numbers = [field(query, "alt"), field(query, "$alt")]
            .iter()
            .any(|alt| alt.contains("enum-encoding=int"));
        let mut answer = vault.answer(target, query, &body)?;
        if as_numbers {
            number_states(&mut answer);
        }
        Ok(answer)
    }
}

/// Enums as numbers, for callers that ask for them so.
fn number_states(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(number_states),
        Value::Object(fields) => {
            for (name, value) in fields {
                let number = match (name.as_str(), value.as_str()) {
                    ("state", Some("ENABLED")) => 1,
                    ("state", Some("DISABLED")) => 2,
                    ("state", Some("DESTROYED")) => 3,
                    _ => {
                        number_states(value);
                        continue;
                    }
                };
                *value = number.into();
            }
        }
        _ => {}
    }
}
