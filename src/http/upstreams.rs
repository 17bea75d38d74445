//! What administrators and scrapers are told of each upstream: what is known already.

use serde_json::{Value, json};

use super::Gateway;
use super::admin::rfc3339;
use crate::telemetry::metrics::{Tokens, UpstreamGauges};
use crate::upstream::{State, Target};

/// Every upstream with its address and what is known of it, for administrators.
pub fn status(gateway: &Gateway) -> Vec<Value> {
    let targets = gateway.upstreams.named_targets();
    targets
        .map(|(name, target)| describe(name, target))
        .collect()
}

fn describe(name: &str, target: &Target) -> Value {
    let known = target.knowledge();
    let cards = known.models.iter().flatten();
    let models: Vec<&str> = cards.map(|card| card.id.as_str()).collect();
    let last_wake = target.last_wake();
    let compared = target.meter().comparison();
    json!({
        "name": name,
        "url": target.url(),
        "state": target.state().as_str(),
        "in_flight": target.in_flight(),
        "models": models,
        "is_vllm": known.is_vllm,
        "wakes": target.wakes(),
        "last_wake": last_wake.map(|wake| json!({"at": rfc3339(wake.at), "by": &*wake.by})),
        "learnt_start_seconds": target.learnt_start().map(|took| took.as_secs_f64()),
        "compared_since": target.meter().compared_since().map(rfc3339),
        "compared_at": compared.map(|compared| rfc3339(compared.at)),
        "engine_tokens": compared.map(|compared| compared.engine_tokens),
        "gateway_tokens": compared.map(|compared| compared.gateway_tokens),
        "unaccounted_tokens": compared.map(|compared| compared.unaccounted_tokens),
        "blurred_by_calls": compared.map(|compared| compared.blurred_by),
    })
}

/// The same for a scrape.
pub fn gauges(gateway: &Gateway) -> Vec<UpstreamGauges> {
    let targets = gateway.upstreams.targets().iter();
    targets.map(|target| gauges_of(target)).collect()
}

fn gauges_of(target: &Target) -> UpstreamGauges {
    let state = target.state();
    let comparison = target.meter().comparison();
    UpstreamGauges {
        url: target.url().to_owned(),
        is_up: state == State::Ready,
        states: State::ALL.map(|one| (one.as_str(), one == state)).to_vec(),
        wakes: target.wakes(),
        start_seconds: target.learnt_start().map(|took| took.as_secs_f64()),
        tokens: comparison.map(|compared| Tokens {
            engine: compared.engine_tokens,
            gateway: compared.gateway_tokens,
            unaccounted: compared.unaccounted_tokens,
        }),
    }
}
