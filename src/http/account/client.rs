//! Where a request comes from, as far as that can be believed. Pure.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{FORWARDED, HOST};
use http::request::Parts;
use http::uri::Authority;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    /// From this machine, to a name of this machine, through no proxy that says so.
    pub is_local: bool,
}

impl Client {
    /// `peer` is the other end of the connection. On Cloud Run that is Google's front end, which
    /// adds the client's address at the end of `X-Forwarded-For`; elsewhere anybody may have.
    pub fn of(head: &Parts, peer: IpAddr, on_cloud_run: bool) -> Self {
        let told = on_cloud_run
            .then(|| last_forwarded(&head.headers))
            .flatten();
        Self {
            address: told.unwrap_or(peer).to_canonical(),
            is_local: peer.to_canonical().is_loopback()
                && names_loopback(head)
                && !is_forwarded(&head.headers),
        }
    }
}

fn last_forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let line = headers.get_all("x-forwarded-for").iter().next_back()?;
    line.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        name == FORWARDED || name == "x-real-ip" || name.as_str().starts_with("x-forwarded-")
    })
}

/// Every name that the request gives its host is one of this machine: a page that had its own name
/// point here would give that one.
fn names_loopback(head: &Parts) -> bool {
    let in_headers = head.headers.get_all(HOST).iter();
    let mut names: Vec<Option<Authority>> = in_headers
        .map(|value| value.to_str().ok()?.trim().parse().ok())
        .collect();
    names.extend(head.uri.authority().cloned().map(Some));
    let is_loopback = |name: &Authority| {
        let host = name.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    !names.is_empty()
        && names
            .iter()
            .all(|name| name.as_ref().is_some_and(is_loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, headers: &[(&str, &str)], on_cloud_run: bool) -> Client {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Client::of(&head, peer.parse().unwrap(), on_cloud_run)
    }

    #[test]
    fn the_address_is_the_sockets_and_on_cloud_run_the_last_forwarded() {
        let headers = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7, 192.0.2.1"),
        ];
        let address = |peer, cloud| of(peer, &headers, cloud).address.to_string();
        assert_eq!(address("10.0.0.1", false), "10.0.0.1");
        assert_eq!(address("10.0.0.1", true), "192.0.2.1");
        assert_eq!(address("::ffff:10.0.0.1", false), "10.0.0.1");
        let odd = of("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, me")], true);
        assert_eq!(odd.address.to_string(), "10.0.0.1");
        let six = of("10.0.0.1", &[("x-forwarded-for", "2001:db8::1")], true);
        assert_eq!(six.address.to_string(), "2001:db8::1");
    }

    #[test]
    fn local_is_this_machine_by_a_name_of_its_own_through_no_proxy() {
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]:8000",
        ] {
            assert!(of("127.0.0.1", &[("host", host)], false).is_local, "{host}");
            assert!(of("::1", &[("host", host)], false).is_local, "{host}");
            assert!(!of("10.0.0.1", &[("host", host)], false).is_local, "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "user@example.com",
            "",
            "a b",
        ] {
            assert!(
                !of("127.0.0.1", &[("host", host)], false).is_local,
                "{host}"
            );
        }
        assert!(!of("127.0.0.1", &[], false).is_local);
        for extra in [
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-anything", ""),
            ("x-real-ip", "127.0.0.1"),
            ("host", "example.com"),
        ] {
            let headers = [("host", "localhost"), extra];
            assert!(!of("127.0.0.1", &headers, false).is_local, "{extra:?}");
        }
    }
}
