//! Where model calls go: `VLLM_ENDPOINT` or `UPSTREAMS_FILE`, and the variables that hold for both.
//! Asks no network.

use std::collections::BTreeMap;
use std::time::Duration;

use super::base_url;
use super::reader::{Reader, pieces, stars, unset};
use super::upstreams_file::{self, Defaults};
use super::values;
use crate::secret::Secret;

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8001";
const DEFAULT_ALIASES: &str = "opencode-llm=*,llm-user-managed=*";
/// Stands for the only model there is.
pub(super) const ONLY_MODEL: &str = "*";

/// Where model calls go.
#[derive(Clone, Debug)]
pub struct UpstreamsConfig {
    /// At least one.
    pub upstreams: Vec<UpstreamConfig>,
    /// Alias to model id, whichever upstream serves it; `*` stands for the only model there is.
    pub aliases: BTreeMap<String, String>,
}

/// Model servers that serve the same: one `[[upstream]]` of the file, or all of `VLLM_ENDPOINT`.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Told by no caller: a metric label, and the name that `fallback` uses.
    pub name: String,
    /// Base URLs without a trailing slash and without `/v1`; at least one. They share the load.
    pub urls: Vec<String>,
    /// The ids of the models that are offered of it; empty: all that it lists.
    pub models: Vec<String>,
    /// Alias to a model id of this upstream; `*` stands for its only model.
    pub aliases: BTreeMap<String, String>,
    pub auth: UpstreamAuth,
    /// Sent as Bearer.
    pub api_key: Option<Secret<String>>,
    /// The variable that holds that key.
    pub api_key_env: String,
    /// Context in tokens of the models that do not tell their own.
    pub max_model_len: Option<u64>,
    /// Whether asking it something may start a GPU; `None`: if it is `https://*.run.app`.
    pub scale_to_zero: Option<bool>,
    /// Calls in flight per base URL, of this instance.
    pub max_concurrent: Option<usize>,
    /// Silence in a stream; `None`: `UPSTREAM_IDLE_SECONDS`.
    pub idle: Option<Duration>,
    /// Where calls go when none of its base URLs can take them, in this order.
    pub fallback: Vec<Fallback>,
}

impl UpstreamConfig {
    /// Servers at these base URLs, about which nothing else is said.
    #[must_use]
    pub fn at(urls: Vec<String>) -> Self {
        Self {
            name: "default".to_owned(),
            urls,
            models: Vec::new(),
            aliases: BTreeMap::new(),
            auth: UpstreamAuth::Auto,
            api_key: None,
            api_key_env: "VLLM_API_KEY".to_owned(),
            max_model_len: None,
            scale_to_zero: None,
            max_concurrent: None,
            idle: None,
            fallback: Vec::new(),
        }
    }
}

/// Who takes a call in place of an upstream that cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another upstream, by its name: the model of the same name there, else its first.
    Upstream(String),
    /// A model or an alias of another upstream.
    Model(String),
}

/// Who the gateway says it is to an upstream, beside `VLLM_API_KEY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamAuth {
    /// As `IdToken` for `https://*.run.app` on Google Cloud, else as `None`.
    Auto,
    /// A Google ID token for the upstream's address.
    IdToken,
    None,
}

impl UpstreamAuth {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IdToken => "id_token",
            Self::None => "none",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words = [Self::Auto, Self::None, Self::IdToken];
        let word = values::word(text, &words.map(Self::as_str))?;
        let found = words.into_iter().find(|auth| auth.as_str() == word);
        Ok(found.unwrap_or(Self::Auto))
    }
}

/// Reads the upstreams' part of the configuration.
pub(super) fn read(reader: &mut Reader<'_>, port: u16) -> UpstreamsConfig {
    let file = reader.parsed(
        "UPSTREAMS_FILE",
        None,
        |path: &Option<String>| path.clone().unwrap_or_else(unset),
        |text| Ok(Some(text.to_owned())),
    );
    let auth = UpstreamAuth::Auto;
    let defaults = Defaults {
        auth: reader.parsed(
            "UPSTREAM_AUTH",
            auth,
            |auth| auth.as_str().to_owned(),
            UpstreamAuth::parse,
        ),
        api_key: read_api_key(reader),
    };
    let (variable, upstreams) = match file {
        None => ("VLLM_ENDPOINT", vec![read_endpoint(reader, defaults)]),
        Some(path) => {
            reader.set_aside("VLLM_ENDPOINT", "UPSTREAMS_FILE takes its place");
            let upstreams = upstreams_file::read(reader, &path, &defaults);
            ("UPSTREAMS_FILE", upstreams)
        }
    };
    let aliases = read_aliases(reader, &upstreams);
    let urls = upstreams.iter().flat_map(|upstream| &upstream.urls);
    for own in urls.filter(|url| base_url::is_own(url, port)) {
        reader.warn(
            variable,
            format_args!(
                "{own} is the gateway's own port; start the model server on another one or set PORT"
            ),
        );
    }
    UpstreamsConfig { upstreams, aliases }
}

