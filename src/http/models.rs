//! The list of models: what the upstreams are known to serve, and the aliases. Nothing is invented
//! and nothing is woken for it.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::body::Answer;
use super::{Gateway, reply};
use crate::error::Error;
use crate::upstream::{Knowledge, unknown_model};

/// `GET /v1/models`.
pub async fn list(gateway: &Gateway) -> Answer {
    reply::json(
        StatusCode::OK,
        &json!({"object": "list", "data": cards(gateway).await}),
    )
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// `model_not_found`.
pub async fn one(gateway: &Gateway, id: &str) -> Result<Answer, Error> {
    let cards = cards(gateway).await;
    let card = cards
        .iter()
        .find(|card| card.get("id").and_then(Value::as_str) == Some(id));
    Ok(reply::json(StatusCode::OK, card.ok_or_else(unknown_model)?))
}

async fn cards(gateway: &Gateway) -> Vec<Map<String, Value>> {
    let known = gateway.upstream.list().await;
    let mut cards: Vec<Map<String, Value>> = Vec::new();
    for card in known.iter().flat_map(|known| known.models.iter().flatten()) {
        let is_new = cards
            .iter()
            .all(|seen| seen.get("id") != card.raw.get("id"));
        if is_new {
            cards.push(card.raw.clone());
        }
    }
    for (alias, model) in gateway.upstream.aliases() {
        if let Some(card) = alias_card(alias, model, &cards, &known) {
            cards.push(card);
        }
    }
    cards
}

/// An alias as a model of its own. One that leads nowhere is not listed; one whose model is not
/// known yet is.
fn alias_card(
    alias: &str,
    model: &str,
    cards: &[Map<String, Value>],
    known: &[Arc<Knowledge>],
) -> Option<Map<String, Value>> {
    let is_known = known.iter().any(|known| known.models.is_some());
    let id_of =
        |card: &Map<String, Value>| card.get("id").and_then(Value::as_str).map(str::to_owned);
    if cards
        .iter()
        .any(|card| id_of(card).as_deref() == Some(alias))
    {
        return None;
    }
    let target = match (model, cards) {
        ("*", [only, ..])
            if known
                .iter()
                .all(|known| known.models.as_ref().is_none_or(|m| m.len() == 1)) =>
        {
            Some(only)
        }
        ("*", _) => None,
        (id, cards) => cards.iter().find(|card| id_of(card).as_deref() == Some(id)),
    };
    if is_known && target.is_none() {
        return None;
    }
    let mut card = Map::new();
    card.insert("id".to_owned(), alias.into());
    card.insert("object".to_owned(), "model".into());
    card.insert(
        "created".to_owned(),
        target
            .and_then(|card| card.get("created"))
            .cloned()
            .unwrap_or_else(|| 0.into()),
    );
    card.insert("owned_by".to_owned(), "tollgate".into());
    if let Some(target) = target {
        for name in ["id", "max_model_len"] {
            let Some(value) = target.get(name) else {
                continue;
            };
            card.insert(
                if name == "id" { "root" } else { name }.to_owned(),
                value.clone(),
            );
        }
    }
    Some(card)
}
