//! Settings: environment, flags and `.env` become one checked [`Config`]. The only reader of the
//! environment; reports every fault at once. Must not know who uses the settings, nor log.

mod accounts;
mod assemble;
mod base_url;
mod client;
mod dotenv;
mod google;
mod reader;
mod source;
#[cfg(test)]
mod tests;
mod upstream;
mod upstreams_file;
mod values;
mod vars;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use accounts::MOST_TOKENS;
pub use client::{CLIENT_KEY, client_key, local_url};
pub use source::Sources;
pub use upstream::{Fallback, UpstreamAuth, UpstreamConfig, UpstreamsConfig};
pub use vars::{Kind, VARS, Var, markdown_table};

use crate::secret::Secret;

/// The effective settings of one process, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; with port 0 the system chooses the port.
    pub host: IpAddr,
    pub port: u16,
    pub h2c: bool,
    pub metrics_port: Option<u16>,
    pub upstreams: UpstreamsConfig,
    pub google: GoogleConfig,
    pub keys: KeysConfig,
    pub usage: UsageConfig,
    pub data_dir: PathBuf,
    /// Holds users and budgets.
    pub database: Database,
    /// The embedded file with the usage table of [`SinkKind::Local`].
    pub usage_file: PathBuf,
    pub accounts: AccountsConfig,
    pub public_models: bool,
    /// Allowed origins; `*` stands for all; empty switches CORS off.
    pub cors_origins: Vec<String>,
    pub limits: Limits,
    pub log: LogConfig,
    pub instance: Instance,
    /// What is allowed but deserves a line in the log at start, each as `VARIABLE: text`.
    pub warnings: Vec<String>,
    /// Every variable with its effective value, fit for printing.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Reads the process's environment and `./.env` (outside Cloud Run) beside these flags of
    /// `serve`, which are variable names with values and win.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(flags: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        Self::from_sources(&Sources::of_process(flags))
    }

    /// Builds the settings from given sources. Reads only the files that these name.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        assemble::config(sources)
    }
}

/// Where keys and rows are, for the verbs that need no more than that.
#[derive(Clone, Debug)]
pub struct Paths {
    pub google: GoogleConfig,
    /// A file may not exist yet, also when it was named.
    pub keys: KeysSource,
    pub sink: SinkKind,
    /// The embedded file with the usage table of [`SinkKind::Local`].
    pub usage_file: PathBuf,
    pub database: Database,
    /// For users made on the command line.
    pub default_token_limit: u64,
}

impl Paths {
    /// Reads the process's environment and `./.env`, judging only what leads to them.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load() -> Result<Self, ConfigError> {
        assemble::paths(&Sources::of_process(BTreeMap::new()))
    }
}

/// One variable as it is in effect.
#[derive(Clone, Debug)]
pub struct Setting {
    pub name: &'static str,
    /// Secrets are stars, also inside URLs.
    pub value: String,
    pub origin: Origin,
}

/// Where a value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Flag,
    Environment,
    Dotenv,
    /// The file that `NAME_FILE` names.
    File,
}

impl Origin {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Dotenv => ".env",
            Self::File => "file",
        }
    }
}

