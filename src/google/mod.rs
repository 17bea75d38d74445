//! Google's services, thin over Google's own clients: who this process is, what it may read, where
//! its rows go. Knows nothing of HTTP routes, key sets or usage; an emulator may stand in for each.

mod bigquery;
mod id_token;
mod metadata;
mod secrets;

pub use bigquery::{Cells, Parameter, Prepared, TABLE, Table, TableSpec, Verdict};
pub use id_token::{IdToken, TokenSource};
pub use metadata::Metadata;
pub use secrets::{EDIT_WAIT, MAX_SECRET_BYTES, SecretVersion, Secrets};

use std::fmt;

use google_cloud_auth::credentials::{self, AccessTokenCredentials, Credentials, anonymous, mds};
use tokio::sync::OnceCell;

use crate::config::GoogleConfig;

/// What every token is good for; what it may do is decided by the roles of its account.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Of what others say, so much is repeated.
const MOST_SAID_CHARS: usize = 300;

/// Why one of Google's services, or what stands in for it, did not do what it was asked; for logs and
/// people at a terminal, never for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Trying again will not help until somebody changes something.
    pub permanent: bool,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    pub(crate) fn permanent(text: impl Into<String>) -> Self {
        Self {
            permanent: true,
            text: text.into(),
        }
    }

    pub(crate) fn transient(text: impl Into<String>) -> Self {
        Self {
            permanent: false,
            text: text.into(),
        }
    }
}

/// The configured project and the credentials of this process.
pub struct Google {
    config: GoogleConfig,
    metadata: Metadata,
    project: OnceCell<String>,
}

impl Google {
    /// Asks nobody and builds nothing yet.
    #[must_use]
    pub fn new(config: &GoogleConfig) -> Self {
        Self {
            metadata: Metadata::new(config.metadata_host.as_deref()),
            project: OnceCell::new_with(config.project.clone()),
            config: config.clone(),
        }
    }

    #[must_use]
    pub fn config(&self) -> &GoogleConfig {
        &self.config
    }

    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The configured project, else the one that this process runs in.
    ///
    /// # Errors
    /// Permanent where there is no metadata server: then somebody has to set the project.
    pub async fn project(&self) -> Result<&str, Fault> {
        let ask = || async {
            self.metadata.project().await.map_err(|fault| Fault {
                text: format!("no Google project is known: set GCP_PROJECT ({fault})"),
                ..fault
            })
        };
        self.project.get_or_try_init(ask).await.map(String::as_str)
    }

    /// Credentials for a service at this endpoint: none for an emulator, else those of the
    /// metadata server or of the person who is logged in.
    pub(crate) fn credentials(&self, endpoint: Option<&str>) -> Result<Credentials, Fault> {
        match self.access_tokens(endpoint)? {
            None => Ok(anonymous::Builder::new().build()),
            Some(tokens) => Ok(tokens.into()),
        }
    }

    /// As [`Google::credentials`], as tokens; `None` for an emulator that needs none.
    pub(crate) fn access_tokens(
        &self,
        endpoint: Option<&str>,
    ) -> Result<Option<AccessTokenCredentials>, Fault> {
        let built = match (&self.config.metadata_host, endpoint) {
            (Some(host), _) => mds::Builder::default()
                .with_endpoint(format!("http://{host}"))
                .with_scopes([SCOPE])
                .build_access_token_credentials(),
            (None, Some(_)) => return Ok(None),
            (None, None) => credentials::Builder::default()
                .with_scopes([SCOPE])
                .build_access_token_credentials(),
        };
        built.map(Some).map_err(|cause| {
            Fault::permanent(format!("there are no Google credentials to use: {cause}"))
        })
    }
}

/// That there are no credentials for `what`, why, and what to do. Only the first cause is repeated: the
/// library's own words about it speak of attempts.
fn no_credentials(what: &str, error: &dyn std::error::Error) -> String {
    format!(
        "this process has no Google credentials for {what}; on Google Cloud its service needs an account, elsewhere run `gcloud auth application-default login`{}",
        first_cause(error)
    )
}

/// The first cause, in brackets, as a part of a line.
fn first_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.last().map_or_else(String::new, |cause| {
        format!(" ({})", shortened(&cause.to_string()))
    })
}

/// Another's words, short and in one line.
fn shortened(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST_SAID_CHARS)
        .collect()
}
