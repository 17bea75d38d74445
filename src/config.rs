//! Settings: environment, flags and `.env` become one checked [`Config`]. The only reader of the
//! environment; reports every fault at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// The effective settings of one process, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub h2c: bool,
    pub metrics_port: Option<u16>,
    pub upstream: UpstreamConfig,
    pub keys: KeysConfig,
    pub usage: UsageConfig,
    pub data_dir: PathBuf,
    pub public_models: bool,
    /// Allowed origins; `*` stands for all; empty switches CORS off.
    pub cors_origins: Vec<String>,
    pub limits: Limits,
    pub log: LogConfig,
    pub instance: Instance,
}

/// Where model calls go.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Base URLs without a trailing slash and without `/v1`; at least one. They share the load.
    pub urls: Vec<String>,
    /// Sent as Bearer.
    pub api_key: Option<Secret<String>>,
    /// Alias to model id; `*` stands for the only model of the upstream.
    pub aliases: BTreeMap<String, String>,
}

/// Where keys come from and how old they may get.
#[derive(Clone, Debug)]
pub struct KeysConfig {
    pub file: PathBuf,
    /// The file was named by the user, so it must exist.
    pub explicit: bool,
    pub refresh: Duration,
    pub max_stale: Duration,
}

/// Where usage rows go.
#[derive(Clone, Debug)]
pub struct UsageConfig {
    pub sink: SinkKind,
    /// Labels of the service, on every row, in the order given.
    pub labels: Vec<(String, String)>,
}

/// The sinks of usage rows. Every row is a log line besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// The embedded table, `DATA_DIR/tollgate.db`.
    Local,
    /// The log line is the only copy.
    Stdout,
    /// As `Stdout`: the log line is written, nothing else.
    None,
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
