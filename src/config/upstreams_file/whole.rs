//! What the upstreams of one file are to one another: names, addresses and models that stand twice,
//! and who stands in for whom. Reads nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reader::echo;
use super::super::upstream::ONLY_MODEL;
use super::super::{Fallback, UpstreamConfig};
use super::entry::Entry;
use super::fields::nearest;
use super::sheet::{Sheet, Told};

/// Judges all together and makes upstreams of them; one that is at fault may lack something.
pub(super) fn put_together(sheet: &mut Sheet<'_>, entries: Vec<Entry>) -> Vec<UpstreamConfig> {
    judge_names(sheet, &entries);
    judge_urls(sheet, &entries);
    for entry in &entries {
        judge_models(sheet, entry);
    }
    judge_meanings(sheet, &entries);
    let fallbacks: Vec<_> = entries
        .iter()
        .map(|entry| find_fallback(sheet, &entries, entry))
        .collect();
    let text = |told: Told| told.text;
    let made = entries.into_iter().zip(fallbacks);
    made.map(|(entry, fallback)| UpstreamConfig {
        urls: entry.urls.into_iter().map(text).collect(),
        models: entry.models.into_iter().map(text).collect(),
        aliases: (entry.aliases.into_iter())
            .map(|(alias, model)| (alias.text, model))
            .collect(),
        fallback,
        ..entry.config
    })
    .collect()
}

fn judge_names(sheet: &mut Sheet<'_>, entries: &[Entry]) {
    let named = entries.iter().filter(|entry| !entry.config.name.is_empty());
    let mut seen = BTreeSet::new();
    for entry in named {
        if !seen.insert(&entry.config.name) {
            let owner = &entry.owner;
            sheet.fault(
                entry.at,
                format_args!("{owner}: there is one of this name before; each needs its own"),
            );
        }
    }
}

fn judge_urls(sheet: &mut Sheet<'_>, entries: &[Entry]) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in entries {
        for url in &entry.urls {
            if let Some(first) = seen.insert(&url.text, &entry.owner) {
                let Entry { owner, .. } = entry;
                sheet.fault(
                    url.at,
                    format_args!(
                        "{owner}: `urls`: {} stands in {first} already; state and load are kept per server, so each stands once (one server may have several models)",
                        url.text
                    ),
                );
            }
        }
    }
}

/// The names within one upstream.
fn judge_models(sheet: &mut Sheet<'_>, entry: &Entry) {
    let Entry { owner, models, .. } = entry;
    for (index, model) in models.iter().enumerate() {
        if models[..index]
            .iter()
            .any(|before| before.text == model.text)
        {
            let name = &model.text;
            sheet.fault(
                model.at,
                format_args!("{owner}: `models` names `{name}` twice"),
            );
        }
    }
    for (alias, model) in &entry.aliases {
        let (name, at) = (&alias.text, alias.at);
        if model == ONLY_MODEL && models.len() > 1 {
            sheet.fault(
                at,
                format_args!("{owner}: the alias `{name}` is `*`, the only model, but `models` has several; name one"),
            );
        } else if model != ONLY_MODEL
            && !models.is_empty()
            && models.iter().all(|known| known.text != *model)
        {
            sheet.fault(
                at,
                format_args!(
                    "{owner}: the alias `{name}` stands for `{model}`, which `models` lacks"
                ),
            );
        }
    }
}

/// A name that upstreams give, and the model that it means there, if that is known.
struct Meaning<'a> {
    owner: &'a str,
    at: usize,
    model: Option<&'a str>,
}

/// One name means one model, whichever upstream gives it.
fn judge_meanings(sheet: &mut Sheet<'_>, entries: &[Entry]) {
    let mut names: BTreeMap<&str, Vec<Meaning<'_>>> = BTreeMap::new();
    for entry in entries {
        for (name, meaning) in meanings(entry) {
            names.entry(name).or_default().push(meaning);
        }
    }
    for (name, meanings) in names {
        let known = meanings
            .iter()
            .find_map(|meaning| Some((meaning, meaning.model?)));
        for meaning in &meanings {
            let Meaning { owner, at, model } = meaning;
            match (known, model) {
                (Some((first, known)), Some(model)) if *model != known => sheet.fault(
                    *at,
                    format_args!(
                        "{owner}: `{name}` is `{model}` here and `{known}` in {}; one name means one model",
                        first.owner
                    ),
                ),
                (_, None) if meanings.len() > 1 => sheet.warn(
                    *at,
                    format_args!(
                        "{owner}: the alias `{name}` is `*` here, and stands elsewhere too: calls to it go to all of them, so they should serve the same model; better name it"
                    ),
                ),
                _ => {}
            }
        }
    }
}

fn meanings(entry: &Entry) -> impl Iterator<Item = (&str, Meaning<'_>)> {
    let meaning = |at, model| Meaning {
        owner: &entry.owner,
        at,
        model,
    };
    let models = entry
        .models
        .iter()
        .map(move |model| (&*model.text, meaning(model.at, Some(&*model.text))));
    let only = match &*entry.models {
        [only] => Some(&*only.text),
        _ => None,
    };
    let aliases = entry.aliases.iter().map(move |(alias, model)| {
        let model = if model == ONLY_MODEL {
            only
        } else {
            Some(&**model)
        };
        (&*alias.text, meaning(alias.at, model))
    });
    models.chain(aliases)
}

/// Who stands in for an upstream. Two may stand in for each other: a call tries none twice.
fn find_fallback(sheet: &mut Sheet<'_>, entries: &[Entry], entry: &Entry) -> Vec<Fallback> {
    let owner = &entry.owner;
    let others = || entries.iter().filter(|other| other.at != entry.at);
    let mut found: Vec<Fallback> = Vec::new();
    for Told { at, text } in &entry.fallback {
        let fallback = if others().any(|other| other.config.name == *text) {
            Fallback::Upstream(text.clone())
        } else if others().any(|other| is_served(other, text)) {
            Fallback::Model(text.clone())
        } else if entry.config.name == *text || is_served(entry, text) {
            sheet.fault(
                *at,
                format_args!("{owner}: `fallback`: `{text}` is this upstream itself, which cannot stand in for itself"),
            );
            continue;
        } else {
            let known = others().flat_map(|other| {
                let models = other
                    .models
                    .iter()
                    .chain(other.aliases.iter().map(|(alias, _)| alias));
                let models = models.map(|told| &*told.text);
                models.chain([&*other.config.name])
            });
            let hint = nearest(text, known)
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            let text = echo(text);
            sheet.fault(
                *at,
                format_args!("{owner}: `fallback`: `{text}` is neither another upstream's name nor in its `models` or `aliases`{hint}"),
            );
            continue;
        };
        if found.contains(&fallback) {
            sheet.fault(
                *at,
                format_args!("{owner}: `fallback` names `{text}` twice"),
            );
        } else {
            found.push(fallback);
        }
    }
    found
}

/// Whether the file says that the upstream serves a model of this name.
fn is_served(entry: &Entry, name: &str) -> bool {
    let mut models = entry.models.iter();
    models.any(|model| model.text == name)
        || entry.aliases.iter().any(|(alias, _)| alias.text == name)
}
