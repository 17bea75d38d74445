//! Model servers that serve the same, as the configuration describes them, and what a model's name
//! leads to there. Pure but for what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::models::Knowledge;
use super::target::Target;
use crate::config::Fallback;

/// The name that stands for the only model there is.
pub const ONLY: &str = "*";

/// One `[[upstream]]` of the file, or all of `VLLM_ENDPOINT`.
pub struct Group {
    pub name: String,
    pub targets: Vec<Arc<Target>>,
    /// The ids that are offered; empty: all that the targets list.
    pub models: Vec<String>,
    pub aliases: BTreeMap<String, String>,
    pub max_model_len: Option<u64>,
    pub fallback: Vec<Fallback>,
}

/// What a model's name leads to at one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// A model that is served there; without an id the server's own choice.
    Certain(Option<String>),
    /// Its list is unknown, so it may be there; without an id it depends on the list which one.
    Perhaps(Option<String>),
    No,
}

impl Group {
    /// What a name leads to at a target with this knowledge. `globals` are the aliases of all
    /// groups; the group's own win.
    pub fn find(
        &self,
        name: Option<&str>,
        known: &Knowledge,
        globals: &BTreeMap<String, String>,
    ) -> Match {
        let Some(name) = name else {
            return match self.only(known) {
                Only::One(id) => Match::Certain(Some(id.to_owned())),
                Only::Several => Match::Certain(None),
                Only::Unknown => Match::Perhaps(None),
            };
        };
        let listed = |id: &str| match self.lists(id, known) {
            Some(true) => Match::Certain(Some(id.to_owned())),
            Some(false) => Match::No,
            None => Match::Perhaps(Some(id.to_owned())),
        };
        let direct = listed(name);
        if matches!(direct, Match::Certain(_)) {
            return direct;
        }
        let own = self.aliases.get(name);
        match own.or_else(|| globals.get(name)).map(String::as_str) {
            Some(ONLY) => match self.only(known) {
                Only::One(id) => Match::Certain(Some(id.to_owned())),
                Only::Several => Match::No,
                Only::Unknown if own.is_some() => Match::Certain(None),
                Only::Unknown => Match::Perhaps(None),
            },
            Some(id) if own.is_some() && listed(id) != Match::No => {
                Match::Certain(Some(id.to_owned()))
            }
            Some(id) => listed(id),
            None => direct,
        }
    }

    /// The configuration itself says that the name is one of its.
    pub fn places(&self, name: &str) -> bool {
        self.aliases.contains_key(name) || self.models.iter().any(|model| model == name)
    }

    /// The ids that are offered of a target with this knowledge, if that is known.
    pub fn offered<'a>(&'a self, known: &'a Knowledge) -> Option<Vec<&'a str>> {
        if !self.models.is_empty() {
            return Some(self.models.iter().map(String::as_str).collect());
        }
        let cards = known.models.as_deref()?;
        Some(cards.iter().map(|card| card.id.as_str()).collect())
    }

    fn lists(&self, id: &str, known: &Knowledge) -> Option<bool> {
        if self.models.is_empty() {
            known.models.as_ref()?;
            return Some(known.card(id).is_some());
        }
        Some(self.models.iter().any(|model| model == id))
    }

    fn only<'a>(&'a self, known: &'a Knowledge) -> Only<'a> {
        match (&self.models[..], known.models.as_deref()) {
            ([one], _) => Only::One(one),
            ([], None) => Only::Unknown,
            ([], Some([one])) => Only::One(&one.id),
            _ => Only::Several,
        }
    }
}

enum Only<'a> {
    One(&'a str),
    /// Or none at all.
    Several,
    Unknown,
}
