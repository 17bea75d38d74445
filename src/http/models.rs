//! The list of models: what the upstreams are known to serve, and the aliases. Nothing is invented
//! and nothing is woken for it.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::body::Answer;
use super::{Gateway, reply};
use crate::error::Error;
use crate::upstream::unknown_model;

/// A model as the list shows it.
type Card = Map<String, Value>;

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
    let card = cards.iter().find(|card| self::id(card) == Some(id));
    Ok(reply::json(StatusCode::OK, card.ok_or_else(unknown_model)?))
}

/// The models that the upstreams told of, each once, and the aliases that lead to one.
async fn cards(gateway: &Gateway) -> Vec<Card> {
    let known = gateway.upstream.list().await;
    let is_known = known.iter().any(|known| known.models.is_some());
    let mut models: Vec<Card> = Vec::new();
    for model in known.iter().flat_map(|known| known.models.iter().flatten()) {
        if models.iter().all(|seen| id(seen) != Some(&model.id)) {
            models.push(model.raw.clone());
        }
    }
    let mut cards = models.clone();
    for (alias, model) in gateway.upstream.aliases() {
        let target = match (model.as_str(), models.as_slice()) {
            ("*", [only]) => Some(only),
            ("*", _) => None,
            (wanted, models) => models.iter().find(|card| id(card) == Some(wanted)),
        };
        // One that leads nowhere is not listed; one whose model is not known yet is.
        let leads_somewhere = target.is_some() || !is_known;
        if leads_somewhere && models.iter().all(|card| id(card) != Some(alias)) {
            cards.push(alias_card(alias, target));
        }
    }
    cards
}

/// An alias as a model of its own, with what is known of the model behind it.
fn alias_card(alias: &str, target: Option<&Card>) -> Card {
    let of_target = |name: &str| target.and_then(|card| card.get(name)).cloned();
    let created = of_target("created").unwrap_or_else(|| 0.into());
    let members = [
        ("id", Some(alias.into())),
        ("object", Some("model".into())),
        ("created", Some(created)),
        ("owned_by", Some("tollgate".into())),
        ("root", of_target("id")),
        ("max_model_len", of_target("max_model_len")),
    ];
    let known = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

fn id(card: &Card) -> Option<&str> {
    card.get("id")?.as_str()
}
