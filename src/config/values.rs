//! Texts of variables into checked values. Pure; each error says what is right and reads as the
//! end of the sentence "`VALUE` ...".

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::reader::pieces;

/// Google allows this many labels on a resource.
const MOST_LABELS: usize = 64;

pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .map_err(|_| "is neither an IP address nor `localhost`".to_owned())
}

/// `name=model` pairs.
pub(super) fn aliases(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut aliases = BTreeMap::new();
    for piece in pieces(text) {
        let (name, model) = pair(piece)
            .filter(|(_, model)| !model.is_empty())
            .ok_or("is not name=model, with commas between")?;
        if aliases.insert(name.to_owned(), model.to_owned()).is_some() {
            return Err(format!("names the alias `{name}` twice"));
        }
    }
    Ok(aliases)
}

/// `key=value` pairs by the rules of Google's labels, in the order given.
pub(super) fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    let mut seen = BTreeSet::new();
    for piece in pieces(text) {
        let (key, value) = pair(piece).ok_or("is not key=value, with commas between")?;
        if !key.starts_with(|c: char| c.is_ascii_lowercase()) || !is_label_part(key) {
            return Err(format!(
                "has the key `{key}`: a key begins with a lower-case letter, holds lower-case letters, digits, _ and -, and is at most 63 long"
            ));
        }
        if !is_label_part(value) {
            return Err(format!(
                "has a value under `{key}` that is not lower-case letters, digits, _ and -, at most 63 long"
            ));
        }
        if !seen.insert(key) {
            return Err(format!("names the key `{key}` twice"));
        }
        labels.push((key.to_owned(), value.to_owned()));
    }
    if labels.len() > MOST_LABELS {
        return Err(format!("has more than {MOST_LABELS} labels"));
    }
    Ok(labels)
}

/// `*` or origins as a browser sends them.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let mut origins = Vec::new();
    for piece in pieces(text) {
        if piece == "*" {
            return Ok(vec!["*".to_owned()]);
        }
        let origin = piece
            .strip_suffix('/')
            .unwrap_or(piece)
            .to_ascii_lowercase();
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', '*'])
        });
        if !is_origin || !origin.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("is neither `*` nor a list of origins such as https://app.example.com, without a path".to_owned());
        }
        origins.push(origin);
    }
    Ok(origins)
}

/// A level, or `target=level` pieces besides, as `EnvFilter` takes them.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = text.to_ascii_lowercase();
    let known = pieces(&level).all(|piece| {
        let (target, level) = piece
            .rsplit_once('=')
            .map_or((None, piece), |(target, level)| (Some(target), level));
        LEVELS.contains(&level)
            && target.is_none_or(|target| {
                !target.is_empty()
                    && target
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
            })
    });
    if known {
        Ok(level)
    } else {
        Err(
            "is none of off, error, warn, info, debug, trace, also with target=level pieces"
                .to_owned(),
        )
    }
}

/// One of a closed set of words, in any case.
pub(super) fn word(text: &str, words: &[&'static str]) -> Result<&'static str, String> {
    let found = words
        .iter()
        .copied()
        .find(|word| text.eq_ignore_ascii_case(word));
    found.ok_or_else(|| format!("is none of {}", words.join(", ")))
}

fn pair(piece: &str) -> Option<(&str, &str)> {
    let (name, value) = piece.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    (!name.is_empty()).then_some((name, value))
}

fn is_label_part(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_pairs_and_unique() {
        assert_eq!(
            aliases("a=*, b = org/M=1,")
                .unwrap()
                .into_iter()
                .collect::<Vec<_>>(),
            [
                ("a".to_owned(), "*".to_owned()),
                ("b".to_owned(), "org/M=1".to_owned()),
            ]
        );
        for wrong in ["a", "a=", "=b", "a=b,a=c"] {
            assert!(aliases(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_follow_googles_rules() {
        let given = "application=vllm-inference,cost-center=engineering,empty=";
        let read = labels(given).unwrap();
        assert_eq!(
            read[1],
            ("cost-center".to_owned(), "engineering".to_owned())
        );
        assert_eq!(read.len(), 3);
        let long = "a".repeat(64);
        for wrong in [
            "a",
            "A=b",
            "a=B",
            "1a=b",
            "a=b,a=c",
            "=b",
            "a=b c",
            &format!("{long}=b"),
            &format!("a={long}"),
        ] {
            assert!(labels(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_have_no_path() {
        assert_eq!(
            origins("https://App.example.com/, http://localhost:3000").unwrap(),
            ["https://app.example.com", "http://localhost:3000"]
        );
        assert_eq!(origins("https://a.example,*").unwrap(), ["*"]);
        for wrong in [
            "app.example.com",
            "https://a.example/x",
            "https://",
            "https://*.example",
            "https://u@a.example",
        ] {
            assert!(origins(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_levels_are_those_of_the_filter() {
        for right in ["info", "WARN", "info,hyper=debug", "off"] {
            assert!(
                tracing_subscriber::EnvFilter::try_new(log_level(right).unwrap()).is_ok(),
                "{right}"
            );
        }
        for wrong in ["warning", "loud", "hyper=", "=info", "info,x=[y]"] {
            assert!(log_level(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_are_addresses() {
        assert!(host("[::1]").unwrap().is_loopback());
        assert!(host("localhost").unwrap().is_loopback());
        assert!(host("example.com").is_err());
    }
}
