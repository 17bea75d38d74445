//! What administrators and scrapers are told of each upstream: what is known already.

use serde_json::{Value, json};

use super::Gateway;
use super::admin::rfc3339;
use crate::telemetry::metrics::{Tokens, UpstreamGauges};
use crate::upstream::{State, Target};

/// Every upstream with its address and what is known of it, for administrators.
pub fn status(gateway: &Gateway) -> Vec<Value> {
    let targets = gateway.upstream.targets().iter();
    targets.map(|target| describe(target)).collect()
}

fn describe(target: &Target) -> Value {
    let known = target.knowledge();
    let cards = known.models.iter().flatten();
    let models: Vec<&str> = cards.map(|card| card.id.as_str()).collect();
    let compared = target.meter().comparison();
    json!({
        "url": target.url(),
        "state": target.state().as_str(),
        "in_flight": target.in_flight(),
        "models": models,
        "is_vllm": known.is_vllm,
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
    let targets = gateway.upstream.targets().iter();
    targets.map(|target| gauges_of(target)).collect()
}

fn gauges_of(target: &Target) -> UpstreamGauges {
    let comparison = target.meter().comparison();
    UpstreamGauges {
        url: target.url().to_owned(),
        is_up: target.state() == State::Ready,
        tokens: comparison.map(|compared| Tokens {
            engine: compared.engine_tokens,
            gateway: compared.gateway_tokens,
            unaccounted: compared.unaccounted_tokens,
        }),
    }
}
