//! The list of models: what the upstreams are known or said to serve, and the aliases. Nothing is
//! invented and nothing is woken for it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Upstreams;
use super::group::{Group, ONLY};
use super::models::Knowledge;

/// How long a client's list may wait for the servers' own, and how old those may get.
const LIST_LIMIT: Duration = Duration::from_millis(800);
const LIST_AGE: Duration = Duration::from_secs(10);

/// A model as the list shows it.
pub type Card = Map<String, Value>;

/// What is on offer.
pub struct Catalogue {
    /// Each model once, then each alias that leads to one.
    pub cards: Vec<Card>,
}

impl Catalogue {
    /// A card by its id.
    #[must_use]
    pub fn card(&self, id: &str) -> Option<&Card> {
        self.cards.iter().find(|card| self::id(card) == Some(id))
    }
}

impl Upstreams {
    /// What is on offer by what is known, asking those again that may be asked: nothing that scales
    /// to zero, for the list is not worth a cold start.
    pub async fn catalogue(&self) -> Catalogue {
        let asks = self.targets.iter().map(|target| async {
            if !target.scales_to_zero() {
                // What it does not tell is as it was.
                let _unanswered = target.learn_older(LIST_LIMIT, LIST_AGE).await;
            }
        });
        futures_util::future::join_all(asks).await;
        let mut models: Vec<Card> = Vec::new();
        let mut is_known = false;
        for group in &self.groups {
            let (cards, known) = offered(group);
            is_known |= known;
            for card in cards {
                if models.iter().all(|seen| id(seen) != id(&card)) {
                    models.push(card);
                }
            }
        }
        let mut cards = models.clone();
        let own = self.groups.iter().flat_map(|group| {
            let (models, is_known) = offered(group);
            let aliases = group.aliases.iter();
            aliases.map(move |alias| (alias, models.clone(), is_known))
        });
        let all = self
            .aliases
            .iter()
            .map(|alias| (alias, models.clone(), is_known));
        for ((alias, to), models, is_known) in own.chain(all) {
            let target = match (to.as_str(), models.as_slice()) {
                (ONLY, [only]) => Some(only),
                (ONLY, _) => None,
                (wanted, models) => models.iter().find(|card| id(card) == Some(wanted)),
            };
            // One that leads nowhere is not listed; one whose model is not known yet is.
            let leads_somewhere = target.is_some() || !is_known;
            if leads_somewhere && cards.iter().all(|card| id(card) != Some(alias)) {
                cards.push(alias_card(alias, target));
            }
        }
        Catalogue { cards }
    }
}

/// The models of a group, and whether they are known.
fn offered(group: &Group) -> (Vec<Card>, bool) {
    let known: Vec<_> = group
        .targets
        .iter()
        .map(|target| target.knowledge())
        .collect();
    let told = |wanted: &str| {
        let mut cards = known.iter().filter_map(|known| known.card(wanted));
        cards.next().map(|card| with_context(&card.raw, group))
    };
    if !group.models.is_empty() {
        let cards = group.models.iter();
        let cards = cards.map(|id| told(id).unwrap_or_else(|| said_card(id, group)));
        return (cards.collect(), true);
    }
    let is_known = known.iter().any(|known| known.models.is_some());
    let listed = |known: &std::sync::Arc<Knowledge>| known.models.clone().unwrap_or_default();
    // Its servers mostly list the same.
    let mut cards: Vec<Card> = Vec::new();
    for card in known.iter().flat_map(listed) {
        if cards.iter().all(|seen| id(seen) != Some(&card.id)) {
            cards.push(with_context(&card.raw, group));
        }
    }
    (cards, is_known)
}

/// A server's own card, with the configured context where it tells none.
fn with_context(card: &Card, group: &Group) -> Card {
    let mut card = card.clone();
    if let Some(context) = group.max_model_len
        && card.get("max_model_len").is_none_or(Value::is_null)
    {
        card.insert("max_model_len".to_owned(), context.into());
    }
    card
}

/// A model that the configuration names.
fn said_card(id: &str, group: &Group) -> Card {
    let card = json!({"id": id, "object": "model", "created": 0, "owned_by": "tollgate"});
    let card = card.as_object().cloned().unwrap_or_default();
    with_context(&card, group)
}

/// An alias as a model of its own, with what is known of the model behind it.
fn alias_card(alias: &str, target: Option<&Card>) -> Card {
    let of_target = |name: &str| target.and_then(|card| card.get(name)).cloned();
    let created = of_target("created").unwrap_or_else(|| 0.into());
    let members = [
        ("id", Some(alias.into())),
        ("object", Some("model".into())),
        ("created", Some(created)),
        ("owned_by", Some("tollgate".into())),
        ("root", of_target("id")),
        ("max_model_len", of_target("max_model_len")),
    ];
    let known = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

fn id(card: &Card) -> Option<&str> {
    card.get("id")?.as_str()
}
