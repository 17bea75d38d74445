//! Whole payloads: what is taken, what is left out, and that reasons give no key away.

use super::*;
use crate::budget::Period;

const KEY: &str = "sk-0123456789abcdef";

fn parse(content: &str) -> KeySet {
    KeySet::parse(content.as_bytes(), None, true).unwrap()
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
fn the_documented_example_loads_whole() {
    let hash = "a".repeat(64);
    let content = format!(
        r#"{{"opencode-integration": "sk-opencode-0123456789",
     "ci": {{"key": "sk-ci-0123456789abcdef", "token_limit": 5000000, "period": "month", "requests_per_minute": 600, "tokens_per_minute": 200000, "max_concurrent": 8,
            "models": ["*"], "wake": true, "labels": {{"team": "ml-platform"}}, "expires_at": "2027-01-01T00:00:00Z", "admin": false}},
     "ops": {{"sha256": "{hash}", "admin": true, "previous": [{{"sha256": "{}", "expires_at": "2026-12-01T00:00:00Z"}}]}}}}"#,
        "b".repeat(64)
    );
    check(&content, &["opencode-integration", "ci", "ops"], &[]);
    let set = parse(&content);
    let ci = &set.entries()[1];
    let allowance = Allowance {
        owner: "service:ci".into(),
        limit: Some(5_000_000),
        period: Period::Month,
        dry_run: false,
    };
    assert_eq!(ci.allowance, allowance);
    let minute = ci.minute.as_ref().unwrap();
    assert_eq!((minute.requests, minute.tokens), (Some(600), Some(200_000)));
    assert_eq!(ci.concurrency.as_ref().unwrap().available_permits(), 8);
    assert!(ci.wake && ci.models.is_none());
    let plain = &set.entries()[0];
    assert_eq!(&*plain.allowance.owner, "service:opencode-integration");
    assert!(plain.allowance.limit.is_none() && plain.minute.is_none());
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
fn a_token_budget_that_nothing_can_hold_is_left_out_with_a_reason() {
    let entry = |name: &str, more: &str| {
        format!(r#""{name}":{{"key":"sk-{name}-0123456789abcdef",{more}}}"#)
    };
    let content = format!(
        "{{{},{},{}}}",
        entry("a", r#""token_limit":5"#),
        entry(
            "b",
            r#""requests_per_minute":5,"tokens_per_minute":5,"max_concurrent":1"#
        ),
        entry("c", r#""token_limit":5,"dry_run":true"#),
    );
    let set = KeySet::parse(content.as_bytes(), None, false).unwrap();
    let names: Vec<&str> = set.entries().iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["b"]);
    let out: Vec<&str> = set.rejected.iter().map(|entry| &*entry.name).collect();
    assert_eq!(out, ["a", "c"]);
    assert!(
        set.rejected
            .iter()
            .all(|entry| entry.reason.contains("DATABASE_URL"))
    );
    check(&content, &["a", "b", "c"], &[]);
}

#[test]
fn a_minute_outlives_what_does_not_change_its_limits() {
    let set = |older: Option<&KeySet>, key: &str, more: &str| {
        let content = format!(r#"{{"a":{{"key":"{key}",{more}}}}}"#);
        KeySet::parse(content.as_bytes(), older, true).unwrap()
    };
    let minute = |set: &KeySet| set.entries()[0].minute.clone().unwrap();
    let limits = r#""requests_per_minute":5,"tokens_per_minute":50"#;
    let first = set(None, KEY, limits);
    // Rotated, and with another budget.
    let second = set(
        Some(&first),
        "sk-another-0123456789",
        &format!(r#"{limits},"token_limit":7,"admin":true"#),
    );
    assert!(Arc::ptr_eq(&minute(&first), &minute(&second)));
    assert_eq!(
        first.entries()[0].allowance.owner,
        second.entries()[0].allowance.owner
    );
    for changed in [
        r#""requests_per_minute":5"#,
        r#""tokens_per_minute":50"#,
        r#""requests_per_minute":5,"tokens_per_minute":51"#,
    ] {
        let third = set(Some(&second), KEY, changed);
        assert!(!Arc::ptr_eq(&minute(&second), &minute(&third)), "{changed}");
    }
    assert!(
        set(Some(&second), KEY, r#""wake":true"#).entries()[0]
            .minute
            .is_none()
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
