//! The third hop: the gateway lists models, and the one to call is among them.

use super::Outcome;
use super::report::{Broken, Passed};
use crate::cli::remote::Remote;
use crate::cli::remote::models::{Model, list, none};

/// So many ids are shown.
const MOST_SHOWN: usize = 6;

/// Finds the model to call.
pub async fn check(remote: &Remote, wanted: Option<&str>) -> Outcome<String> {
    let models = list(remote).await?;
    let is_known = models.iter().any(Model::is_known);
    let Some(first) = models.first() else {
        return match wanted {
            Some(wanted) => Ok(Passed::new("none is known yet").with(wanted.to_owned())),
            None => Err(none()),
        };
    };
    let shown = shown(&models);
    let chosen = match wanted {
        None => first.id.clone(),
        Some(wanted) => {
            let is_there = models.iter().any(|model| model.id == wanted);
            if is_known && !is_there {
                return Err(Broken::new(
                    format!("there is no model {wanted}; there are {shown}"),
                    "name one of these with --model; other names are given by MODEL_ALIASES or UPSTREAMS_FILE on the gateway",
                ));
            }
            wanted.to_owned()
        }
    };
    let passed = if is_known {
        Passed::new(shown)
    } else {
        Passed::new(format!(
            "{shown}; the model server has not told its models yet, the chat will wake it"
        ))
    };
    Ok(passed.with(chosen))
}

/// The ids with what is known of them.
fn shown(models: &[Model]) -> String {
    let mut words: Vec<String> = models
        .iter()
        .take(MOST_SHOWN)
        .map(|model| match (&model.root, model.context) {
            (Some(root), _) => format!("{} (= {root})", model.id),
            (None, Some(context)) => format!("{} (context {context})", model.id),
            (None, None) => model.id.clone(),
        })
        .collect();
    if models.len() > MOST_SHOWN {
        words.push(format!("and {} more", models.len() - MOST_SHOWN));
    }
    words.join(", ")
}
