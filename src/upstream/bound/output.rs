//! How much a call may generate: what it asks for, how often, and how far that can be lowered. Pure.

use serde_json::Number;

use crate::error::{Code, Error};
use crate::upstream::{Endpoint, Object};

/// What completions generate that do not say how much.
const COMPLETION_OUTPUT: u64 = 16;
/// An output is not lowered below this, unless less was asked.
const USEFUL_OUTPUT: u64 = 1024;

/// What a call asks to be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Of each sequence; `None` where neither the call nor the context bounds it.
    pub most: Option<u64>,
    pub least: u64,
    /// Sequences of each prompt; 0 where a route generates none.
    pub choices: u64,
    /// Beams are searched for: each step is a call of its own.
    pub beams: bool,
}

/// Reads the figures of a call.
///
/// # Errors
/// `invalid_request` for figures that are none.
pub fn read(endpoint: Endpoint, object: &Object, context: Option<u64>) -> Result<Output, Error> {
    let mut asked = None;
    for name in endpoint.output_limits() {
        let value = figure(object, name, 0)?;
        asked = asked.or(value);
    }
    if endpoint.output_limits().is_empty() {
        return Ok(Output {
            most: Some(0),
            least: 0,
            choices: 0,
            beams: false,
        });
    }
    let default = match endpoint {
        Endpoint::Completions => Some(COMPLETION_OUTPUT),
        _ => context,
    };
    // What asks for nothing but its own prompt back gets one token all the same.
    let most = asked
        .or(default)
        .map(|most| most.min(context.unwrap_or(u64::MAX)).max(1));
    let least = USEFUL_OUTPUT.max(needed(endpoint, object)?);
    let mut choices = 1;
    let mut beams = false;
    if matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions) {
        for name in ["n", "best_of"] {
            choices = figure(object, name, 1)?.map_or(choices, |value| value.max(choices));
        }
        let search = object.present("use_beam_search");
        beams = search.is_some_and(|search| search != "false");
    }
    Ok(Output {
        most,
        least: least.min(most.unwrap_or(u64::MAX)),
        choices,
        beams,
    })
}

/// Choices of each prompt, as an engine understands it; 1 where it refuses what stands there.
pub fn choices(endpoint: Endpoint, object: &Object) -> u64 {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            figure(object, "n", 1).ok().flatten().unwrap_or(1)
        }
        _ => 1,
    }
}

/// Less output than this the upstream refuses.
fn needed(endpoint: Endpoint, object: &Object) -> Result<u64, Error> {
    let least = figure(object, "min_tokens", 0)?.unwrap_or(0);
    let thinking = match (endpoint, object.present("thinking")) {
        (Endpoint::Messages, Some(thinking)) => {
            Object::parse(bytes::Bytes::copy_from_slice(thinking.as_bytes()))
                .ok()
                .and_then(|thinking| figure(&thinking, "budget_tokens", 0).ok()?)
        }
        _ => None,
    };
    Ok(least.max(thinking.map_or(0, |budget| budget.saturating_add(1))))
}

/// A member that is a whole number of at least `least`; null is absent. One too large for its type
/// is as good as the largest.
///
/// # Errors
/// `invalid_request`.
pub fn figure(object: &Object, name: &'static str, least: u64) -> Result<Option<u64>, Error> {
    let Some(json) = object.present(name) else {
        return Ok(None);
    };
    whole_number(json)
        .filter(|value| *value >= least)
        .map(Some)
        .ok_or_else(|| {
            let message = format!(
                "the field {name} must be a whole number and not too small, written as a number"
            );
            Error::new(Code::InvalidRequest, message).param(name)
        })
}

fn whole_number(json: &str) -> Option<u64> {
    let number: Number = serde_json::from_str(json).ok()?;
    if let Some(value) = number.as_u64() {
        return Some(value);
    }
    let value = number.as_f64()?;
    if value < 0.0 || value.fract() != 0.0 {
        return None;
    }
    // Whole and not negative: nothing but its size can be wrong.
    Some(
        format!("{value:.0}")
            .trim_start_matches('-')
            .parse()
            .unwrap_or(u64::MAX),
    )
}
