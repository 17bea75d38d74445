//! What an upstream is known to serve, learnt from its `/v1/models` and `/version`.

use http::StatusCode;
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
        let models = self.models.as_deref()?;
        let is_latest = |card: &&ModelCard| card.id.strip_suffix(":latest") == Some(id);
        (models.iter().find(|card| card.id == id)).or_else(|| models.iter().find(is_latest))
    }
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
        Ok(Ok((StatusCode::OK, body))) => Some(is_vllm_version(&body)),
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

/// `LocalAI` has a version, too: `{"version":"v3.8.0 (...)"}`, where vLLM's begins with its number.
fn is_vllm_version(body: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let has_v = |text: &str| {
        text.strip_prefix('v')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    answer
        .get("version")
        .is_some_and(|version| !version.as_str().is_some_and(has_v))
}

fn read_list(body: &[u8]) -> Option<Vec<ModelCard>> {
    let list: Value = serde_json::from_slice(body).ok()?;
    // Some servers send the bare list.
    let Value::Array(cards) = (match list {
        Value::Object(mut list) => list.remove("data")?,
        list => list,
    }) else {
        return None;
    };
    let cards = cards.into_iter().filter_map(|card| {
        let Value::Object(mut raw) = card else {
            return None;
        };
        let id = raw.get("id")?.as_str()?.to_owned();
        let max_model_len = context_length(&raw);
        if let Some(length) = max_model_len {
            raw.insert("max_model_len".to_owned(), length.into());
        }
        Some(ModelCard {
            id,
            max_model_len,
            raw,
        })
    });
    Some(cards.collect())
}

/// The context length on a card, wherever the server puts it: the one that it was loaded with before
/// the most that the model has.
fn context_length(card: &Map<String, Value>) -> Option<u64> {
    const NAMES: [&str; 8] = [
        // vLLM.
        "max_model_len",
        // LM Studio.
        "loaded_context_length",
        // llama.cpp, under `meta`.
        "n_ctx",
        // Jan.
        "ctx_len",
        "context_length",
        "context_window",
        "max_context_length",
        "n_ctx_train",
    ];
    let meta = card.get("meta");
    let member = |name: &&str| card.get(*name).or_else(|| meta?.get(*name))?.as_u64();
    NAMES.iter().find_map(member).filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_any_server_tells_its_models_and_their_context() {
        let cases = [
            (
                r#"{"object":"list","data":[{"id":"m","max_model_len":4096,"context_length":8192}]}"#,
                Some(4096),
            ),
            (
                r#"{"models":[{"name":"m"}],"object":"list","data":[{"id":"m","meta":{"n_ctx":4096,"n_ctx_train":32768}}]}"#,
                Some(4096),
            ),
            (
                r#"{"data":[{"id":"m","meta":{"n_ctx_train":32768}}]}"#,
                Some(32768),
            ),
            (
                r#"{"data":[{"id":"m","loaded_context_length":4096,"max_context_length":32768}]}"#,
                Some(4096),
            ),
            (
                r#"{"data":[{"id":"m","max_context_length":32768}]}"#,
                Some(32768),
            ),
            (r#"{"data":[{"id":"m","ctx_len":4096}]}"#, Some(4096)),
            (r#"[{"id":"m","context_length":4096}]"#, Some(4096)),
            (
                r#"{"data":[{"id":"m","meta":null,"max_model_len":null,"context_window":"long"}]}"#,
                None,
            ),
            (
                r#"{"data":[{"id":"m","n_ctx":0},{"object":"model"},7]}"#,
                None,
            ),
        ];
        for (body, context) in cases {
            let models = read_list(body.as_bytes()).expect(body);
            assert_eq!(models.len(), 1, "{body}");
            assert_eq!(models[0].max_model_len, context, "{body}");
            let shown = models[0].raw.get("max_model_len").and_then(Value::as_u64);
            assert_eq!(shown, context, "{body}");
        }
        for body in [r#"{"models":[{"id":"m"}]}"#, r#"{"data":{}}"#, "7", ""] {
            assert!(read_list(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn vllm_is_told_from_others_by_its_version() {
        for (body, is_vllm) in [
            (r#"{"version":"0.32.0"}"#, true),
            (r#"{"version":"0.1.dev1+g2"}"#, true),
            (r#"{"version":"v3.8.0 (c0d1d02)"}"#, false),
            (r#"{"message":"llama"}"#, false),
            ("v1", false),
        ] {
            assert_eq!(is_vllm_version(body.as_bytes()), is_vllm, "{body}");
        }
    }

    #[test]
    fn a_model_without_its_tag_is_the_latest() {
        let models = read_list(
            br#"{"data":[{"id":"a:latest"},{"id":"b:7b"},{"id":"c"},{"id":"c:latest"}]}"#,
        );
        let known = Knowledge {
            models,
            ..Knowledge::default()
        };
        let found = |id| known.card(id).map(|card| card.id.as_str());
        assert_eq!(found("a"), Some("a:latest"));
        assert_eq!(found("b"), None);
        assert_eq!(found("c"), Some("c"));
    }
}
