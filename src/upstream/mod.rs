//! The model servers: which one takes a call, what it is sent, and what its answer means. Knows
//! nothing of who calls.

mod access;
mod bound;
mod chat;
mod endpoint;
mod estimate;
mod failure;
mod fit;
mod forward;
mod headers;
mod json;
mod length;
mod models;
mod object;
mod options;
mod progress;
mod reason;
mod request;
mod sse;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod verdict;

pub use bound::{Bound, DECISIVE};
pub use endpoint::Endpoint;
pub use failure::Refusal;
pub use forward::{Answer, Exchange};
pub use headers::{clean_incoming, outgoing};
pub use json::Capture;
pub use models::{Knowledge, ModelCard, unknown_model};
pub use object::Object;
pub use progress::{Passage, Progress};
pub use request::{Payload, Request};
pub use sse::{EVENT_BYTES, Splitter};
pub use stream::{Api, Stream};
pub use target::{Busy, State, Target};
pub use tokens::Tokens;
pub use verdict::{Asked, End};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use reqwest::Url;

use access::Access;

use crate::config::{Limits, UpstreamsConfig};
use crate::google::{Fault, Google};
use crate::secret::Secret;

/// An upstream that closes idle connections does so after five seconds; a connection that is
/// younger is never met while it closes.
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long `GET /v1/models` of a client may wait for the list, and how old a list may get there.
const LIST_LIMIT: Duration = Duration::from_millis(800);
const LIST_AGE: Duration = Duration::from_secs(10);

/// All model servers of this gateway.
pub struct Upstream {
    client: Client,
    targets: Vec<Arc<Target>>,
    /// Which target comes first among equals; counts up with each call.
    turn: AtomicUsize,
    aliases: BTreeMap<String, String>,
    limits: Limits,
    /// A call that waits in vain for a server on this machine says that it cannot be reached; any
    /// other is said to be starting.
    waits_end_unreachable: bool,
}

/// The HTTP client towards upstreams, with the gateway's own credential.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    api_key: Option<Secret<HeaderValue>>,
    may_show_key: Arc<AtomicBool>,
}

/// Whether a private target can be shown who the gateway is.
pub struct Proof {
    /// The target's origin.
    pub audience: String,
    /// Whose token it is; `None` where none is sent.
    pub outcome: Result<Option<String>, Fault>,
}

impl Upstream {
    /// Builds the client; asks nobody. The key of the configuration is sent only while
    /// `may_show_key` is true.
    ///
    /// # Errors
    /// When the key cannot be a header, or the system's certificates cannot be read.
    pub fn new(
        config: &UpstreamsConfig,
        limits: &Limits,
        google: &Arc<Google>,
        on_cloud_run: bool,
        may_show_key: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(POOL_IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .no_proxy()
            .referer(false)
            .build()?;
        let aliases = config.aliases.clone();
        let config = &config.upstreams[0];
        let api_key = match &config.api_key {
            Some(key) => {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|_| {
                        anyhow::anyhow!("VLLM_API_KEY holds a character that no header can carry")
                    })?;
                value.set_sensitive(true);
                Some(Secret::new(value))
            }
            None => None,
        };
        let access = |base: &Url| Access::new(config.auth, base, google, on_cloud_run);
        let targets = config
            .urls
            .iter()
            .map(|url| Ok(Arc::new(Target::new(url.clone(), access)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let all_here = targets.iter().all(|target| target.is_loopback());
        Ok(Self {
            client: Client {
                http,
                api_key,
                may_show_key,
            },
            targets,
            turn: AtomicUsize::new(0),
            aliases,
            limits: limits.clone(),
            waits_end_unreachable: all_here && !on_cloud_run,
        })
    }

    /// The gateway's own credential towards upstreams, if it may be sent.
    #[must_use]
    pub fn api_key(&self) -> Option<&Secret<HeaderValue>> {
        self.client.api_key()
    }

    #[must_use]
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    #[must_use]
    pub fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
    }

    /// What is known of every target, asking those again that may be asked: nothing that scales
    /// to zero, for the list is not worth a cold start.
    pub async fn list(&self) -> Vec<Arc<Knowledge>> {
        let asks = self.targets.iter().map(|target| async {
            if target.scales_to_zero() {
                return target.knowledge();
            }
            let asked = target.learn_older(&self.client, LIST_LIMIT, LIST_AGE).await;
            asked.unwrap_or_else(|_| target.knowledge())
        });
        futures_util::future::join_all(asks).await
    }

    /// Gets a token for each target that is shown one, and tells what came of it.
    pub async fn prove_identity(&self) -> Vec<Proof> {
        let private = self.targets.iter().filter_map(|target| target.access());
        let proofs = private.map(|access| async {
            let outcome = access.header().await;
            Proof {
                audience: access.audience().to_owned(),
                outcome: outcome.map(|token| token.map(|_| access.account())),
            }
        });
        futures_util::future::join_all(proofs).await
    }

    /// Ends what goes on beside the calls.
    pub async fn close(&self) {
        let private = self.targets.iter().filter_map(|target| target.access());
        futures_util::future::join_all(private.map(Access::close)).await;
    }
}

impl Client {
    fn api_key(&self) -> Option<&Secret<HeaderValue>> {
        let may_show = self.may_show_key.load(Ordering::Relaxed);
        self.api_key.as_ref().filter(|_| may_show)
    }

    /// The headers of our own questions.
    fn headers(&self, token: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(key) = self.api_key() {
            headers.insert(AUTHORIZATION, key.expose().clone());
        }
        access::show(&mut headers, token);
        headers
    }

    /// A small GET; the body is read up to `limit_bytes`.
    async fn get(
        &self,
        url: Url,
        token: Option<&HeaderValue>,
        limit_bytes: usize,
    ) -> Result<(u16, Bytes), reqwest::Error> {
        let request = self.http.get(url).headers(self.headers(token));
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, read_bounded(answer, limit_bytes).await?))
    }
}

/// Reads a body up to a bound; what lies beyond is left.
async fn read_bounded(
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
