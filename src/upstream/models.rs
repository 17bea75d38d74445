//! What an upstream is known to serve, learnt from its `/v1/models` and `/version`.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::failure::{Rejected, is_refused};
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
    /// Context in tokens of the models that do not tell their own, as configured.
    pub default_context: Option<u64>,
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
        let Some(models) = self.models.as_deref() else {
            return self.default_context;
        };
        for card in models {
            longest = longest.max(Some(card.max_model_len.or(self.default_context)?));
        }
        longest
    }

    /// The context of a model by its id, as far as it is known.
    #[must_use]
    pub fn context(&self, id: &str) -> Option<u64> {
        let told = self.card(id).and_then(|card| card.max_model_len);
        told.or(self.default_context)
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
    /// There is no way to it: no such name, no trust.
    Unreachable(reqwest::Error),
    /// What stands before it has nowhere to send a call, or it is loading.
    HeldOff,
    /// It does not know us: there is no token to show, or our credentials are refused.
    Denied,
    /// It answered something else, or nothing in time.
    Other,
}

/// Asks the list, and where that is answered the version, until the deadline: of a server that
/// sleeps this is the one request that starts it.
pub async fn ask(target: &Target, deadline: Instant) -> Result<Knowledge, Silence> {
    let Ok(Ok(credentials)) = timeout_at(deadline, target.credentials()).await else {
        return Err(Silence::Denied);
    };
    let headers = credentials.headers();
    let get = |path| {
        let asked = (target.client()).get(target.route(path), headers.clone(), ANSWER_BYTES);
        timeout_at(deadline, asked)
    };
    let (status, list) = match get("/v1/models").await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if is_refused(&error) => return Err(Silence::Refused),
        Ok(Err(error)) if error.is_connect() => return Err(Silence::Unreachable(error)),
        Ok(Err(_)) | Err(_) => return Err(Silence::Other),
    };
    let answer = Rejected::new(status, list);
    if target.is_held_off_by(&answer) {
        return Err(Silence::HeldOff);
    }
    target.note_answer();
    if matches!(status.as_u16(), 401 | 403) {
        return Err(Silence::Denied);
    }
    let is_vllm = match get("/version").await {
        Ok(Ok((StatusCode::OK, body))) => {
            Some(serde_json::from_slice::<Value>(&body).is_ok_and(|v| v.get("version").is_some()))
        }
        Ok(Ok((status, _))) if matches!(status.as_u16(), 404 | 405 | 501) => Some(false),
        _ => None,
    };
    Ok(Knowledge {
        models: (status == StatusCode::OK)
            .then(|| read_list(&answer.body))
            .flatten(),
        is_vllm,
        asked_at: Some(Instant::now()),
        default_context: None,
    })
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
