//! The report as its readers see it.

use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use time::macros::datetime;

use super::report::{csv, csv_cell, json as json_text, table};
use super::*;
use crate::config::{Database, GoogleConfig, KeysSource, SinkKind};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(line: &[&str]) -> Result<Args, String> {
    let parsed = Line::try_parse_from([&["usage"], line].concat());
    parsed
        .map(|line| line.args)
        .map_err(|error| error.to_string())
}

fn group(name: Option<&str>, requests: i64) -> Totals {
    Totals {
        name: name.map(str::to_owned),
        requests,
        prompt_tokens: 1000,
        cached_tokens: 10,
        completion_tokens: 5,
        total_tokens: 1005,
        errors: 1,
        wakes: requests / 3,
    }
}

#[test]
fn arguments_have_defaults_and_are_checked() {
    let plain = args(&[]).unwrap();
    assert_eq!(
        (plain.by, plain.since),
        (Grouping::Key, Since::Ago(Duration::from_hours(7 * 24)))
    );
    let by = |text| args(&["--by", text]).map(|args| args.by);
    assert_eq!(by("label:a:b").unwrap(), Grouping::Label("a:b".into()));
    assert_eq!(by("day").unwrap(), Grouping::Day);
    for wrong in ["label:", "keys", "", "label"] {
        assert!(by(wrong).unwrap_err().contains("label:NAME"), "{wrong}");
    }
    assert!(args(&["--format", "xml"]).is_err());
}

#[test]
fn since_takes_spans_dates_and_times() {
    let since = |text| args(&["--since", text]).map(|args| args.since);
    assert_eq!(since("24h").unwrap(), Since::Ago(Duration::from_hours(24)));
    assert_eq!(since("30m").unwrap(), Since::Ago(Duration::from_mins(30)));
    assert_eq!(
        since("2026-11-01").unwrap(),
        Since::At(datetime!(2026-11-01 0:00 UTC))
    );
    assert_eq!(
        since("2026-11-01T02:00:00+02:00").unwrap(),
        Since::At(datetime!(2026-11-01 0:00 UTC))
    );
    for wrong in [
        "",
        "d",
        "7",
        "7w",
        "-7d",
        "7.5d",
        "2026-13-01",
        "yesterday",
        "é",
        "99999999999d",
    ] {
        assert!(since(wrong).is_err(), "{wrong}");
    }
    let now = datetime!(2026-11-08 12:00 UTC);
    assert_eq!(
        since("7d").unwrap().resolve(now).unwrap(),
        datetime!(2026-11-01 12:00 UTC)
    );
    assert!(since("4000000000d").unwrap().resolve(now).is_err());
}

#[test]
fn the_table_aligns_figures_and_ends_in_a_total() {
    let text = table("key", &[group(Some("opencode"), 12), group(None, 3)]);
    let wanted = "\
key       requests  prompt_tokens  cached_tokens  completion_tokens  total_tokens  errors  wakes
opencode        12           1000             10                  5          1005       1      4
(none)           3           1000             10                  5          1005       1      1
total           15           2000             20                 10          2010       2      5
";
    assert_eq!(text, wanted);
}

#[test]
fn csv_cells_are_quoted_and_never_a_formula() {
    let cells = [
        ("plain", "plain"),
        ("=1+1", "'=1+1"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("\ta", "'\ta"),
        ("\ra", "\"'\ra\""),
        ("a,b", "\"a,b\""),
        ("=\"x\",1", "\"'=\"\"x\"\",1\""),
        ("", ""),
    ];
    for (text, cell) in cells {
        assert_eq!(csv_cell(text), cell);
    }
    let text = csv("key", &[group(Some("=x"), 2), group(None, 1)]);
    let wanted = "\
key,requests,prompt_tokens,cached_tokens,completion_tokens,total_tokens,errors,wakes
'=x,2,1000,10,5,1005,1,0
,1,1000,10,5,1005,1,0
";
    assert_eq!(text, wanted);
}

#[test]
fn json_is_an_array_of_objects() {
    let text = json_text("label:team", &[group(Some("ml"), 2), group(None, 1)]);
    let value: Value = serde_json::from_str(&text).unwrap();
    let figures = json!({"requests": 2, "prompt_tokens": 1000, "cached_tokens": 10, "completion_tokens": 5,
        "total_tokens": 1005, "errors": 1, "wakes": 0});
    let mut first = json!({"label:team": "ml"});
    first
        .as_object_mut()
        .unwrap()
        .extend(figures.as_object().unwrap().clone());
    assert_eq!(value[0], first);
    assert_eq!(value[1]["label:team"], Value::Null);
    assert_eq!(json_text("key", &[]), "[]\n");
}

#[tokio::test]
async fn a_missing_database_is_told_in_words_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tollgate.db");
    let paths = Paths {
        google: GoogleConfig::default(),
        keys: KeysSource::File {
            path: directory.path().join("keys.json"),
            explicit: false,
        },
        sink: SinkKind::Local,
        usage_file: path.clone(),
        database: Database::None,
        default_token_limit: 1,
    };
    let error = run(args(&[]).unwrap(), paths)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nothing was recorded yet") && error.contains(path.to_str().unwrap()),
        "{error}"
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn an_empty_table_says_so_in_each_format() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tollgate.db");
    let _writer = UsageTable::open(&path).await.unwrap();
    let place = Place::Embedded(path);
    let since = datetime!(2026-11-01 0:00 UTC);
    let print = async |format| {
        report(&args(&["--format", format]).unwrap(), &place, since)
            .await
            .unwrap()
    };
    let words = print("table").await;
    assert!(
        words.starts_with("No calls recorded since 2026-11-01 00:00 UTC in "),
        "{words}"
    );
    assert_eq!(print("csv").await.lines().count(), 1);
    assert_eq!(print("json").await, "[]\n");
}

#[tokio::test]
async fn calls_count_from_the_moment_named_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tollgate.db");
    let row = json!({
        "request_id": "r", "started_at": "2026-11-01T00:00:00.000000Z",
        "finished_at": "2026-11-01T00:00:01.000000Z", "principal": "service", "key_name": "ci",
        "upstream": "u", "endpoint": "e", "stream": false, "status": 200, "outcome": "complete",
        "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 2, "total_tokens": 3,
        "counted_by": "engine", "attempts": 1, "wait_ms": 0, "duration_ms": 1, "request_bytes": 1,
        "response_bytes": 1, "service": "", "revision": "", "instance_id": "", "region": "",
        "labels": [], "woke": true,
    });
    UsageTable::open(&path)
        .await
        .unwrap()
        .insert_usage(&[row.to_string()])
        .await
        .unwrap();
    let place = Place::Embedded(path);
    let csv = args(&["--format", "csv"]).unwrap();
    let begins = datetime!(2026-11-01 0:00 UTC);
    let lines = async |since| report(&csv, &place, since).await.unwrap().lines().count();
    assert_eq!(lines(begins).await, 2);
    assert_eq!(lines(begins + Duration::from_micros(1)).await, 1);
}
