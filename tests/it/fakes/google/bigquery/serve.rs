//! The socket: accepts, reads requests, lets orders interfere, answers. All tasks end with the server.

use std::io;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::faults::{Fault, Operation};
use super::refusal::Refusal;
use super::{Shared, insert, routes};

const BACKLOG: u32 = 1024;
const HTML: &str = "<!DOCTYPE html>\n<html lang=en>\n<title>Error 502 (Server Error)!!1</title>\n\
    <p>The server encountered a temporary error and could not complete your request.</html>\n";

/// One call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub operation: Operation,
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// After decompression; null if it was no JSON.
    pub body: Value,
    /// Of the body, decompressed.
    pub body_bytes: usize,
    /// Whether it was answered as it wished, as far as orders go.
    pub interfered: bool,
}

/// An answer: a status and JSON, or no content.
pub type Answer = Result<Value, Refusal>;

/// The task of a running server.
pub struct Running(JoinHandle<()>);

impl Running {
    /// Closes the port and every connection.
    pub async fn stop(mut self) {
        self.0.abort();
        // It was aborted.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Binds without listening.
pub fn reserve(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("address reuse");
    socket.bind(addr).expect("a port");
    socket
}

/// Listens and serves until stopped.
pub fn run(socket: TcpSocket, shared: Arc<Shared>) -> Running {
    let listener = socket.listen(BACKLOG).expect("a listening socket");
    Running(tokio::spawn(accept(listener, shared)))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
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
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    socket.set_nodelay(true).ok();
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    // The other side may leave as it likes.
    let _ = serving.await;
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let body = decompressed(&head.headers, body)?;
    let path = percent_decoded(head.uri.path());
    let mut call = Call {
        operation: routes::operation(&head.method, &path),
        method: head.method,
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        body_bytes: body.len(),
        interfered: false,
    };
    let fault = shared.state().orders.fault(call.operation);
    call.interfered = fault.is_some();
    // A call is on record when what it wants was done, so that who waits for it finds the rows.
    let record = |call: &Call| shared.calls.send_modify(|calls| calls.push(call.clone()));
    if let Some(Fault::Refuse(_) | Fault::Html | Fault::Never | Fault::Swallow) = fault {
        record(&call);
    }
    match fault {
        Some(Fault::Refuse(refusal)) => return Ok(json(Err(refusal))),
        Some(Fault::Html) => return Ok(html(StatusCode::BAD_GATEWAY)),
        Some(Fault::Swallow) => return Ok(json(Ok(insert::acknowledged()))),
        Some(Fault::Never) => std::future::pending().await,
        _ => {}
    }
    let done = routes::handle(&shared, &call).await;
    record(&call);
    match fault {
        Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Lost) => return Err(io::Error::other("the answer is lost")),
        Some(Fault::Unreadable) => return Ok(html(StatusCode::OK)),
        _ => {}
    }
    Ok(json(done))
}

fn decompressed(headers: &HeaderMap, body: Bytes) -> io::Result<Bytes> {
    let encoding = headers.get("content-encoding");
    if encoding.is_none_or(|encoding| encoding != "gzip") {
        return Ok(body);
    }
    let mut plain = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
    Ok(plain.into())
}

fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if let (b'%', Some(byte)) = (first, tail.get(..2).and_then(code)) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn html(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(HTML));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert("content-type", kind);
    response
}

fn json(answer: Answer) -> Response<Full<Bytes>> {
    let (status, body) = match answer {
        Ok(Value::Null) => (204, Value::Null),
        Ok(body) => (200, body),
        Err(refusal) => (refusal.status, refusal.body()),
    };
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=UTF-8");
    if let Some(etag) = body["etag"].as_str() {
        response = response.header("etag", etag);
    }
    response.body(Full::from(text)).expect("a response")
}
