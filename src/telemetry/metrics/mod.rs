//! The metrics registry, by Prometheus' conventions. Label values come from closed sets and from
//! configuration; all else is `other`, so that no caller can make the registry grow.

mod exposition;
#[cfg(test)]
mod tests;
mod upstreams;

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use exposition::{BudgetGauges, CONTENT_TYPE, Gauges};
pub use upstreams::{Tokens, UpstreamGauges};

use crate::error::Code;
use crate::usage::{Outcome, UsageRecord};

/// More models than this share the label `other`.
const MOST_MODELS: usize = 64;
const OTHER: &str = "other";

/// From a cached tokenizer call to a reasoning model that writes for half an hour.
const DURATION_SECONDS: [f64; 14] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
];
/// From a warm small model to a long prompt behind a queue.
const FIRST_BYTE_SECONDS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 240.0,
];
/// From no wait at all to a cold start.
const WAIT_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 240.0];
/// From one exchange with the database to as long as a call waits for others.
const BUDGET_WAIT_SECONDS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    outcome: &'static str,
    endpoint: &'static str,
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    kind: &'static str,
    model: String,
}

/// The handles of one model's token counts, so that a call looks up once.
#[derive(Clone, Debug)]
struct ModelTokens {
    prompt: Counter,
    completion: Counter,
    cached: Counter,
}

/// Counts what happens. Cheap to call: atomics, and for labels one look-up under a read lock.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    answers: Family<AnswerLabels, Counter>,
    refusals: Family<CodeLabels, Counter>,
    pardons: Family<CodeLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    /// The models that have a label of their own.
    models: RwLock<HashMap<String, ModelTokens>>,
    in_flight: Gauge,
    connections: Gauge,
    connections_opened: Counter,
    clients_gone: Counter,
    duration: Histogram,
    first_byte: Histogram,
    wait: Histogram,
    budget_wait: Histogram,
}

impl Metrics {
    /// An empty registry; the process counts as started now.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            answers: Family::default(),
            refusals: Family::default(),
            pardons: Family::default(),
            calls: Family::default(),
            tokens: Family::default(),
            models: RwLock::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_opened: Counter::default(),
            clients_gone: Counter::default(),
            duration: Histogram::new(DURATION_SECONDS),
            first_byte: Histogram::new(FIRST_BYTE_SECONDS),
            wait: Histogram::new(WAIT_SECONDS),
            budget_wait: Histogram::new(BUDGET_WAIT_SECONDS),
        };
        metrics.register();
        metrics
    }

    /// A response head left for a client.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.answers
            .get_or_create(&AnswerLabels { route, status })
            .inc();
    }

    /// A request ended in an error of the gateway's own.
    pub fn refused(&self, code: Code) {
        self.refusals
            .get_or_create(&CodeLabels {
                code: code.as_str(),
            })
            .inc();
    }

    /// A limit that is only watched would have refused a call.
    pub fn pardoned(&self, code: Code) {
        self.pardons
            .get_or_create(&CodeLabels {
                code: code.as_str(),
            })
            .inc();
    }

    /// A call has waited for tokens, and got some or none.
    pub fn waited_for_tokens(&self, time: Duration) {
        self.budget_wait.observe(time.as_secs_f64());
    }

    /// A call was admitted; [`Metrics::settled`] must follow once.
    pub fn admitted(&self) {
        self.in_flight.inc();
    }

    /// An admitted call turned out to be one that is refused; stands for [`Metrics::settled`].
    pub fn withdrawn(&self) {
        self.in_flight.dec();
    }

    /// Calls admitted and not yet ended.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// A call ended. `model_label` must come from configuration or from the upstream's own list,
    /// never from a request alone.
    pub fn settled(&self, record: &UsageRecord, model_label: &str) {
        self.in_flight.dec();
        if record.outcome == Outcome::ClientAbort {
            self.clients_gone.inc();
        }
        let (model, tokens) = self.model(model_label);
        tokens.prompt.inc_by(record.prompt_tokens);
        tokens.completion.inc_by(record.completion_tokens);
        tokens.cached.inc_by(record.cached_tokens);
        let labels = CallLabels {
            outcome: record.outcome.as_str(),
            endpoint: record.endpoint,
            model: model.to_owned(),
        };
        self.calls.get_or_create(&labels).inc();
        self.duration.observe(seconds(record.duration_ms));
        self.wait.observe(seconds(record.wait_ms));
        if let Some(first_byte_ms) = record.first_byte_ms {
            self.first_byte.observe(seconds(first_byte_ms));
        }
    }

    /// A client connected.
    pub fn connection_opened(&self) {
        self.connections.inc();
        self.connections_opened.inc();
    }

    /// A connection ended; follows each [`Metrics::connection_opened`] once.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// All metrics as text of the type [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self, gauges: &Gauges) -> String {
        exposition::encode(&self.registry, gauges)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        // The exposition adds `_total` to counters.
        registry.register(
            "tollgate_http_requests",
            "Responses by route and status",
            self.answers.clone(),
        );
        registry.register(
            "tollgate_refusals",
            "Requests that ended in an error of the gateway's own",
            self.refusals.clone(),
        );
        registry.register(
            "tollgate_dry_run_refusals",
            "Calls that limits with dry_run would have refused",
            self.pardons.clone(),
        );
        registry.register("tollgate_calls", "Settled model calls", self.calls.clone());
        registry.register(
            "tollgate_tokens",
            "Tokens of settled calls; cached ones are part of prompt",
            self.tokens.clone(),
        );
        registry.register(
            "tollgate_requests_in_flight",
            "Admitted calls that are not settled",
            self.in_flight.clone(),
        );
        registry.register(
            "tollgate_connections",
            "Open client connections",
            self.connections.clone(),
        );
        registry.register(
            "tollgate_connections_opened",
            "Client connections accepted",
            self.connections_opened.clone(),
        );
        registry.register(
            "tollgate_clients_gone",
            "Clients that left before their answer was whole",
            self.clients_gone.clone(),
        );
        self.register_times();
    }

    fn register_times(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "tollgate_call_duration_seconds",
            "Admission to settlement",
            self.duration.clone(),
        );
        registry.register(
            "tollgate_time_to_first_byte_seconds",
            "Admission to the first data from the upstream",
            self.first_byte.clone(),
        );
        registry.register(
            "tollgate_upstream_wait_seconds",
            "Waiting for an upstream that was not ready",
            self.wait.clone(),
        );
        registry.register(
            "tollgate_budget_wait_seconds",
            "Waiting for tokens of a budget that were not there at once",
            self.budget_wait.clone(),
        );
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        registry.register(
            "process_start_time_seconds",
            "Start of the process since the epoch",
            ConstGauge::new(started),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("tollgate_build", "Version of the gateway", build);
    }

    /// The label itself while there is room or it is known, else `other`; with its counters.
    fn model<'a>(&self, label: &'a str) -> (&'a str, ModelTokens) {
        let known = self
            .models
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(label)
            .cloned();
        if let Some(tokens) = known {
            return (label, tokens);
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let label = if models.len() < MOST_MODELS || models.contains_key(label) {
            label
        } else {
            OTHER
        };
        let tokens = models
            .entry(label.to_owned())
            .or_insert_with(|| self.model_tokens(label));
        (label, tokens.clone())
    }

    fn model_tokens(&self, model: &str) -> ModelTokens {
        let counter = |kind| {
            self.tokens.get_or_create_owned(&TokenLabels {
                kind,
                model: model.to_owned(),
            })
        };
        ModelTokens {
            prompt: counter("prompt"),
            completion: counter("completion"),
            cached: counter("cached"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}
