//! What the upstreams file promises, from files written in the test. Here: the file and its fields.

mod together;
mod variables;

use std::collections::BTreeMap;
use std::io::Write as _;

use super::super::{Config, ConfigError, Fallback, Sources};
use super::*;

/// Two upstreams with nothing wrong; what is put in their place is.
const GOOD: &str = r#"
[[upstream]]
name = "one"
urls = ["http://127.0.0.1:8001"]

[[upstream]]
name = "two"
urls = ["https://two-x.a.run.app/v1/"]
"#;

/// The configuration over a file with this text and these variables.
fn load(text: &[u8], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let mut environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let path = file.path().to_str().unwrap().to_owned();
    environment.insert("UPSTREAMS_FILE".to_owned(), path.clone());
    let loaded = Config::from_sources(&Sources {
        environment,
        ..Sources::default()
    });
    loaded.map_err(|mut error| {
        for fault in &mut error.faults {
            *fault = fault.replace(&path, "FILE");
        }
        error
    })
}

fn good(text: &str, variables: &[(&str, &str)]) -> Config {
    load(text.as_bytes(), variables).unwrap()
}

fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    load(text.as_bytes(), variables).unwrap_err().faults
}

/// One upstream with this line besides.
fn with(line: &str) -> String {
    format!("[[upstream]]\nname = \"one\"\nurls = [\"http://10.0.0.1\"]\n{line}\n")
}

