//! One table of BigQuery, thin over the crate `gcp-bigquery-client`: rows go in, sums come out. Knows
//! neither what the columns mean nor what a row was before it was text; whoever opens a table brings
//! its columns.
//!
//! Nothing is built before the first request: each HTTP client loads the system's certificates, and
//! no start waits for that.

mod insert;
mod probe;
mod query;
mod rest;
mod schema;

pub use insert::Verdict;
pub use query::{Cells, Parameter, TABLE};
pub use schema::Prepared;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::{Client, auth::Authenticator};
use google_cloud_auth::credentials::AccessTokenCredentials;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{Fault, Google, no_credentials};
use crate::config::TableRef;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a whole answer: an insert mostly takes a tenth of a second, on bad days some.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Credentials are made anew at most once in this time: each keeps a task of its own that outlives
/// them for up to an hour.
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for a token.
const TOKEN_LIMIT: Duration = Duration::from_secs(10);
/// Connections idle for longer may be dead without having said so, above all in a process that was
/// frozen.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
const GOOGLE: &str = "https://bigquery.googleapis.com";

/// What a table must be like.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// A JSON array of BigQuery's table field schemas, as `bq show --schema` prints it.
    pub columns: &'static str,
    /// Column of the day partition.
    pub partition_by: &'static str,
    pub cluster_by: &'static [&'static str],
    /// Column that names a row for ever; the insert id of a row sent again.
    pub insert_id: &'static str,
    pub description: &'static str,
    /// Labels of a table that is made here.
    pub labels: HashMap<String, String>,
}

/// A table, which may not exist yet.
pub struct Table {
    google: Arc<Google>,
    name: TableRef,
    spec: TableSpec,
    clients: OnceCell<Clients>,
    tokens: Mutex<Tokens>,
    bearer: Bearer,
    /// Only one lane looks after the table at a time.
    preparing: tokio::sync::Mutex<()>,
    known: Mutex<schema::Known>,
}

#[derive(Default)]
struct Tokens {
    /// `None` before the first request, and after a token was refused.
    credentials: Option<AccessTokenCredentials>,
    renewed: Option<Instant>,
}

/// The crate's client, and the HTTP client in it.
struct Clients {
    bigquery: Client,
    http: reqwest012::Client,
    base: String,
}

/// What a request needs: clients with a token that is still good, and full names.
struct Session<'t> {
    bigquery: &'t Client,
    http: &'t reqwest012::Client,
    base: &'t str,
    token: String,
    project: &'t str,
    dataset: &'t str,
    table: &'t str,
}

