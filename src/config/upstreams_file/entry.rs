//! One `[[upstream]]` by itself: what its fields may be. Knows nothing of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::accounts::MOST_TOKENS;
use super::super::base_url;
use super::super::reader::{Reader, echo};
use super::super::upstream::check_key;
use super::super::vars::VARS;
use super::super::{UpstreamAuth, UpstreamConfig};
use super::Defaults;
use super::fields::Fields;
use super::sheet::Told;
use crate::secret::Secret;

/// Silence within a stream, in seconds; Cloud Run ends a request after an hour.
const MOST_IDLE_SECONDS: u64 = 3_600;
const MOST_CONCURRENT: u64 = 1_000_000;
/// Longest name of an upstream.
const MOST_NAME_BYTES: usize = 64;
/// Longest model id or alias; rows hold no more.
const MOST_MODEL_BYTES: usize = 256;

/// One `[[upstream]]`, and the places of what is held against the others.
pub(super) struct Entry {
    /// "upstream `NAME`", or its number.
    pub owner: String,
    /// Byte offset.
    pub at: usize,
    pub urls: Vec<Told>,
    pub models: Vec<Told>,
    /// Alias and model.
    pub aliases: Vec<(Told, String)>,
    pub fallback: Vec<Told>,
    /// All but the four above; the name is empty if it cannot be used.
    pub config: UpstreamConfig,
}

/// Reads all fields; what is at fault is left out.
pub(super) fn read(
    fields: &mut Fields<'_, '_, '_>,
    reader: &Reader<'_>,
    defaults: &Defaults,
) -> Entry {
    let name = read_name(fields);
    fields.refuse_unknown();
    let urls = read_urls(fields);
    let models = read_models(fields);
    let aliases = read_aliases(fields);
    let auth = read_auth(fields, &urls, defaults.auth);
    let (api_key, api_key_env) = read_api_key(fields, reader, defaults);
    let config = UpstreamConfig {
        name,
        urls: Vec::new(),
        models: Vec::new(),
        aliases: BTreeMap::new(),
        auth,
        api_key,
        api_key_env,
        max_model_len: fields.number("max_model_len", MOST_TOKENS),
        scale_to_zero: fields.boolean("scale_to_zero"),
        max_concurrent: fields
            .number("max_concurrent", MOST_CONCURRENT)
            .and_then(|most| usize::try_from(most).ok()),
        idle: fields
            .number("idle_seconds", MOST_IDLE_SECONDS)
            .map(Duration::from_secs),
        fallback: Vec::new(),
    };
    Entry {
        urls,
        models,
        aliases,
        fallback: fields.texts("fallback").unwrap_or_default(),
        owner: fields.owner.clone(),
        at: fields.at,
        config,
    }
}

/// Empty if there is none that can be used. From here on faults call the upstream by it.
fn read_name(fields: &mut Fields<'_, '_, '_>) -> String {
    if !fields.has("name") {
        fields.fault(fields.at, "has no `name`");
        return String::new();
    }
    let Some(name) = fields.text("name") else {
        return String::new();
    };
    let is_good = (1..=MOST_NAME_BYTES).contains(&name.text.len())
        && name
            .text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !is_good {
        fields.fault(
            name.at,
            format_args!("`name` is not 1 to {MOST_NAME_BYTES} letters, digits, `.`, `_` and `-`"),
        );
        return String::new();
    }
    fields.owner = format!("upstream `{}`", name.text);
    name.text
}

fn read_urls(fields: &mut Fields<'_, '_, '_>) -> Vec<Told> {
    let told = fields.texts("urls");
    let is_absent = || !fields.has("urls");
    if told.as_ref().map_or_else(is_absent, Vec::is_empty) {
        fields.fault(
            fields.at,
            "has no `urls`; name its base URLs, such as urls = [\"http://127.0.0.1:8001\"]",
        );
    }
    let mut urls = Vec::new();
    for Told { at, text } in told.unwrap_or_default() {
        match base_url::base(&text) {
            Ok(text) => urls.push(Told { at, text }),
            Err(wrong) => fields.fault(at, format_args!("`urls`: `{}` {wrong}", echo(&text))),
        }
    }
    urls
}