#[test]
fn the_documented_example_is_read_whole() {
    let docs = include_str!("../../../../docs/upstreams.md");
    let example = docs
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("an example in the docs");
    let variables = [("SMALL_API_KEY", "sk-hidden")];
    let config = good(example, &variables);
    let [large, small] = &*config.upstreams.upstreams else {
        panic!("two upstreams");
    };
    assert_eq!((&*large.name, &*small.name), ("large", "small"));
    assert_eq!(large.aliases["opencode-llm"], large.models[0]);
    assert_eq!(large.auth, UpstreamAuth::IdToken);
    assert_eq!(large.scale_to_zero, Some(true));
    assert_eq!(large.fallback, [Fallback::Upstream("small".to_owned())]);
    assert_eq!(small.urls.len(), 2);
    assert_eq!(small.api_key.as_ref().unwrap().expose(), "sk-hidden");
    assert_eq!(small.max_concurrent, Some(64));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn every_documented_field_exists_and_the_other_way_round() {
    let docs = include_str!("../../../../docs/upstreams.md");
    let (_, section) = docs.split_once("\n## Fields\n").expect("the fields");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(documented, fields::FIELDS);
}

#[test]
fn an_upstream_that_says_little_has_the_variables_for_the_rest() {
    let key = ("VLLM_API_KEY", "sk-hidden");
    let config = good(GOOD, &[key, ("UPSTREAM_AUTH", "none")]);
    let upstreams = &config.upstreams.upstreams;
    let urls: Vec<_> = upstreams
        .iter()
        .map(|upstream| &*upstream.urls[0])
        .collect();
    assert_eq!(urls, ["http://127.0.0.1:8001", "https://two-x.a.run.app"]);
    for upstream in upstreams {
        assert_eq!(upstream.auth, UpstreamAuth::None);
        assert_eq!(upstream.api_key.as_ref().unwrap().expose(), "sk-hidden");
        assert_eq!(upstream.api_key_env, "VLLM_API_KEY");
        assert!(upstream.models.is_empty() && upstream.fallback.is_empty());
    }
    let without = good(&with("api_key_env = \"\""), &[key]);
    assert!(without.upstreams.upstreams[0].api_key.is_none());
}

#[test]
fn every_field_of_the_wrong_type_or_size_is_named_with_its_line() {
    for (line, right) in [
        ("models = \"m\"", "`models` is not a list of texts"),
        ("models = [\"m\", 1]", "`models` is not a list of texts"),
        ("models = [\"*\"]", "`*` is no model"),
        ("models = [\"m\", \"m\"]", "`models` names `m` twice"),
        ("models = [\"\"]", "names a model that is empty"),
        ("aliases = [\"a\"]", "`aliases` is not a table"),
        ("aliases = {a = 1}", "`a` is not set to a text"),
        (
            "aliases = {a.5 = \"m\"}",
            "quotes around a name that has a dot",
        ),
        ("aliases = {a = \" m\"}", "blanks around it"),
        (
            "auth = \"idtoken\"",
            "`auth` is none of auto, none, id_token",
        ),
        ("auth = \"id_token\"", "in clear to http://10.0.0.1"),
        ("auth = true", "`auth` is not a text"),
        ("api_key_env = 1", "`api_key_env` is not a text"),
        ("max_model_len = 0", "`max_model_len` is not a whole number"),
        (
            "max_model_len = 1.5",
            "`max_model_len` is not a whole number",
        ),
        (
            "scale_to_zero = \"true\"",
            "neither true nor false, without",
        ),
        (
            "max_concurrent = 0",
            "`max_concurrent` is not a whole number",
        ),
        (
            "max_concurrent = -1",
            "`max_concurrent` is not a whole number",
        ),
        ("idle_seconds = 0", "whole number from 1 to 3600"),
        ("idle_seconds = 3601", "whole number from 1 to 3600"),
        ("idle_seconds = \"9\"", "whole number from 1 to 3600"),
        ("fallback = \"two\"", "`fallback` is not a list"),
        ("fallback = [\"one\"]", "cannot stand in for itself"),
        (
            "fallback = [\"gone\"]",
            "`gone` is neither another upstream",
        ),
        ("max_concurent = 1", "did you mean `max_concurrent`?"),
        ("weight = 1", "`weight` is no field; the fields are name,"),
        (
            "api_key = \"sk-hidden\"",
            "name the variable that holds the key",
        ),
    ] {
        let [fault] = &*faults(&with(line), &[]) else {
            panic!("one fault: {line}: {:?}", faults(&with(line), &[]));
        };
        let begin = "UPSTREAMS_FILE: FILE line 4: upstream `one`: ";
        let url = begin.replace('4', "3");
        assert!(
            fault.starts_with(begin) || fault.starts_with(&url),
            "{fault}"
        );
        assert!(fault.contains(right), "{line}: {fault}");
    }
}

#[test]
fn names_and_addresses_are_judged_one_by_one() {
    for (text, right) in [
        (
            "[[upstream]]\nurls = [\"http://h\"]",
            "line 1: upstream number 1: has no `name`",
        ),
        (
            "[[upstream]]\nname = 1\nurls = [\"http://h\"]",
            "line 2: upstream number 1: `name` is not",
        ),
        (
            "[[upstream]]\nname = \"a b\"\nurls = [\"http://h\"]",
            "line 2: upstream number 1: `name` is not 1 to 64",
        ),
        (
            "[[upstream]]\nname = \"a\"",
            "line 1: upstream `a`: has no `urls`",
        ),
        (
            "[[upstream]]\nname = \"a\"\nurls = []",
            "line 1: upstream `a`: has no `urls`",
        ),
        (
            "[[upstream]]\nname = \"a\"\nurls = \"http://h\"",
            "line 3: upstream `a`: `urls` is not a list",
        ),
        (
            "[[upstream]]\nname = \"a\"\nurls = [\"h:1\"]",
            "line 3: upstream `a`: `urls`: `h:1` is not a base URL",
        ),
        (
            "[[upstream]]\nname = \"a\"\nurls = [\"http://u:hidden@h\"]",
            "`http://***@h` holds credentials",
        ),
        (
            "[[upstream]]\nname = \"a\"\nurls = [\"http://h\", \"http://h/v1\"]",
            "http://h stands in upstream `a` already",
        ),
        (
            &GOOD.replace("two\"", "one\""),
            "line 6: upstream `one`: there is one of this name before",
        ),
        (
            &GOOD.replace("https://two-x.a.run.app", "http://127.0.0.1:8001"),
            "line 8: upstream `two`: `urls`: http://127.0.0.1:8001 stands in upstream `one`",
        ),
    ] {
        let [fault] = &*faults(text, &[]) else {
            panic!("one fault: {text}: {:?}", faults(text, &[]));
        };
        assert!(
            fault.contains(right) && !fault.contains("hidden"),
            "{fault}"
        );
    }
}

#[test]
fn what_is_no_file_of_upstreams_says_so() {
    for (text, right) in [
        (&b""[..], "FILE line 1: describes no model server"),
        (b"# nothing\n", "describes no model server"),
        (b"[upstream]\nname = \"a\"\n", "two brackets"),
        (b"upstream = []\n", "describes no model server"),
        (b"upstream = [1]\n", "describes no model server"),
        (b"\xff\n", "is not UTF-8"),
        (
            b"[[upstream]]\nname = \"sk-hidden\n",
            "FILE line 2: is no TOML: ",
        ),
        (
            b"[[upstream]]\nname = \"a\"\nname = \"b\"\n",
            "FILE line 3: is no TOML: duplicate key",
        ),
    ] {
        let error = load(text, &[]).unwrap_err().to_string();
        assert!(
            error.contains(right) && !error.contains("hidden"),
            "{error}"
        );
    }
    let long = "#".repeat(usize::try_from(FILE_BYTES).unwrap() + 1);
    assert!(faults(&long, &[])[0].contains("is longer than 1048576 bytes"));
    let with_mark = format!("\u{feff}{GOOD}");
    assert_eq!(good(&with_mark, &[]).upstreams.upstreams.len(), 2);
    let other = format!("[[upstreams]]\nname = \"a\"\n{GOOD}");
    assert!(faults(&other, &[])[0].contains("`upstreams` is nothing that this file holds"));
    for path in ["/no/such/file.toml", "/"] {
        let environment = [("UPSTREAMS_FILE".to_owned(), path.to_owned())].into();
        let sources = Sources {
            environment,
            ..Sources::default()
        };
        let error = Config::from_sources(&sources).unwrap_err().to_string();
        assert!(error.contains("UPSTREAMS_FILE: `/"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_judged_without_harm(text in ".*", at in 0_usize..90, cut in 0_usize..20) {
        let _ = load(text.as_bytes(), &[]);
        // Most of a good file, with something else in it.
        let end = (at + cut).min(GOOD.len());
        let _ = load([&GOOD[..at], &text, &GOOD[end..]].concat().as_bytes(), &[]);
        let _ = load([&GOOD[..at], &GOOD[end..]].concat().as_bytes(), &[]);
    }
}

#[test]
fn deep_nesting_is_a_fault() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let deep = format!("models = {}{}", open.repeat(10_000), close.repeat(10_000));
        assert!(!faults(&with(&deep), &[]).is_empty());
    }
}

#[test]
fn faults_of_all_upstreams_come_together_in_the_order_of_the_lines() {
    let text = "[[upstream]]\nname = \"b\"\nurls = [\"x\"]\nidle_seconds = 0\n\n\
        [[upstream]]\nname = \"a\"\nurls = [\"http://h\"]\nmodel = \"m\"\nauth = \"x\"\n";
    let lines: Vec<_> = faults(text, &[("PORT", "x")])
        .iter()
        .map(|fault| fault.split(": ").take(3).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        lines[1..],
        [
            "UPSTREAMS_FILE: FILE line 3: upstream `b`",
            "UPSTREAMS_FILE: FILE line 4: upstream `b`",
            "UPSTREAMS_FILE: FILE line 9: upstream `a`",
            "UPSTREAMS_FILE: FILE line 10: upstream `a`",
        ]
    );
    assert!(lines[0].starts_with("PORT: "), "{lines:?}");
}
