//! The gateway's list of models.

use std::time::Duration;

use serde_json::Value;

use super::Remote;
use super::remedy::{Broken, explain, unanswered};

const LIMIT: Duration = Duration::from_secs(30);

/// One entry of the list.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: String,
    /// Context length in tokens.
    pub context: Option<u64>,
    /// The gateway's own card: of an alias, or of a model that only its configuration names.
    pub is_own: bool,
    /// The model behind an alias, if it is known.
    pub root: Option<String>,
}

impl Model {
    /// Whether more is known of it than its name, which alone may stand for nothing yet.
    pub const fn is_known(&self) -> bool {
        !self.is_own || self.root.is_some() || self.context.is_some()
    }
}

/// Asks for the list.
///
/// # Errors
/// There is none, in words.
pub async fn list(remote: &Remote) -> Result<Vec<Model>, Broken> {
    let answer = remote.get("/v1/models", LIMIT).await;
    let answer = answer.map_err(|trouble| unanswered(&trouble, remote))?;
    let body = answer.json();
    match body["data"].as_array() {
        Some(cards) if answer.is_success() => Ok(cards.iter().filter_map(read).collect()),
        _ => Err(explain(&answer, remote)),
    }
}

/// What to do about a list without an entry.
pub fn none() -> Broken {
    Broken::new(
        "the list of models is empty",
        "for the operator of the gateway: the model server serves none, or was not asked yet because it sleeps. Look at its own list (curl VLLM_ENDPOINT/v1/models), at VLLM_ENDPOINT or UPSTREAMS_FILE, and at MODEL_ALIASES; `tollgate doctor URL --model ID` calls a model that is not listed, and wakes the server",
    )
}

fn read(card: &Value) -> Option<Model> {
    let is_own = card["owned_by"] == "tollgate";
    let root = card["root"].as_str().filter(|_| is_own);
    Some(Model {
        id: card["id"].as_str()?.to_owned(),
        context: card["max_model_len"].as_u64(),
        is_own,
        root: root.map(str::to_owned),
    })
}
