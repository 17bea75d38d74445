//! What an upstream is known to serve, learnt from its `/v1/models` and `/version`.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

use super::Client;
use crate::error::{Code, Error};

/// Longest list or version answer that is read.
const ANSWER_BYTES: usize = 1024 * 1024;

/// One model of an upstream.
#[derive(Clone, Debug)]
pub struct ModelCard {
    pub id: String,
    /// Context length in tokens, if the upstream tells it.
    pub max_model_len: Option<u64>,
    /// The card as the upstream sent it.
    pub raw: Map<String, Value>,
}

/// What is known of a target. Unknown is a state of its own: nothing is refused because of it.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// `None` until the upstream answered its list.
    pub models: Option<Vec<ModelCard>>,
    /// `None` until `/version` answered; until then it is taken for vLLM.
    pub is_vllm: Option<bool>,
    /// When the upstream was asked last.
    pub asked_at: Option<Instant>,
}

impl Knowledge {
    /// The only model, if the list is known and holds one.
    #[must_use]
    pub fn only_model(&self) -> Option<&ModelCard> {
        match self.models.as_deref() {
            Some([only]) => Some(only),
            _ => None,
        }
    }

    /// A model by its id.
    #[must_use]
    pub fn card(&self, id: &str) -> Option<&ModelCard> {
        self.models.as_deref()?.iter().find(|card| card.id == id)
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<Map<String, Value>>,
}

/// Why an upstream told nothing.
pub enum Silence {
    /// It does not listen.
    Refused,
    /// It answered something else, or nothing in time.
    Other,
}

/// Asks the list and the version, each within `limit`.
pub async fn ask(
    client: &Client,
    list: Url,
    version: Url,
    limit: Duration,
) -> Result<Knowledge, Silence> {
    let (list, version) = tokio::join!(
        timeout(limit, client.get(list, ANSWER_BYTES)),
        timeout(limit, client.get(version, ANSWER_BYTES)),
    );
    let is_vllm = match &version {
        Ok(Ok((200, body))) => {
            Some(serde_json::from_slice::<Value>(body).is_ok_and(|v| v.get("version").is_some()))
        }
        Ok(Ok((404 | 405 | 501, _))) => Some(false),
        _ => None,
    };
    match list {
        Ok(Ok((200, body))) => Ok(Knowledge {
            models: read_list(&body),
            is_vllm,
            asked_at: Some(Instant::now()),
        }),
        Ok(Err(error)) if super::failure::is_refused(&error) => Err(Silence::Refused),
        Ok(Ok(_)) => Ok(Knowledge {
            models: None,
            is_vllm,
            asked_at: Some(Instant::now()),
        }),
        _ => Err(Silence::Other),
    }
}

/// No upstream serves the model, and no alias leads to one.
#[must_use]
pub fn unknown_model() -> Error {
    Error::new(
        Code::ModelNotFound,
        "there is no such model here; the list of models tells which there are",
    )
}

fn read_list(body: &[u8]) -> Option<Vec<ModelCard>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let cards = list.data.into_iter().filter_map(|raw| {
        let id = raw.get("id")?.as_str()?.to_owned();
        Some(ModelCard {
            id,
            max_model_len: raw.get("max_model_len").and_then(Value::as_u64),
            raw,
        })
    });
    Some(cards.collect())
}
