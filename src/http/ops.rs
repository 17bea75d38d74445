//! Routes for whoever runs the gateway: what it is, whether it lives, whether it is ready, and its
//! metrics. They tell what is known and wait for nobody.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::body::Answer;
use super::route::Route;
use super::{Gateway, reply, upstreams};
use crate::auth::Users;
use crate::budget::Budgets;
use crate::store::Store;
use crate::telemetry::metrics::{BudgetGauges, CONTENT_TYPE, Gauges};

/// Routes of the listener for scrapers.
pub const fn is_for_scrapers(route: &Route) -> bool {
    matches!(route, Route::Metrics | Route::Health | Route::Ready)
}

/// `GET /`.
pub fn root() -> Answer {
    let links = json!({"health": "/health", "ready": "/ready", "models": "/v1/models", "chat": "/v1/chat/completions"});
    reply::json(
        StatusCode::OK,
        &json!({"name": "tollgate", "version": env!("CARGO_PKG_VERSION"), "links": links}),
    )
}

/// `GET /health`: the process serves. Nothing else is consulted.
pub fn health() -> Answer {
    reply::json(
        StatusCode::OK,
        &json!({"status": "ok", "service": "tollgate", "version": env!("CARGO_PKG_VERSION")}),
    )
}

/// `GET /ready`. Without a key set it also has one fetched, and a database that does not answer
/// asked again, and waits for nothing: a platform that sends no calls before this is 200 would
/// otherwise wait for ever after one failed attempt.
pub fn ready(gateway: &Gateway) -> Answer {
    let has_keys = gateway.keys.is_loaded();
    if !has_keys {
        gateway.keys.fetch_beside();
    }
    let store = gateway.store.as_ref();
    if let Some(store) = store {
        store.ask_beside();
    }
    let is_ready = has_keys && store.is_none_or(|store| store.has_answered());
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Anybody may ask: the addresses are for administrators.
    let targets = gateway.upstreams.targets().iter();
    let upstreams: Vec<Value> = targets
        .map(|target| json!({"state": target.state().as_str()}))
        .collect();
    let body = json!({
        "status": if is_ready { "ready" } else { "not_ready" },
        "keys": if has_keys { "ready" } else { "unknown" },
        "store": store.map_or("none", |store| store.state().as_str()),
        "upstreams": upstreams,
    });
    reply::json(status, &body)
}

/// `GET /metrics`.
pub fn metrics(gateway: &Gateway) -> Answer {
    let keys = gateway.keys.status();
    let gauges = Gauges {
        rows: gateway.ledger.stats(),
        keys_loaded: wide(keys.keys_loaded),
        key_set_version: keys.version,
        key_set_confirmed_at: keys.confirmed_at,
        key_set_fetches_failed_total: keys.fetches_failed,
        key_set_age_seconds: keys.age.map(|age| age.as_secs_f64()),
        budgets: gateway
            .budgets
            .as_ref()
            .zip(gateway.store.as_ref())
            .map(budget_gauges),
        password_hashes_total: gateway.users.as_ref().map(Users::passwords_hashed),
        upstreams: upstreams::gauges(gateway),
        upstream_waiting: wide(gateway.upstreams.waiting()),
    };
    reply::with_type(
        StatusCode::OK,
        CONTENT_TYPE,
        gateway.metrics.encode(&gauges),
    )
}

fn budget_gauges((budgets, store): (&Budgets, &Arc<Store>)) -> BudgetGauges {
    let status = budgets.status();
    BudgetGauges {
        leased_tokens: status.leased,
        reserved_tokens: status.reserved,
        untold_tokens: status.untold,
        exchanges_total: status.exchanges,
        exchanges_failed_total: status.failed,
        store_statements_total: store.statements(),
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
