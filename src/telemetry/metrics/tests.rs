//! What `/metrics` promises about calls and labels.

use std::sync::Arc;

use super::*;
use crate::usage::CountedBy;

fn record(outcome: Outcome) -> UsageRecord {
    UsageRecord {
        request_id: String::new(),
        client_request_id: None,
        started_at: UNIX_EPOCH,
        finished_at: UNIX_EPOCH,
        principal: "service",
        key_name: None,
        key_id: None,
        username: None,
        model: None,
        served_model: None,
        upstream: String::new(),
        endpoint: "chat/completions",
        stream: true,
        status: 200,
        outcome,
        error_code: None,
        prompt_tokens: 10,
        cached_tokens: 4,
        completion_tokens: 3,
        counted_by: CountedBy::Engine,
        attempts: 1,
        wait_ms: 0,
        woke: false,
        first_byte_ms: Some(90),
        duration_ms: 700,
        request_bytes: 0,
        response_bytes: 0,
        client: None,
        trace: None,
        budget: None,
        labels: Arc::default(),
    }
}

#[test]
fn a_call_is_counted_once_with_its_tokens() {
    let metrics = Metrics::new();
    metrics.admitted();
    metrics.admitted();
    metrics.settled(&record(Outcome::ClientAbort), "m\"1");
    metrics.answered("chat", 200);
    metrics.refused(Code::InvalidApiKey);
    metrics.connection_opened();
    let text = metrics.encode(&Gauges::default());
    for line in [
        r#"tollgate_calls_total{outcome="client_abort",endpoint="chat/completions",model="m\"1"} 1"#,
        r#"tollgate_tokens_total{kind="prompt",model="m\"1"} 10"#,
        r#"tollgate_tokens_total{kind="cached",model="m\"1"} 4"#,
        r#"tollgate_http_requests_total{route="chat",status="200"} 1"#,
        r#"tollgate_refusals_total{code="invalid_api_key"} 1"#,
        "tollgate_requests_in_flight 1",
        "tollgate_connections 1",
        "tollgate_clients_gone_total 1",
        r#"tollgate_time_to_first_byte_seconds_bucket{le="0.1"} 1"#,
        "tollgate_call_duration_seconds_sum 0.7",
        concat!(
            "tollgate_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn model_labels_are_bounded() {
    let metrics = Metrics::new();
    for model in 0..10 * MOST_MODELS {
        metrics.admitted();
        metrics.settled(&record(Outcome::Complete), &format!("model-{model}"));
    }
    metrics.settled(&record(Outcome::Complete), "model-0");
    let text = metrics.encode(&Gauges::default());
    assert_eq!(
        text.matches(r#"tollgate_tokens_total{kind="prompt""#)
            .count(),
        MOST_MODELS + 1
    );
    assert!(
        text.contains(r#"tollgate_tokens_total{kind="prompt",model="model-0"} 20"#),
        "{text}"
    );
}
