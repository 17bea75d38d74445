//! What a private model server is shown, beside the key of the model server itself: an ID token of
//! the gateway's service account, in the header that Cloud Run checks and takes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use tokio::time::timeout;

use crate::config::UpstreamAuth;
use crate::error::{Code, Error};
use crate::google::{Fault, Google, IdToken, TokenSource};
use crate::secret::Secret;

/// Cloud Run checks this one before `Authorization`, which so stays free for the model server's key.
const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
/// The search for a metadata server, with the turn of those who came before.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// How to get in to one target.
pub(super) struct Access {
    google: Arc<Google>,
    token: IdToken,
    /// Without Google Cloud around there is no token, and none is needed.
    only_on_google: bool,
}

impl Access {
    /// `None` for a target that is open to all.
    pub(super) fn new(
        auth: UpstreamAuth,
        base: &Url,
        google: &Arc<Google>,
        on_cloud_run: bool,
    ) -> Option<Self> {
        let is_here = on_cloud_run || google.config().metadata_host.is_some();
        let (source, only_on_google) = match auth {
            UpstreamAuth::None => return None,
            UpstreamAuth::Auto if !is_cloud_run(base) => return None,
            UpstreamAuth::Auto => (TokenSource::Metadata, !is_here),
            UpstreamAuth::IdToken if is_here => (TokenSource::Metadata, false),
            UpstreamAuth::IdToken => (TokenSource::Default, false),
        };
        Some(Self {
            google: Arc::clone(google),
            token: IdToken::new(
                Arc::clone(google),
                source,
                base.origin().ascii_serialization(),
            ),
            only_on_google,
        })
    }

    /// What to send; `None` where nothing is.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, Fault> {
        if self.only_on_google {
            let search = timeout(SEARCH_LIMIT, self.google.metadata().is_there());
            if !search.await.unwrap_or(false) {
                return Ok(None);
            }
        }
        self.token.header().await.map(Some)
    }

    /// The target's front end turned a call away that was sent with `shown`. Tells what to do about
    /// it, for the log.
    pub(super) fn note_denial(&self, status: u16, shown: Option<&HeaderValue>) -> String {
        let audience = self.token.audience();
        let Some(shown) = shown else {
            return format!(
                "no ID token was sent to {audience}, for this is not Google Cloud; set UPSTREAM_AUTH=id_token if the service is private"
            );
        };
        if status == 401 {
            self.token.give_up(shown);
        }
        let account = self.account();
        format!(
            "if this was Cloud Run: grant {account} roles/run.invoker on the service, and see that {audience} is its URL or one of its custom audiences"
        )
    }

    pub(super) fn audience(&self) -> &str {
        self.token.audience()
    }

    /// Whose tokens these are.
    pub(super) fn account(&self) -> String {
        let named = self.token.account();
        named.unwrap_or_else(|| "the gateway's service account".to_owned())
    }

    pub(super) async fn close(&self) {
        self.token.close().await;
    }
}

/// The address of a Cloud Run service, which scales to zero and may be private.
pub(super) fn is_cloud_run(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default();
    base.scheme() == "https" && host.ends_with(".run.app")
}

/// The key that model servers themselves ask for.
#[derive(Clone)]
pub(super) struct ApiKey {
    bearer: Secret<HeaderValue>,
    /// False while a client has the same key.
    may_show: Arc<AtomicBool>,
}

impl ApiKey {
    /// # Errors
    /// When the key cannot be a header.
    pub(super) fn new(key: &Secret<String>, may_show: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let bearer = HeaderValue::try_from(format!("Bearer {}", key.expose()));
        let mut bearer = bearer.map_err(|_| {
            anyhow::anyhow!("the key of an upstream holds a character that no header can carry")
        })?;
        bearer.set_sensitive(true);
        Ok(Self {
            bearer: Secret::new(bearer),
            may_show,
        })
    }

    /// What to send, if it may be sent.
    pub(super) fn shown(&self) -> Option<HeaderValue> {
        let may_show = self.may_show.load(Ordering::Relaxed);
        may_show.then(|| self.bearer.expose().clone())
    }
}

/// What one request shows of us.
pub(super) struct Credentials {
    pub(super) key: Option<HeaderValue>,
    pub(super) token: Option<HeaderValue>,
}

impl Credentials {
    /// Puts each where it is looked for.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        if let Some(token) = &self.token {
            headers.insert(SERVERLESS, token.clone());
        }
    }

    /// The headers of our own questions.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.write(&mut headers);
        headers
    }
}

/// What the client is told when there is no token. The caller's own credentials are good.
pub(super) fn no_token(fault: Fault) -> Error {
    let text = "the gateway cannot prove to the model server who it is; this is for its operator to mend, not for the caller";
    Error::new(Code::UpstreamError, text).because(fault)
}
