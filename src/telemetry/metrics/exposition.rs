//! The text of `/metrics`: the registry, what is only known at this moment, and what the kernel
//! says of the process.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::upstreams::{self, UpstreamGauges};
use crate::telemetry::process::Process;
use crate::usage::LedgerStats;

/// The type of [`super::Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What other parts know at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub rows: LedgerStats,
    pub keys_loaded: u64,
    /// Version of the key set; `None` before the first one.
    pub key_set_version: Option<String>,
    /// `None` before the first key set.
    pub key_set_age_seconds: Option<f64>,
    /// When a fetch last brought or confirmed the key set.
    pub key_set_confirmed_at: Option<SystemTime>,
    /// Fetches of the key set that did neither.
    pub key_set_fetches_failed_total: u64,
    /// `None` without a database.
    pub budgets: Option<BudgetGauges>,
    /// `None` without users.
    pub password_hashes_total: Option<u64>,
    pub upstreams: Vec<UpstreamGauges>,
    /// Calls that wait for an upstream now.
    pub upstream_waiting: u64,
}

/// How the token budgets of this instance stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct BudgetGauges {
    pub leased_tokens: u64,
    pub reserved_tokens: u64,
    pub untold_tokens: u64,
    pub exchanges_total: u64,
    pub exchanges_failed_total: u64,
    pub store_statements_total: u64,
}

/// The whole text. A registry per scrape holds the passing values, so that two scrapes at once
/// cannot mix theirs.
pub(super) fn encode(lasting: &Registry, gauges: &Gauges) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a string cannot fail.
    let _infallible = encode_registry(&mut text, lasting);
    let _infallible = encode_registry(&mut text, &passing(gauges));
    name_counters(&text)
}

fn passing(gauges: &Gauges) -> Registry {
    let mut registry = Registry::default();
    describe_rows(&mut registry, &gauges.rows);
    describe_keys(&mut registry, gauges);
    if let Some(budgets) = &gauges.budgets {
        describe_budgets(&mut registry, budgets);
    }
    if let Some(hashes) = gauges.password_hashes_total {
        registry.register(
            "tollgate_password_hashes",
            "Passwords of users that were hashed, at logins and to be kept",
            ConstCounter::new(hashes),
        );
    }
    upstreams::describe(&mut registry, &gauges.upstreams);
    registry.register(
        "tollgate_upstream_waiting",
        "Calls that wait for an upstream now",
        gauge(gauges.upstream_waiting),
    );
    describe_process(&mut registry, &Process::read());
    registry
}

fn describe_keys(registry: &mut Registry, gauges: &Gauges) {
    registry.register(
        "tollgate_keys_loaded",
        "Keys in the current key set",
        gauge(gauges.keys_loaded),
    );
    registry.register(
        "tollgate_key_set_fetches_failed",
        "Fetches of the key set that neither brought nor confirmed one",
        ConstCounter::new(gauges.key_set_fetches_failed_total),
    );
    if let Some(version) = &gauges.key_set_version {
        registry.register(
            "tollgate_key_set",
            "Version of the current key set",
            Info::new([("version", version.clone())]),
        );
    }
    if let Some(age) = gauges.key_set_age_seconds {
        registry.register(
            "tollgate_key_set_age_seconds",
            "Since the source was asked for what it confirmed last",
            ConstGauge::new(age),
        );
    }
    if let Some(time) = gauges.key_set_confirmed_at {
        registry.register(
            "tollgate_key_set_confirmed_timestamp_seconds",
            "When a fetch last brought or confirmed the current key set",
            ConstGauge::new(
                time.duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs_f64(),
            ),
        );
    }
}

fn describe_budgets(registry: &mut Registry, budgets: &BudgetGauges) {
    for (name, help, tokens) in [
        (
            "tollgate_budget_tokens_leased",
            "Tokens that this instance has leased of budgets",
            budgets.leased_tokens,
        ),
        (
            "tollgate_budget_tokens_reserved",
            "Of these, held by calls in flight",
            budgets.reserved_tokens,
        ),
        (
            "tollgate_budget_tokens_untold",
            "Tokens used that the database has not been told of",
            budgets.untold_tokens,
        ),
    ] {
        registry.register(name, help, gauge(tokens));
    }
    for (name, help, count) in [
        (
            "tollgate_budget_exchanges",
            "Exchanges with the database about budgets",
            budgets.exchanges_total,
        ),
        (
            "tollgate_budget_exchanges_failed",
            "Exchanges about budgets that brought no answer",
            budgets.exchanges_failed_total,
        ),
        (
            "tollgate_store_statements",
            "Statements sent to the database of users and budgets",
            budgets.store_statements_total,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(count));
    }
}

