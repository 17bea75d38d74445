//! A settled call: what the request path knows of it. Never a prompt or an answer, and nothing of
//! queues, sinks or tables.

use std::sync::Arc;
use std::time::SystemTime;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Complete,
    ClientAbort,
    UpstreamError,
    Timeout,
    Drained,
}

impl Outcome {
    /// The word in the row, and a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientAbort => "client_abort",
            Self::UpstreamError => "upstream_error",
            Self::Timeout => "timeout",
            Self::Drained => "drained",
        }
    }
}

/// Where the token counts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CountedBy {
    /// The engine's final usage.
    Engine,
    /// The engine's last running count before the call was cut.
    Running,
    /// Counted here, from events seen.
    Estimate,
    /// Nothing is known; the counts are zero.
    None,
}

impl CountedBy {
    /// The word in the row, and a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Running => "running",
            Self::Estimate => "estimate",
            Self::None => "none",
        }
    }
}

/// What a call took of a lease on its budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charged {
    /// The lease's id.
    pub lease: Arc<str>,
    /// Of the admissions on the lease, from 1.
    pub number: u64,
    /// In tokens.
    pub charged: u64,
}

/// A settled call.
#[derive(Clone, Debug)]
pub struct UsageRecord {
    pub request_id: String,
    pub client_request_id: Option<String>,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
    /// `service` or `user`.
    pub principal: &'static str,
    pub key_name: Option<Arc<str>>,
    pub key_id: Option<Arc<str>>,
    pub username: Option<Arc<str>>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The model id sent upstream, if it is known.
    pub served_model: Option<String>,
    pub upstream: String,
    pub endpoint: &'static str,
    pub stream: bool,
    /// HTTP status the client saw; 499 if it left before the head.
    pub status: u16,
    pub outcome: Outcome,
    pub error_code: Option<String>,
    /// With cached ones.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub counted_by: CountedBy,
    pub attempts: u32,
    pub wait_ms: u64,
    /// It started its upstream.
    pub woke: bool,
    /// First data, not the head.
    pub first_byte_ms: Option<u64>,
    pub duration_ms: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// User-agent product.
    pub client: Option<String>,
    /// Trace id of the request, 32 hexadecimal digits; for the log line, no column.
    pub trace: Option<String>,
    /// What it took of a limited budget; for the log line, no column.
    pub budget: Option<Charged>,
    /// Labels of the key; the ledger puts the service's before them.
    pub labels: Arc<[(String, String)]>,
}
