//! What the verbs that call a gateway, as its clients do, take from the environment. No setting of a
//! gateway, and so in no table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{Reader, stars};
use super::{ConfigError, Sources, assemble};
use crate::secret::Secret;

/// The variable that holds a client's key; the printed opencode.json names it too.
pub const CLIENT_KEY: &str = "TOLLGATE_API_KEY";

/// The key of this machine's client: `TOLLGATE_API_KEY`, or what `TOLLGATE_API_KEY_FILE` names.
///
/// # Errors
/// A file that cannot be read.
pub fn client_key() -> Result<Option<Secret<String>>, ConfigError> {
    let sources = Sources::of_process(BTreeMap::new());
    let mut reader = Reader::new(&sources);
    let key = reader.secret(CLIENT_KEY, stars);
    reader.finish().judge(key)
}

/// Where a gateway that is started here can be called; `None` if the system chooses its port.
///
/// # Errors
/// `HOST` or `PORT` is none.
pub fn local_url() -> Result<Option<String>, ConfigError> {
    let sources = Sources::of_process(BTreeMap::new());
    let mut reader = Reader::new(&sources);
    let (host, port) = assemble::listener(&mut reader, &sources);
    let url = (port != 0).then(|| url_of(host, port));
    reader.finish().judge(url)
}

/// The address of a listener as one to call.
fn url_of(host: IpAddr, port: u16) -> String {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    format!("http://{}", SocketAddr::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_called_on_this_machine() {
        for (host, url) in [
            ("127.0.0.1", "http://127.0.0.1:8000"),
            ("0.0.0.0", "http://127.0.0.1:8000"),
            ("::", "http://[::1]:8000"),
            ("10.0.0.5", "http://10.0.0.5:8000"),
        ] {
            assert_eq!(url_of(host.parse().unwrap(), 8000), url);
        }
    }
}
