//! Routes of administrators. Never a key.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::Answer;
use super::{Gateway, ops, reply};
use crate::auth::Rejected;
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
    reply::json(StatusCode::OK, &json!({"keys": gateway.keys.names()}))
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
            "version": keys.version,
            "age_seconds": keys.age.map(|age| age.as_secs()),
            "rejected": rejected(&keys.rejected),
        },
        "upstreams": ops::upstreams(gateway),
        "in_flight": gateway.metrics.in_flight(),
        "rows": {"waiting": gateway.ledger.waiting(), "written": ledger.written, "lost": ledger.lost},
        "limits": {"concurrency": "per instance"},
    });
    reply::json(StatusCode::OK, &body)
}

fn rejected(rejected: &[Rejected]) -> Vec<Value> {
    rejected.iter().map(|entry| json!({"name": entry.name, "reason": entry.reason})).collect()
}