/// A configuration that cannot be used: the program ends with exit code 64.
#[derive(Debug)]
pub struct ConfigError {
    /// Sorted by variable, each as `VARIABLE: what is right`; holds no secret.
    pub faults: Vec<String>,
    pub warnings: Vec<String>,
    /// What was read, as in [`Config::settings`].
    pub settings: Vec<Setting>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where users and budgets are.
#[derive(Clone, Debug)]
pub enum Database {
    /// There are no users and no token budgets.
    None,
    /// A file of this machine, for one instance.
    Sqlite(PathBuf),
    /// A URL, `postgres://...`, shared by all instances.
    Postgres(Secret<String>),
}

impl Database {
    /// Whether a token budget can be held: what all instances share, or the one instance's own.
    #[must_use]
    pub fn holds_budgets(&self, on_cloud_run: bool) -> bool {
        match self {
            Self::None => false,
            Self::Sqlite(_) => !on_cloud_run,
            Self::Postgres(_) => true,
        }
    }
}

/// Users, their tokens and limits.
#[derive(Clone, Debug)]
pub struct AccountsConfig {
    /// At least 32 bytes; `None`: a random one is kept in the data directory.
    pub jwt_secret: Option<Secret<String>>,
    pub access_token_life: Duration,
    pub registration: Registration,
    /// Tokens.
    pub default_token_limit: u64,
    /// Highest limit that users may give themselves, in tokens.
    pub max_self_token_limit: u64,
    /// How long a leased part of a budget is an instance's own without word of it.
    pub lease: Duration,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Whoever calls this machine by a loopback name, through no proxy.
    Local,
    /// Whoever shows an admin key.
    Admin,
    Closed,
}

/// Google's services, and the emulators that stand in for them.
#[derive(Clone, Debug, Default)]
pub struct GoogleConfig {
    /// `None`: the metadata server knows.
    pub project: Option<String>,
    /// `http://127.0.0.1:N` of an emulator; `None` for Google's own.
    pub secret_manager_endpoint: Option<String>,
    /// As above.
    pub bigquery_endpoint: Option<String>,
    /// `127.0.0.1:N` of an emulator; `None` for Google's own.
    pub metadata_host: Option<String>,
}

/// Where keys come from and how old they may get.
#[derive(Clone, Debug)]
pub struct KeysConfig {
    pub source: KeysSource,
    pub refresh: Duration,
    pub max_stale: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysSource {
    File {
        path: PathBuf,
        /// The file was named by the user, so it must exist.
        explicit: bool,
    },
    Secret(SecretRef),
}

/// A secret of Secret Manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// `None`: the project of the configuration.
    pub project: Option<String>,
    pub name: String,
    /// `None`: the latest.
    pub version: Option<u64>,
}

impl std::str::FromStr for SecretRef {
    type Err = String;

    /// `NAME`, `NAME/versions/N`, or either behind `projects/P/secrets/`; the error follows the
    /// text that was given.
    fn from_str(text: &str) -> Result<Self, String> {
        google::secret_ref(text)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(project) = &self.project {
            write!(f, "projects/{project}/secrets/")?;
        }
        f.write_str(&self.name)?;
        match self.version {
            Some(version) => write!(f, "/versions/{version}"),
            None => Ok(()),
        }
    }
}

/// Where usage rows go.
#[derive(Clone, Debug)]
pub struct UsageConfig {
    pub sink: SinkKind,
    /// Labels of the service, on every row, in the order given.
    pub labels: Vec<(String, String)>,
}

/// The sinks of usage rows. Every row is a log line besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    BigQuery(TableRef),
    /// The embedded table, `DATA_DIR/tollgate.db`.
    Local,
    /// The log line is the only copy.
    Stdout,
    /// As `Stdout`: the log line is written, nothing else.
    None,
}

/// A table of BigQuery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRef {
    /// `None`: the project of the configuration.
    pub project: Option<String>,
    pub dataset: String,
    pub table: String,
}

/// Bounds on bytes and time.
#[derive(Clone, Debug)]
pub struct Limits {
    pub body_bytes: usize,
    pub buffered_bytes: usize,
    pub cold_start_wait: Duration,
    pub keepalive: Duration,
    pub upstream_idle: Duration,
    pub client_stall: Duration,
    pub drain: Duration,
}

/// How log lines look.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A directive of `tracing_subscriber::EnvFilter`, e.g. `info`.
    pub level: String,
    pub json: bool,
    /// Colours in text lines: standard output is a terminal.
    pub colour: bool,
}

/// Which process this is: constant columns of every row.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `K_SERVICE`, else empty.
    pub service: String,
    /// `K_REVISION`, else empty.
    pub revision: String,
    /// Short random id of this process.
    pub instance_id: String,
    /// Cloud region, else empty.
    pub region: String,
    /// Google project for trace links.
    pub project: Option<String>,
    /// `K_SERVICE` is set.
    pub on_cloud_run: bool,
}
