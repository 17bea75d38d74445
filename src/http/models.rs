//! The list of models, as clients ask for it.

use http::StatusCode;
use serde_json::json;

use super::body::Answer;
use super::{Gateway, reply};
use crate::error::Error;
use crate::upstream::unknown_model;

/// `GET /v1/models`.
pub async fn list(gateway: &Gateway) -> Answer {
    let cards = gateway.upstreams.catalogue().await.cards;
    reply::json(StatusCode::OK, &json!({"object": "list", "data": cards}))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// `model_not_found`.
pub async fn one(gateway: &Gateway, id: &str) -> Result<Answer, Error> {
    let catalogue = gateway.upstreams.catalogue().await;
    let card = catalogue.card(id).ok_or_else(unknown_model)?;
    Ok(reply::json(StatusCode::OK, card))
}
