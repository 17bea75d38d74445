//! Whole payloads: what is taken, what is left out, and that reasons give no key away.

use super::*;

const KEY: &str = "sk-0123456789abcdef";

fn parse(content: &str) -> KeySet {
    KeySet::parse(content.as_bytes(), None).unwrap()
}

/// Names in force and names left out.
fn check(content: &str, loaded: &[&str], rejected: &[&str]) {
    let set = parse(content);
    let names: Vec<&str> = set.entries().iter().map(|entry| &*entry.name).collect();
    let out: Vec<&str> = set
        .rejected
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    assert_eq!(
        (names.as_slice(), out.as_slice()),
        (loaded, rejected),
        "{content}"
    );
    assert!(
        set.rejected
            .iter()
            .all(|entry| !entry.reason.is_empty() && !entry.reason.contains("sk-"))
    );
}

#[test]
fn the_contracts_own_example_loads_but_for_the_limits_of_later_versions() {
    let hash = "a".repeat(64);
    let content = format!(
        r#"{{"opencode-integration": "sk-opencode-0123456789",
     "ci": {{"key": "sk-ci-0123456789abcdef", "token_limit": 5000000, "period": "month", "requests_per_minute": 600, "tokens_per_minute": 200000, "max_concurrent": 8,
            "models": ["*"], "wake": true, "labels": {{"team": "ml-platform"}}, "expires_at": "2027-01-01T00:00:00Z", "admin": false}},
     "ops": {{"sha256": "{hash}", "admin": true, "previous": [{{"sha256": "{}", "expires_at": "2026-12-01T00:00:00Z"}}]}}}}"#,
        "b".repeat(64)
    );
    check(&content, &["opencode-integration", "ops"], &["ci"]);
    let set = parse(&content);
    assert!(set.rejected[0].reason.contains("this version cannot hold"));
    let ops = set.find(&KeyHash::from_hex(&hash).unwrap()).unwrap();
    assert!(ops.entry.admin && ops.entry.models.is_none());
    assert_eq!(&*ops.entry.previous[0].key_id, "bbbbbbbbbbbb");
    assert!(
        !set.find(&KeyHash::of("sk-opencode-0123456789"))
            .unwrap()
            .entry
            .admin
    );
}

#[test]
fn a_faulty_entry_is_left_out_and_the_others_load() {
    check(
        &format!(
            r#"{{"a":"{KEY}","b":null,"c":"short","d":{{"key":"sk-other-0123456789","x":1}}}}"#
        ),
        &["a"],
        &["b", "c", "d"],
    );
    check("{}", &[], &[]);
}

#[test]
fn every_entry_that_shares_a_key_is_left_out() {
    check(
        &format!(r#"{{"a":"{KEY}","b":"sk-another-0123456789","c":{{"key":"{KEY}"}}}}"#),
        &["b"],
        &["a", "c"],
    );
    check(
        &format!(r#"{{"a":"{KEY}","b":{{"key":"{KEY}","unknown":1}}}}"#),
        &[],
        &["a", "b"],
    );
    check(
        &format!(
            r#"{{"a":"{KEY}","b":{{"key":"sk-another-0123456789","previous":[{{"key":"{KEY}"}}]}}}}"#
        ),
        &[],
        &["a", "b"],
    );
    check(
        &format!(r#"{{"a":{{"key":"{KEY}","previous":[{{"key":"{KEY}"}}]}}}}"#),
        &[],
        &["a"],
    );
}

#[test]
fn equal_names_are_left_out_and_told_of_once() {
    check(
        &format!(r#"{{"a":"{KEY}","b":"sk-another-0123456789","a":"sk-third-0123456789ab"}}"#),
        &["b"],
        &["a"],
    );
}

#[test]
fn names_must_be_fit_for_logs_and_rows() {
    let long = "n".repeat(129);
    check(&format!(r#"{{"{long}":"{KEY}"}}"#), &[], &[&long[..128]]);
    check(&format!(r#"{{"":"{KEY}"}}"#), &[], &[""]);
    check(&format!(r#"{{"a\nb":"{KEY}"}}"#), &[], &["a\u{fffd}b"]);
    check(
        &format!(r#"{{"{}":"{KEY}"}}"#, "ü".repeat(128)),
        &[&"ü".repeat(128)],
        &[],
    );
}

#[test]
fn a_key_in_the_place_of_a_name_is_not_shown() {
    let generated = super::super::ApiKey::generate();
    check(
        &format!(r#"{{"{}":"ci"}}"#, generated.expose()),
        &[],
        &["entry 1 (name withheld)"],
    );
    check(
        &format!(r#"{{"a":"short","{KEY}":"{KEY}"}}"#),
        &[],
        &["a", "entry 2 (name withheld)"],
    );
}

#[test]
fn the_version_is_that_of_the_content() {
    let (one, two) = (parse("{}"), parse("{} "));
    assert_eq!(one.version(), "44136fa355b3");
    assert_ne!(one.version(), two.version());
}
