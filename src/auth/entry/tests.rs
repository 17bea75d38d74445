//! Single entries: what each field means, and that every fault is told without the key.

use super::*;

const KEY: &str = "sk-0123456789abcdef";

fn draft(json: &str) -> Draft {
    read_entry(&RawValue::from_string(json.to_owned()).unwrap())
}

fn fields(json: &str) -> Fields {
    draft(json)
        .outcome
        .map_err(|reason| format!("{json}: {reason}"))
        .unwrap()
}

#[test]
fn flat_and_object_entries_say_the_same() {
    let hash = KeyHash::of(KEY);
    for json in [
        format!("\"{KEY}\""),
        format!("{{\"key\":\"{KEY}\"}}"),
        format!("{{\"sha256\":\"{}\"}}", hash.to_hex()),
    ] {
        assert!(fields(&json).current == Some(hash), "{json}");
    }
}

#[test]
fn every_field_is_read() {
    let read = fields(&format!(
        r#"{{"key":"{KEY}","admin":true,"models":["a","b/c"],"labels":{{"team":"ml","empty":""}},"expires_at":"2027-01-01T00:00:00+01:00",
           "token_limit":9000000000000000,"period":"month","requests_per_minute":600,"tokens_per_minute":200000,"max_concurrent":8,
           "wake":false,"dry_run":true,"previous":[{{"key":"older-key-0123456789"}}]}}"#
    ));
    assert!(read.admin);
    assert_eq!(read.models.unwrap(), ["a", "b/c"]);
    assert_eq!(
        read.labels,
        [
            ("team".to_owned(), "ml".to_owned()),
            ("empty".to_owned(), String::new())
        ]
    );
    assert_eq!(
        read.expires_at,
        Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(499_655))
    );
    assert_eq!(
        (read.token_limit, read.period),
        (Some(9_000_000_000_000_000), Period::Month)
    );
    assert_eq!(
        (read.requests_per_minute, read.tokens_per_minute),
        (Some(600), Some(200_000))
    );
    assert_eq!(read.max_concurrent, Some(8));
    assert!(!read.wake && read.dry_run);
    assert_eq!(read.previous, [(KeyHash::of("older-key-0123456789"), None)]);
}

#[test]
fn what_is_not_said_is_no_limit() {
    let read = fields(&format!(r#"{{"key":"{KEY}"}}"#));
    assert_eq!((read.token_limit, read.period), (None, Period::Total));
    assert_eq!(
        (read.requests_per_minute, read.tokens_per_minute),
        (None, None)
    );
    assert!(read.max_concurrent.is_none() && read.wake && !read.dry_run);
}

#[test]
fn a_limit_is_a_whole_number_that_leaves_room() {
    for field in [
        "token_limit",
        "requests_per_minute",
        "tokens_per_minute",
        "max_concurrent",
    ] {
        for (value, words) in [
            ("0", "is zero"),
            ("-1", "whole number"),
            ("1.5", "whole number"),
            ("1e6", "whole number"),
            ("\"5\"", "whole number"),
            ("null", "whole number"),
            ("9000000000000001", "whole number"),
            ("99999999999999999999", "whole number"),
        ] {
            let json = format!(r#"{{"key":"{KEY}","{field}":{value}}}"#);
            let reason = draft(&json)
                .outcome
                .err()
                .unwrap_or_else(|| format!("{json} was taken"));
            assert!(
                reason.contains(&format!("`{field}`")) && reason.contains(words),
                "{json}: {reason}"
            );
            assert!(!reason.contains(|c: char| c.is_ascii_digit()), "{reason}");
        }
        fields(&format!(r#"{{"key":"{KEY}","{field}":1}}"#));
    }
}

#[test]
fn a_star_among_the_models_means_all() {
    assert!(
        fields(&format!(r#"{{"key":"{KEY}","models":["*"]}}"#))
            .models
            .is_none()
    );
    assert!(
        fields(&format!(r#"{{"key":"{KEY}","models":["a","*"]}}"#))
            .models
            .is_none()
    );
    assert_eq!(
        fields(&format!(r#"{{"key":"{KEY}","models":[]}}"#)).models,
        Some(vec![])
    );
}

#[test]
fn every_fault_is_named_without_the_key() {
    let sha = KeyHash::of("another-key-0123").to_hex();
    let with = |more: &str| format!(r#"{{"key":"{KEY}",{more}}}"#);
    let cases = [
        ("null".to_owned(), "null"),
        ("7".to_owned(), "neither a string"),
        ("[]".to_owned(), "neither a string"),
        ("{}".to_owned(), "neither `key` nor"),
        ("\"only-15-letters\"".to_owned(), "shorter than sixteen"),
        (format!("\"{KEY}\\n\""), "cannot be sent"),
        (format!("{{\"{KEY}\":true}}"), "odd name"),
        (r#"{"key":null}"#.to_owned(), "must be a string"),
        (r#"{"sha256":"abc"}"#.to_owned(), "hex digits"),
        (with(&format!("\"sha256\":\"{sha}\"")), "both"),
        (with(&format!("\"key\":\"{KEY}\"")), "`key` stands twice"),
        (with(r#""token_limits":1"#), "unknown field: `token_limits`"),
        (with(r#""admin":"yes""#), "`admin`"),
        (with(r#""admin":null"#), "`admin`"),
        (with(r#""models":"*""#), "`models`"),
        (with(r#""models":[""]"#), "`models`"),
        (with(r#""labels":{"a":1}"#), "`labels`"),
        (with(r#""labels":{"a":"1","a":"2"}"#), "`labels`"),
        (
            with(&format!(r#""labels":{{"a":"{}"}}"#, "x".repeat(64))),
            "`labels`",
        ),
        (with(r#""labels":{"":"x"}"#), "`labels`"),
        (with(r#""expires_at":"tomorrow""#), "`expires_at`"),
        (with(r#""expires_at":1798761600"#), "`expires_at`"),
        (with(r#""previous":{}"#), "`previous`"),
        (
            with(r#""previous":[{"expires_at":"2027-01-01T00:00:00Z"}]"#),
            "`previous`",
        ),
        (with(r#""previous":[{"sha":"x"}]"#), "`previous`"),
        (with(r#""period":"week""#), "`period`"),
        (with(r#""period":null"#), "`period`"),
        (with(r#""wake":"no""#), "`wake`"),
        (with(r#""dry_run":1"#), "`dry_run`"),
    ];
    for (json, words) in cases {
        let reason = draft(&json)
            .outcome
            .err()
            .unwrap_or_else(|| format!("{json} was taken"));
        assert!(reason.contains(words), "{json}: {reason}");
        assert!(
            !reason.contains(KEY) && !reason.contains("only-15"),
            "{json}: {reason}"
        );
    }
}

#[test]
fn a_faulty_entry_still_claims_its_keys() {
    let json =
        format!(r#"{{"nonsense":1,"key":"{KEY}","previous":[{{"key":"older-key-0123456789"}}]}}"#);
    assert_eq!(
        draft(&json).claims,
        [KeyHash::of(KEY), KeyHash::of("older-key-0123456789")]
    );
}
