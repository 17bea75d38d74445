//! The upstreams as they are in effect, in the words of the upstreams file; keys are stars.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::{Fallback, UpstreamConfig};

/// A block of lines for each.
pub(super) fn as_table(upstreams: &[UpstreamConfig]) -> String {
    let mut table = String::new();
    for upstream in upstreams {
        let _infallible = writeln!(table, "upstream {}", upstream.name);
        for (field, value) in rows(upstream) {
            let value: String = value
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            let _infallible = writeln!(table, "  {field:14}  {value}");
        }
    }
    table
}

pub(super) fn as_json(upstream: &UpstreamConfig) -> Value {
    let is_keyed = upstream.api_key.is_some();
    json!({
        "name": upstream.name,
        "urls": upstream.urls,
        "models": upstream.models,
        "aliases": upstream.aliases,
        "auth": upstream.auth.as_str(),
        "api_key": is_keyed.then_some("***"),
        "api_key_env": upstream.api_key_env,
        "max_model_len": upstream.max_model_len,
        "scale_to_zero": upstream.scale_to_zero,
        "max_concurrent": upstream.max_concurrent,
        "idle_seconds": upstream.idle.map(|idle| idle.as_secs()),
        "fallback": upstream.fallback.iter().map(name).collect::<Vec<_>>(),
    })
}

fn rows(upstream: &UpstreamConfig) -> [(&'static str, String); 10] {
    let models = list(&upstream.models, "all that it lists");
    let aliases = upstream.aliases.iter();
    let aliases: Vec<_> = aliases
        .map(|(alias, model)| format!("{alias} = {model}"))
        .collect();
    let key = match &upstream.api_key {
        Some(_) => format!("*** from {}", upstream.api_key_env),
        None => "none".to_owned(),
    };
    let fallback = upstream.fallback.iter();
    let fallback: Vec<_> = fallback
        .map(|to| match to {
            Fallback::Upstream(_) => format!("upstream {}", name(to)),
            Fallback::Model(_) => format!("model {}", name(to)),
        })
        .collect();
    [
        ("urls", list(&upstream.urls, "none")),
        ("models", models),
        ("aliases", list(&aliases, "none")),
        ("auth", upstream.auth.as_str().to_owned()),
        ("api_key", key),
        (
            "max_model_len",
            told(upstream.max_model_len, "what it tells"),
        ),
        (
            "scale_to_zero",
            told(upstream.scale_to_zero, "if it is https://*.run.app"),
        ),
        ("max_concurrent", told(upstream.max_concurrent, "no limit")),
        (
            "idle_seconds",
            told(
                upstream.idle.map(|idle| idle.as_secs()),
                "UPSTREAM_IDLE_SECONDS",
            ),
        ),
        ("fallback", list(&fallback, "none")),
    ]
}

fn name(fallback: &Fallback) -> &str {
    match fallback {
        Fallback::Upstream(name) | Fallback::Model(name) => name,
    }
}

fn list(items: &[String], none: &str) -> String {
    if items.is_empty() {
        none.to_owned()
    } else {
        items.join(", ")
    }
}

fn told(value: Option<impl ToString>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}
