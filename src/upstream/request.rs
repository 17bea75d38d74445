//! A call as it goes upstream: its body, and what every body needs written into it. Knows no target.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::models::Knowledge;
use super::{Affinity, Asked, Endpoint, Object, estimate};
use crate::error::{Code, Error};

/// What is to be sent upstream, and what the caller needs to know of it.
pub struct Request {
    pub endpoint: Endpoint,
    pub headers: HeaderMap,
    pub payload: Payload,
    /// As the client named it; empty is absent.
    pub model: Option<String>,
    /// The models that the caller may call, by id or by alias; `None` for all.
    pub allowed: Option<Vec<String>>,
    pub stream: bool,
    pub asked: Asked,
    /// The conversation that it belongs to.
    pub affinity: Option<Affinity>,
    /// The most output of each sequence that was granted; `None` for all.
    pub cap: Option<u64>,
    /// Whether a server that sleeps may be started for it.
    pub may_wake: bool,
    /// The name of the key or user that calls, for the log.
    pub by: Arc<str>,
    /// Stands for the body's bytes among all that are held; goes with them.
    pub held: OwnedSemaphorePermit,
}

/// The body of a call.
#[derive(Clone)]
pub enum Payload {
    Json(Object),
    /// A form with a file: passed on as it is.
    Form(Bytes),
}

impl Request {
    /// Checks the caller's list against the names of a model: the one that is asked for, and its id.
    ///
    /// # Errors
    /// `model_not_allowed`.
    pub(super) fn check_allowed<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        if names
            .into_iter()
            .any(|name| allowed.iter().any(|one| one == name))
        {
            return Ok(());
        }
        Err(Error::new(Code::ModelNotAllowed, "this key may not call this model").param("model"))
    }

    /// A guess at the tokens of the prompt, for a server that does not count them.
    #[must_use]
    pub fn estimate_prompt(&self) -> u64 {
        match &self.payload {
            Payload::Json(object) => estimate::prompt(object),
            Payload::Form(_) => 0,
        }
    }

    /// Whether a whole answer is asked for that is to have a form: calls of tools, or JSON.
    pub(super) fn asks_for_a_form(&self) -> bool {
        const FORMS: [&str; 10] = [
            "tools",
            "functions",
            "response_format",
            "structured_outputs",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "text",
            "output_config",
        ];
        match &self.payload {
            Payload::Json(object) if !self.stream => {
                FORMS.iter().any(|name| object.present(name).is_some())
            }
            _ => false,
        }
    }

    /// Writes into the body what every call needs: the model's id, and usage on streams.
    pub(super) fn prepare(&mut self, served: Option<&str>, known: &Knowledge) {
        let Payload::Json(object) = &mut self.payload else {
            return;
        };
        if let Some(served) = served
            && object.string("model").as_deref() != Some(served)
        {
            object.set("model", serde_json::Value::from(served).to_string());
        }
        match self.endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions if self.stream => {
                let options = stream_options(
                    object.present("stream_options"),
                    known.is_vllm.unwrap_or(true),
                );
                object.set("stream_options", options);
            }
            Endpoint::Responses if object.get("store") != Some("false") => {
                object.set("store", "false".to_owned());
            }
            _ => {}
        }
    }
}

/// The client's own options, with usage forced on: final usage everywhere, running usage where the
/// engine may have it.
fn stream_options(own: Option<&str>, continuous: bool) -> String {
    let text = Bytes::copy_from_slice(own.unwrap_or("{}").as_bytes());
    let Ok(mut options) = Object::parse(text) else {
        return own.unwrap_or("null").to_owned();
    };
    options.set("include_usage", "true".to_owned());
    if continuous {
        options.set("continuous_usage_stats", "true".to_owned());
    }
    String::from_utf8_lossy(&options.to_bytes()).into_owned()
}

impl Payload {
    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Json(object) => object.to_bytes(),
            Self::Form(bytes) => bytes.clone(),
        }
    }
}