fn describe_rows(registry: &mut Registry, rows: &LedgerStats) {
    registry.register(
        "tollgate_rows_waiting",
        "Usage rows that the sink has not acknowledged",
        gauge(u64::try_from(rows.waiting).unwrap_or(u64::MAX)),
    );
    for (name, help, count) in [
        (
            "tollgate_rows_written",
            "Usage rows that the sink acknowledged",
            rows.written,
        ),
        (
            "tollgate_rows_invalid",
            "Usage rows that the sink refused for good; they are in the log alone",
            rows.invalid,
        ),
        (
            "tollgate_rows_lost",
            "Usage rows that are in the log alone, because the queue was full",
            rows.lost,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(count));
    }
    let attempts = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (outcome, count) in [
        ("whole", rows.attempts.whole),
        ("partial", rows.attempts.partial),
        ("failed", rows.attempts.failed),
        ("refused", rows.attempts.refused),
    ] {
        attempts
            .get_or_create(&[("outcome", outcome)])
            .inc_by(count);
    }
    registry.register(
        "tollgate_row_writes",
        "Writes to the sink: all rows taken, some refused, failed for now, refused until somebody changes something",
        attempts,
    );
    let last = rows.last_written;
    if let Some(last) = last.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        registry.register(
            "tollgate_rows_last_written_timestamp_seconds",
            "When the sink last acknowledged a row, since the epoch",
            ConstGauge::new(last.as_secs_f64()),
        );
    }
}

fn describe_process(registry: &mut Registry, process: &Process) {
    if let Some(bytes) = process.resident_bytes {
        registry.register(
            "process_resident_memory_bytes",
            "Memory in use",
            ConstGauge::new(bytes),
        );
    }
    if let Some(files) = process.open_files {
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            ConstGauge::new(files),
        );
    }
    if let Some(seconds) = process.cpu_seconds {
        registry.register(
            "process_cpu_seconds",
            "Processor time used",
            ConstCounter::new(seconds),
        );
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The crate writes `OpenMetrics`, where a counter's comments lack the `_total` of its samples. The
/// older text format, which every scraper reads, wants them equal (and knows no type `info`).
fn name_counters(text: &str) -> String {
    let suffixes: HashSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter_map(|(name, kind)| match kind {
            "counter" => Some((name, "_total")),
            "info" => Some((name, "_info")),
            _ => None,
        })
        .collect();
    let suffix = |name: &str| {
        ["_total", "_info"]
            .into_iter()
            .find(|suffix| suffixes.contains(&(name, suffix)))
    };
    let mut named = String::with_capacity(text.len() + 512);
    for line in text.lines() {
        let comment = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|start| Some((start, line.strip_prefix(start)?)));
        match comment.and_then(|(start, rest)| Some((start, rest.split_once(' ')?))) {
            Some((start, (name, rest))) => {
                let rest = if start == "# TYPE " && rest == "info" {
                    "gauge"
                } else {
                    rest
                };
                named.extend([start, name, suffix(name).unwrap_or_default(), " ", rest]);
            }
            None => named.push_str(line),
        }
        named.push('\n');
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_samples_have_the_same_names() {
        let gauges = Gauges {
            rows: LedgerStats {
                waiting: 2,
                last_written: Some(UNIX_EPOCH),
                ..LedgerStats::default()
            },
            key_set_version: Some("v7".to_owned()),
            key_set_confirmed_at: Some(UNIX_EPOCH + std::time::Duration::from_secs(7)),
            key_set_fetches_failed_total: 3,
            budgets: Some(BudgetGauges {
                leased_tokens: 7,
                store_statements_total: 9,
                ..BudgetGauges::default()
            }),
            password_hashes_total: Some(5),
            ..Gauges::default()
        };
        let text = encode(&Registry::default(), &gauges);
        for line in [
            "# TYPE tollgate_rows_lost_total counter",
            "tollgate_rows_lost_total 0",
            "tollgate_rows_waiting 2",
            "# TYPE tollgate_key_set_fetches_failed_total counter",
            "tollgate_key_set_fetches_failed_total 3",
            "tollgate_key_set_confirmed_timestamp_seconds 7.0",
            r#"tollgate_row_writes_total{outcome="refused"} 0"#,
            "tollgate_budget_tokens_leased 7",
            "# TYPE tollgate_store_statements_total counter",
            "tollgate_store_statements_total 9",
            "tollgate_password_hashes_total 5",
            "tollgate_rows_last_written_timestamp_seconds 0.0",
            "# TYPE tollgate_key_set_info gauge",
            r#"tollgate_key_set_info{version="v7"} 1"#,
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(
            !text.contains("tollgate_key_set_age_seconds"),
            "unknown is absent"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_described() {
        let text = encode(&Registry::default(), &Gauges::default());
        for name in [
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_cpu_seconds_total ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
        }
    }
}
