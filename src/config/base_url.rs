//! Base URLs of model servers: their one spelling, and what an address says by itself. Pure; a name
//! is not looked up here.

use super::values;

/// One base URL without its trailing slashes and `/v1`; the error reads as the end of the sentence
/// "`URL` ...".
pub(super) fn base(text: &str) -> Result<String, String> {
    const RIGHT: &str = "is not a base URL such as http://127.0.0.1:8001";
    let url = parse(text).map_err(|_| RIGHT.to_owned())?;
    let is_http = matches!(url.scheme(), "http" | "https");
    // What looks like two addresses is one with a strange host.
    let is_one = url.host_str().is_some_and(|host| !host.contains(','));
    if !is_http || !is_one || url.port() == Some(0) {
        return Err(RIGHT.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; a base URL has none, the key of the model server goes into VLLM_API_KEY".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment; a base URL has neither".to_owned());
    }
    let base = url.as_str().trim_end_matches('/');
    let base = base
        .strip_suffix("/v1")
        .unwrap_or(base)
        .trim_end_matches('/');
    Ok(base.to_owned())
}

/// On this machine.
pub(super) fn is_loopback(base: &str) -> bool {
    parse(base).is_ok_and(|url| is_here(&url))
}

/// This machine's `port`, which is the gateway's own.
pub(super) fn is_own(base: &str, port: u16) -> bool {
    parse(base).is_ok_and(|url| is_here(&url) && url.port_or_known_default() == Some(port))
}

/// Others can read on the way what is sent there.
pub(super) fn is_in_clear(base: &str) -> bool {
    parse(base).is_ok_and(|url| url.scheme() == "http" && !is_here(&url))
}

/// By the parser of the client that will connect, so that both read an address alike.
fn parse(text: &str) -> Result<reqwest::Url, impl std::error::Error + use<>> {
    reqwest::Url::parse(text)
}

fn is_here(url: &reqwest::Url) -> bool {
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
            "",
            "h:8001",
            "127.0.0.1:8001",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h?x=1",
            "http://h#x",
            "http://h:99999",
            "http://h:0",
            "http://a,http://b",
            "/v1",
        ] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_known_by_address_and_name() {
        for here in ["http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1"] {
            assert!(is_loopback(here) && !is_in_clear(here), "{here}");
            assert!(is_own(here, 1) && !is_own(here, 2), "{here}");
        }
        assert!(!is_loopback("http://10.0.0.1:1") && is_in_clear("http://10.0.0.1:1"));
        assert!(!is_own("http://10.0.0.1:1", 1) && !is_in_clear("https://10.0.0.1:1"));
        assert!(is_own("http://127.0.0.1", 80));
    }
}