fn read_models(fields: &mut Fields<'_, '_, '_>) -> Vec<Told> {
    let mut models = fields.texts("models").unwrap_or_default();
    models.retain(|model| {
        let wrong = if model.text == "*" {
            Err("`models`: `*` is no model; leave `models` out to offer all that it serves")
        } else {
            check_model(&model.text)
        };
        wrong.map_err(|wrong| fields.fault(model.at, wrong)).is_ok()
    });
    models
}

fn read_aliases(fields: &mut Fields<'_, '_, '_>) -> Vec<(Told, String)> {
    let mut aliases = fields.pairs("aliases");
    aliases.retain(|(alias, model)| {
        let wrong = if alias.text == "*" {
            Err("`aliases`: `*` cannot be an alias; an alias is one name")
        } else {
            check_model(&alias.text).and_then(|()| check_model(model))
        };
        wrong.map_err(|wrong| fields.fault(alias.at, wrong)).is_ok()
    });
    aliases
}

fn check_model(name: &str) -> Result<(), &'static str> {
    if name.trim() != name || name.is_empty() {
        Err("names a model that is empty, or has blanks around it")
    } else if name.len() > MOST_MODEL_BYTES || name.contains(char::is_control) {
        Err("names a model in more than 256 bytes, or with control characters")
    } else {
        Ok(())
    }
}

fn read_auth(
    fields: &mut Fields<'_, '_, '_>,
    urls: &[Told],
    default: UpstreamAuth,
) -> UpstreamAuth {
    let mut auth = default;
    let told = fields.text("auth");
    if let Some(Told { at, text }) = &told {
        match UpstreamAuth::parse(text) {
            Ok(word) => auth = word,
            Err(wrong) => fields.fault(*at, format_args!("`auth` {wrong}")),
        }
    }
    let from = if told.is_some() {
        ""
    } else {
        " (from UPSTREAM_AUTH)"
    };
    let is_shown = auth == UpstreamAuth::IdToken;
    for url in urls
        .iter()
        .filter(|url| is_shown && base_url::is_in_clear(&url.text))
    {
        fields.fault(
            url.at,
            format_args!(
                "auth `id_token`{from} would send a credential in clear to {}; use https there or another `auth`",
                url.text
            ),
        );
    }
    auth
}

/// The key and the variable that holds it.
fn read_api_key(
    fields: &mut Fields<'_, '_, '_>,
    reader: &Reader<'_>,
    defaults: &Defaults,
) -> (Option<Secret<String>>, String) {
    const DEFAULT: &str = "VLLM_API_KEY";
    let told = fields.text("api_key_env");
    let Some(Told { at, text: name }) = told.filter(|told| told.text != DEFAULT) else {
        return (defaults.api_key.clone(), DEFAULT.to_owned());
    };
    if name.is_empty() {
        return (None, name);
    }
    match find_key(reader, &name) {
        Ok(key) => (Some(key), name),
        Err(wrong) => {
            fields.fault(at, format_args!("`api_key_env` {wrong}"));
            (None, name)
        }
    }
}

fn find_key(reader: &Reader<'_>, name: &str) -> Result<Secret<String>, String> {
    // Whoever takes it for the place of the key itself must not find that in a log.
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !is_name {
        return Err("is the name of a variable that holds the key, in capital letters, digits and underscores; the key itself is not for this file".to_owned());
    }
    let known = name.strip_suffix("_FILE").unwrap_or(name);
    if VARS.iter().any(|var| var.name == name || var.name == known) {
        return Err(format!(
            "names {name}, a variable of the gateway itself; it is not for a model server"
        ));
    }
    let Some((key, _)) = reader.find_secret(name)? else {
        return Err(format!(
            "names {name}, which is not set; set it or {name}_FILE, or say api_key_env = \"\" to send no key"
        ));
    };
    check_key(key.expose()).map_err(|wrong| format!("names {name}, which {wrong}"))?;
    Ok(key)
}
