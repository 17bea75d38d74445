//! The HTTP client towards model servers, and how their answers are read: always up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use reqwest::Url;
use tower::{Layer, Service};

/// An upstream that closes idle connections does so after five seconds; a connection that is
/// younger is never met while it closes.
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Connections to all targets.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    connections: Connections,
}

impl Client {
    /// # Errors
    /// When the system's certificates cannot be read.
    pub(super) fn new() -> anyhow::Result<Self> {
        let connections = Connections::default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(POOL_IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .no_proxy()
            .referer(false)
            .connector_layer(connections.clone())
            .build()?;
        Ok(Self { http, connections })
    }

    pub(super) fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> reqwest::RequestBuilder {
        self.http.post(url).headers(headers).body(body)
    }

    /// Connections that were begun so far. While the number stays, requests go on old ones.
    pub(super) fn connections(&self) -> u64 {
        self.connections.0.load(Ordering::Relaxed)
    }

    /// A small GET; the body is read up to `limit_bytes`.
    pub(super) async fn get(
        &self,
        url: Url,
        headers: HeaderMap,
        limit_bytes: usize,
    ) -> Result<(StatusCode, Bytes), reqwest::Error> {
        let answer = self.http.get(url).headers(headers).send().await?;
        let status = answer.status();
        Ok((status, read_bounded(answer, limit_bytes).await?))
    }
}

/// Counts the connections that are begun.
#[derive(Clone, Default)]
struct Connections(Arc<AtomicU64>);

impl<S> Layer<S> for Connections {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            connections: self.clone(),
        }
    }
}

#[derive(Clone)]
struct Counting<S> {
    inner: S,
    connections: Connections,
}

impl<S: Service<R>, R> Service<R> for Counting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: R) -> S::Future {
        self.connections.0.fetch_add(1, Ordering::Relaxed);
        self.inner.call(to)
    }
}

/// Reads a body up to a bound; what lies beyond is left.
pub(super) async fn read_bounded(
    answer: reqwest::Response,
    limit_bytes: usize,
) -> Result<Bytes, reqwest::Error> {
    let mut body = http::Response::<reqwest::Body>::from(answer).into_body();
    let mut read = BytesMut::new();
    while read.len() < limit_bytes
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data[..data.len().min(limit_bytes - read.len())]);
        }
    }
    Ok(read.freeze())
}