/// Every upstream is on this machine.
pub(super) fn all_loopback(upstreams: &[UpstreamConfig]) -> bool {
    let mut urls = upstreams.iter().flat_map(|upstream| &upstream.urls);
    urls.all(|url| base_url::is_loopback(url))
}

/// Whether a header can carry the key of a model server, or what is wrong.
pub(super) fn check_key(key: &str) -> Result<(), &'static str> {
    if key.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("holds blanks or characters that no HTTP header can carry")
    }
}

fn read_api_key(reader: &mut Reader<'_>) -> Option<Secret<String>> {
    let api_key = reader.secret("VLLM_API_KEY", stars)?;
    if let Err(wrong) = check_key(api_key.expose()) {
        reader.fault("VLLM_API_KEY", wrong);
    }
    Some(api_key)
}

/// A name to which the upstreams give a meaning is no alias here: theirs counts.
fn read_aliases(reader: &mut Reader<'_>, upstreams: &[UpstreamConfig]) -> BTreeMap<String, String> {
    let is_taken = |alias: &String| {
        upstreams
            .iter()
            .any(|upstream| upstream.aliases.contains_key(alias) || upstream.models.contains(alias))
    };
    let default = values::aliases(DEFAULT_ALIASES).unwrap_or_default();
    let shown = |aliases: &BTreeMap<String, String>| {
        let left = aliases.iter().filter(|(alias, _)| !is_taken(alias));
        let left: Vec<_> = left
            .map(|(alias, model)| format!("{alias}={model}"))
            .collect();
        if left.is_empty() {
            unset()
        } else {
            left.join(",")
        }
    };
    let mut aliases = reader.parsed("MODEL_ALIASES", default, shown, values::aliases);
    if reader.find("MODEL_ALIASES").is_some() {
        let taken = aliases.keys().filter(|alias| is_taken(alias));
        for alias in taken {
            let text = format_args!("`{alias}` is a name in UPSTREAMS_FILE, which counts");
            reader.warn("MODEL_ALIASES", text);
        }
    }
    aliases.retain(|alias, _| !is_taken(alias));
    warn_of_idle(reader, &aliases, upstreams);
    aliases
}

/// Aliases that can lead nowhere, since every upstream says what it serves.
fn warn_of_idle(
    reader: &mut Reader<'_>,
    aliases: &BTreeMap<String, String>,
    upstreams: &[UpstreamConfig],
) {
    if upstreams.iter().any(|upstream| upstream.models.is_empty()) {
        return;
    }
    let served: Vec<_> = upstreams.iter().flat_map(|one| &one.models).collect();
    for (alias, model) in aliases {
        if model != ONLY_MODEL && !served.contains(&model) {
            let text = format_args!(
                "`{alias}` stands for `{model}`, which no upstream of UPSTREAMS_FILE serves"
            );
            reader.warn("MODEL_ALIASES", text);
        }
    }
}

fn read_endpoint(reader: &mut Reader<'_>, defaults: Defaults) -> UpstreamConfig {
    let Defaults { auth, api_key } = defaults;
    let urls = reader.parsed(
        "VLLM_ENDPOINT",
        vec![DEFAULT_ENDPOINT.to_owned()],
        |urls| urls.join(","),
        endpoints,
    );
    let mut in_clear = urls.iter().filter(|url| base_url::is_in_clear(url));
    if auth == UpstreamAuth::IdToken
        && let Some(url) = in_clear.next()
    {
        reader.fault(
            "UPSTREAM_AUTH",
            format_args!("`id_token` would send a credential in clear to {url}; use https there"),
        );
    }
    UpstreamConfig {
        auth,
        api_key,
        ..UpstreamConfig::at(urls)
    }
}

fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let mut urls = Vec::new();
    for piece in pieces(text) {
        let url =
            base_url::base(piece).map_err(|wrong| format!("{wrong} (commas between several)"))?;
        if urls.contains(&url) {
            return Err("names a base URL twice".to_owned());
        }
        urls.push(url);
    }
    if urls.is_empty() {
        Err("names no base URL".to_owned())
    } else {
        Ok(urls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_endpoints_stand_between_commas() {
        assert!(endpoints("http://h,http://h/v1").is_err());
        assert!(endpoints(" , ").is_err());
        assert_eq!(
            endpoints("http://a , http://b/,").unwrap(),
            ["http://a", "http://b"]
        );
    }
}