impl Table {
    /// Asks nobody and builds nothing yet.
    #[must_use]
    pub fn new(google: &Arc<Google>, name: &TableRef, spec: TableSpec) -> Self {
        Self {
            google: google.clone(),
            name: name.clone(),
            spec,
            clients: OnceCell::new(),
            tokens: Mutex::default(),
            bearer: Bearer::default(),
            preparing: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// # Errors
    /// Permanent without a project, without credentials or without certificates.
    async fn session(&self) -> Result<Session<'_>, Fault> {
        let project = match &self.name.project {
            Some(project) => project,
            None => self.google.project().await?,
        };
        let clients = self.clients.get_or_try_init(|| self.build()).await?;
        let token = self.token().await?;
        self.bearer.set(&token);
        Ok(Session {
            bigquery: &clients.bigquery,
            http: &clients.http,
            base: &clients.base,
            token,
            project,
            dataset: &self.name.dataset,
            table: &self.name.table,
        })
    }

    async fn build(&self) -> Result<Clients, Fault> {
        let broken = |cause: String| {
            Fault::permanent(format!("no client for BigQuery can be made: {cause}"))
        };
        // Reading certificates takes a while and must not keep a worker from serving.
        let http = tokio::task::spawn_blocking(http_client)
            .await
            .map_err(|cause| broken(cause.to_string()))?
            .map_err(|cause| broken(cause.to_string()))?;
        let host = self.google.config().bigquery_endpoint.as_deref();
        let base = format!("{}/bigquery/v2", host.unwrap_or(GOOGLE));
        let bigquery = ClientBuilder::new()
            .with_v2_base_url(base.clone())
            .with_client(http.clone())
            .build_from_authenticator(Arc::new(self.bearer.clone()))
            .await
            .map_err(|cause| broken(cause.to_string()))?;
        Ok(Clients {
            bigquery,
            http,
            base,
        })
    }

    /// A token that is good now; an emulator without a metadata server gets a word that is none.
    async fn token(&self) -> Result<String, Fault> {
        let known = self.tokens().credentials.clone();
        let credentials = if let Some(credentials) = known {
            credentials
        } else {
            let host = self.google.config().bigquery_endpoint.as_deref();
            let Some(credentials) = self.google.access_tokens(host)? else {
                return Ok("none".to_owned());
            };
            self.tokens().credentials.insert(credentials).clone()
        };
        let text = match tokio::time::timeout(TOKEN_LIMIT, credentials.access_token()).await {
            Ok(Ok(token)) => return Ok(token.token),
            Ok(Err(cause)) => no_credentials("BigQuery", &cause),
            Err(_) => "no token for BigQuery came in time".to_owned(),
        };
        // Credentials that failed for good stay so.
        self.renew_tokens();
        Err(Fault::transient(text))
    }

    /// Forgets the credentials and with them the token that they keep, unless that was just done.
    fn renew_tokens(&self) {
        let mut tokens = self.tokens();
        let now = Instant::now();
        if tokens.renewed.is_none_or(|at| now - at >= RENEW_EVERY) {
            tokens.renewed = Some(now);
            tokens.credentials = None;
        }
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's failure in words. `what` was being done, e.g. `cannot write to`.
    fn fault(&self, what: &str, refusal: &Refusal) -> Fault {
        // The crate cannot tell a bad token from other answers that it does not understand.
        if matches!(refusal.status, 0 | 401) {
            self.renew_tokens();
        }
        let TableRef { dataset, table, .. } = &self.name;
        let Refusal { text, reason, .. } = refusal;
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(" ({reason})")
        };
        Fault {
            permanent: refusal.is_permanent(),
            text: format!("{what} the table {dataset}.{table}: {text}{reason}"),
        }
    }
}

fn http_client() -> reqwest012::Result<reqwest012::Client> {
    reqwest012::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .redirect(reqwest012::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// The token of the next request. The crate asks for it in the middle of a request, where a failure
/// could not be told in its own words; so it is fetched before.
#[derive(Clone, Default)]
struct Bearer(Arc<Mutex<String>>);

impl Bearer {
    fn set(&self, token: &str) {
        token.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[async_trait]
impl Authenticator for Bearer {
    async fn access_token(&self) -> Result<String, BQError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

/// How BigQuery answered a request that it did not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// HTTP status; 0 if no answer could be read. The crate loses the status of an answer that is no
    /// JSON, e.g. a proxy's page.
    status: u16,
    /// BigQuery's word, e.g. `rateLimitExceeded`; empty if there is none.
    reason: String,
    text: String,
}

impl Refusal {
    fn is_missing(&self) -> bool {
        self.status == 404
    }

    /// No right, as opposed to too much at once, which has the same status.
    fn is_denied(&self) -> bool {
        self.status == 403
            && !matches!(
                self.reason.as_str(),
                "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded" | "backendError"
            )
    }

    /// The same request will be refused until somebody changes something.
    fn is_permanent(&self) -> bool {
        match self.status {
            0 | 401 | 404 | 408 | 429 => false,
            403 => self.is_denied(),
            status => status < 500,
        }
    }
}

impl From<BQError> for Refusal {
    fn from(error: BQError) -> Self {
        match error {
            BQError::ResponseError { error } => {
                let first = error.error.errors.first();
                let reason = first.and_then(|error| error.get("reason"));
                Self {
                    status: u16::try_from(error.error.code).unwrap_or_default(),
                    reason: reason.cloned().unwrap_or_default(),
                    text: error.error.message,
                }
            }
            BQError::RequestError(error) => error.into(),
            other => Self {
                status: 0,
                reason: String::new(),
                text: other.to_string(),
            },
        }
    }
}

impl From<reqwest012::Error> for Refusal {
    fn from(error: reqwest012::Error) -> Self {
        let text = if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "no connection"
        } else if error.is_decode() {
            "the answer is not BigQuery's"
        } else {
            "the connection broke"
        };
        Self {
            status: 0,
            reason: String::new(),
            text: text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_must_change_is_permanent() {
        let cases = [
            (0, "", false),
            (400, "invalid", true),
            (401, "authError", false),
            (403, "accessDenied", true),
            (403, "billingNotEnabled", true),
            (403, "rateLimitExceeded", false),
            (403, "quotaExceeded", false),
            (404, "notFound", false),
            (408, "", false),
            (413, "uploadTooLarge", true),
            (429, "rateLimitExceeded", false),
            (500, "internalError", false),
            (503, "backendError", false),
        ];
        for (status, reason, permanent) in cases {
            let refusal = Refusal {
                status,
                reason: reason.to_owned(),
                text: String::new(),
            };
            assert_eq!(refusal.is_permanent(), permanent, "{status} {reason}");
        }
    }
}
