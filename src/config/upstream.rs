//! `VLLM_ENDPOINT` and what belongs to it. Reads no network: a name is not looked up here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::{Reader, pieces, stars};
use super::values;
use crate::secret::Secret;

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8001";
const DEFAULT_ALIASES: &str = "opencode-llm=*,llm-user-managed=*";

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

/// Reads the upstream's part of the configuration.
pub(super) fn read(reader: &mut Reader<'_>, port: u16) -> UpstreamsConfig {
    let urls = reader.parsed(
        "VLLM_ENDPOINT",
        vec![DEFAULT_ENDPOINT.to_owned()],
        |urls| urls.join(","),
        endpoints,
    );
    if let Some(own) = own_address(&urls, port) {
        reader.warn(
            "VLLM_ENDPOINT",
            format_args!(
                "{own} is the gateway's own port; start the model server on another one or set PORT"
            ),
        );
    }
    reader.refuse("UPSTREAMS_FILE", "name the model server in VLLM_ENDPOINT");
    let api_key = reader.secret("VLLM_API_KEY", stars);
    if api_key
        .as_ref()
        .is_some_and(|key| !key.expose().bytes().all(|b| b.is_ascii_graphic()))
    {
        reader.fault(
            "VLLM_API_KEY",
            "holds blanks or characters that no HTTP header can carry",
        );
    }
    let auth = read_auth(reader, &urls);
    let default = values::aliases(DEFAULT_ALIASES).unwrap_or_default();
    let aliases = reader.parsed(
        "MODEL_ALIASES",
        default,
        |aliases| {
            aliases
                .iter()
                .map(|(name, model)| format!("{name}={model}"))
                .collect::<Vec<_>>()
                .join(",")
        },
        values::aliases,
    );
    let upstream = UpstreamConfig {
        auth,
        api_key,
        ..UpstreamConfig::at(urls)
    };
    UpstreamsConfig {
        upstreams: vec![upstream],
        aliases,
    }
}

/// Every upstream is on this machine.
pub(super) fn all_loopback(upstreams: &[UpstreamConfig]) -> bool {
    let mut urls = upstreams.iter().flat_map(|upstream| &upstream.urls);
    urls.all(|url| parse(url).is_ok_and(|url| is_loopback(&url)))
}

/// The upstream that is the gateway's own address, if there is one.
fn own_address(urls: &[String], port: u16) -> Option<&String> {
    urls.iter().find(|url| {
        parse(url).is_ok_and(|url| is_loopback(&url) && url.port_or_known_default() == Some(port))
    })
}

fn read_auth(reader: &mut Reader<'_>, urls: &[String]) -> UpstreamAuth {
    let shown = |auth: &UpstreamAuth| {
        let word = match auth {
            UpstreamAuth::Auto => "auto",
            UpstreamAuth::IdToken => "id_token",
            UpstreamAuth::None => "none",
        };
        word.to_owned()
    };
    let auth = reader.parsed("UPSTREAM_AUTH", UpstreamAuth::Auto, shown, |text| {
        let word = values::word(text, &["auto", "none", "id_token"])?;
        Ok(match word {
            "id_token" => UpstreamAuth::IdToken,
            "none" => UpstreamAuth::None,
            _ => UpstreamAuth::Auto,
        })
    });
    let in_clear =
        |url: &&String| parse(url).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url));
    if auth == UpstreamAuth::IdToken
        && let Some(url) = urls.iter().find(in_clear)
    {
        reader.fault(
            "UPSTREAM_AUTH",
            format_args!("`id_token` would send a credential in clear to {url}; use https there"),
        );
    }
    auth
}

fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let mut urls = Vec::new();
    for piece in pieces(text) {
        let url = base(piece)?;
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

/// One base URL without its trailing slashes and `/v1`.
fn base(piece: &str) -> Result<String, String> {
    const RIGHT: &str =
        "is not a base URL such as http://127.0.0.1:8001, with commas between several";
    let url = parse(piece).map_err(|_| RIGHT.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(RIGHT.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; a base URL has none, the key of the model server goes into VLLM_API_KEY".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment; a base URL has neither".to_owned());
    }
    if url.port() == Some(0) {
        return Err(RIGHT.to_owned());
    }
    let base = url.as_str().trim_end_matches('/');
    let base = base
        .strip_suffix("/v1")
        .unwrap_or(base)
        .trim_end_matches('/');
    Ok(base.to_owned())
}

/// By the parser of the client that will connect, so that both read an address alike.
fn parse(text: &str) -> Result<reqwest::Url, impl std::error::Error + use<>> {
    reqwest::Url::parse(text)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.eq_ignore_ascii_case("localhost")
        || values::host(host).is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_one_spelling() {
        for spelling in [
            "http://h:8001",
            "http://h:8001/",
            "http://h:8001/v1",
            "http://h:8001/v1/",
            "HTTP://H:8001//",
        ] {
            assert_eq!(base(spelling).unwrap(), "http://h:8001", "{spelling}");
        }
        assert_eq!(base("https://h/models/v1").unwrap(), "https://h/models");
        assert_eq!(base("http://[::1]:9").unwrap(), "http://[::1]:9");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for wrong in [
            "h:8001",
            "127.0.0.1:8001",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h?x=1",
            "http://h#x",
            "http://h:99999",
            "/v1",
        ] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
        assert!(endpoints("http://h,http://h/v1").is_err());
        assert_eq!(
            endpoints("http://a , http://b/,").unwrap(),
            ["http://a", "http://b"]
        );
    }

    #[test]
    fn loopback_is_known_by_address_and_name() {
        let urls = |list: &[&str]| list.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let upstream = |list: &[&str]| [UpstreamConfig::at(urls(list))];
        assert!(all_loopback(&upstream(&[
            "http://localhost:1",
            "http://127.0.0.2:1",
            "http://[::1]:1"
        ])));
        assert!(!all_loopback(&upstream(&[
            "http://localhost:1",
            "http://10.0.0.1:1"
        ])));
        assert_eq!(
            own_address(&urls(&["http://127.0.0.1:8000"]), 8000).map(String::as_str),
            Some("http://127.0.0.1:8000")
        );
        assert_eq!(own_address(&urls(&["http://127.0.0.1:8001"]), 8000), None);
    }
}
