//! Routes of administrators. Never a key.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::Answer;
use super::{Gateway, reply, upstreams};
use crate::auth::{KeyEntry, PreviousKey, Rejected};
use crate::budget::Budgets;
use crate::error::Error;

/// `GET` or `POST /admin/reload-keys`; `HEAD` does not reload.
///
/// # Errors
/// `reload_failed`; the old set stays.
pub async fn reload_keys(gateway: &Gateway, method: &Method) -> Result<Answer, Error> {
    if method == Method::HEAD {
        return Ok(reply::json(StatusCode::OK, &json!({})));
    }
    let reload = gateway.keys.reload().await?;
    let body = json!({
        "status": "success",
        "keys_loaded": reload.keys_loaded,
        "message": "API keys reloaded",
        "version": reload.version,
        "added": reload.added,
        "removed": reload.removed,
        "rejected": rejected(&reload.rejected),
        "instance": gateway.instance.instance_id,
        "revision": gateway.instance.revision,
    });
    Ok(reply::json(StatusCode::OK, &body))
}

/// `GET /admin/keys`.
pub fn keys(gateway: &Gateway) -> Answer {
    reply::json(
        StatusCode::OK,
        &json!({"keys": gateway.keys.entries().iter().map(|entry| key(entry)).collect::<Vec<_>>()}),
    )
}

/// `GET /admin/status`.
pub fn status(gateway: &Gateway) -> Answer {
    let keys = gateway.keys.status();
    let ledger = gateway.ledger.stats();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "instance": gateway.instance.instance_id,
        "service": gateway.instance.service,
        "revision": gateway.instance.revision,
        "keys": {
            "loaded": keys.keys_loaded,
            "source": keys.source,
            "version": keys.version,
            "age_seconds": keys.age.map(|age| age.as_secs()),
            "confirmed_at": keys.confirmed_at.and_then(rfc3339),
            "fetches_failed": keys.fetches_failed,
            "rejected": rejected(&keys.rejected),
            "failure": keys.failure,
        },
        "upstreams": upstreams::status(gateway),
        "in_flight": gateway.metrics.in_flight(),
        "rows": {
            "waiting": ledger.waiting,
            "written": ledger.written,
            "invalid": ledger.invalid,
            "lost": ledger.lost,
            "last_written": ledger.last_written.map(rfc3339),
            "failing": ledger.failing,
        },
        "limits": {
            "requests_per_minute": "per instance",
            "tokens_per_minute": "per instance",
            "max_concurrent": "per instance",
            "token_limit": if gateway.budgets.is_some() { "all instances together" } else { "none: there is no database" },
        },
        "store": gateway.store.as_ref().map_or("none", |store| store.state().as_str()),
        "budgets": gateway.budgets.as_ref().map(budgets),
    });
    reply::json(StatusCode::OK, &body)
}

/// What this instance has of all budgets together, in tokens but for the counts.
fn budgets(budgets: &Budgets) -> Value {
    let status = budgets.status();
    json!({
        "owners": status.owners,
        "leased": status.leased,
        "reserved": status.reserved,
        "untold": status.untold,
        "exchanges": status.exchanges,
        "exchanges_failed": status.failed,
    })
}

fn key(key: &KeyEntry) -> Value {
    let previous = |old: &PreviousKey| json!({"key_id": &*old.key_id, "expires_at": old.expires_at.map(rfc3339)});
    let minute = key.minute.as_deref();
    json!({
        "name": &*key.name,
        "key_id": &*key.key_id,
        "previous": key.previous.iter().map(previous).collect::<Vec<_>>(),
        "admin": key.admin,
        "models": key.models,
        "token_limit": key.allowance.limit,
        "period": key.allowance.limit.map(|_| key.allowance.period.as_str()),
        "requests_per_minute": minute.and_then(|minute| minute.requests),
        "tokens_per_minute": minute.and_then(|minute| minute.tokens),
        "max_concurrent": key.max_concurrent,
        "dry_run": key.allowance.dry_run,
        "wake": key.wake,
        "labels": key.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        "expires_at": key.expires_at.map(rfc3339),
        "last_used": key.last_used().map(rfc3339),
    })
}

/// A moment as answers show it.
pub(super) fn rfc3339(time: SystemTime) -> Option<String> {
    time::OffsetDateTime::from(time)
        .format(&time::format_description::well_known::Rfc3339)
        .ok()
}

fn rejected(rejected: &[Rejected]) -> Vec<Value> {
    rejected
        .iter()
        .map(|entry| json!({"name": entry.name, "reason": entry.reason}))
        .collect()
}
