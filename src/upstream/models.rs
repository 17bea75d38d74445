//! What an upstream is known to serve, learnt from its `/v1/models` and `/version`.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::target::Target;
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

    /// The longest context of all models, if each tells its own.
    #[must_use]
    pub fn longest_context(&self) -> Option<u64> {
        let mut longest = None;
        for card in self.models.as_deref()? {
            longest = longest.max(Some(card.max_model_len?));
        }
        longest
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
    /// It does not know us: there is no token to show, or our credentials are refused.
    Denied,
    /// It answered something else, or nothing in time.
    Other,
}

/// Asks the list and the version, until the deadline.
pub async fn ask(
    client: &Client,
    target: &Target,
    deadline: Instant,
) -> Result<Knowledge, Silence> {
    let Ok(Ok(token)) = timeout_at(deadline, target.token()).await else {
        return Err(Silence::Denied);
    };
    let get = |path| client.get(target.route(path), token.as_ref(), ANSWER_BYTES);
    let (list, version) = tokio::join!(
        timeout_at(deadline, get("/v1/models")),
        timeout_at(deadline, get("/version")),
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
        Ok(Ok((401 | 403, _))) => Err(Silence::Denied),
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
