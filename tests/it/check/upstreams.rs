//! What `tollgate check` and `serve` say of an upstreams file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::tollgate;

const FILE: &str = "upstreams.toml";
const GOOD: &str = r#"
[[upstream]]
name = "large"
urls = ["https://large-x.a.run.app/v1", "https://large-y.a.run.app"]
models = ["org/large"]
aliases = { opencode-llm = "org/large" }
auth = "id_token"
api_key_env = "LARGE_KEY"
max_model_len = 32768
scale_to_zero = true
max_concurrent = 8
idle_seconds = 60
fallback = ["small", "org/tiny"]

[[upstream]]
name = "small"
urls = ["http://127.0.0.1:8001"]

[[upstream]]
name = "tiny"
urls = ["http://127.0.0.1:8002"]
models = ["org/tiny"]
api_key_env = ""
"#;

/// The exit code and all that was said, without secrets in it.
fn run(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut all = vec![("UPSTREAMS_FILE", FILE)];
    all.extend(variables);
    let output = tollgate(folder, &all, arguments);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains("hidden"), "{said}");
    (output.status.code(), said)
}

#[test]
fn every_upstream_is_printed_as_it_is_in_effect_with_stars_for_keys() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE), GOOD).unwrap();
    fs::write(folder.path().join("large.key"), "sk-hidden-large\n").unwrap();
    let keys = [
        ("LARGE_KEY_FILE", "large.key"),
        ("VLLM_API_KEY", "sk-hidden"),
    ];
    let (code, said) = run(folder.path(), &keys, &["check", "--offline"]);
    assert_eq!(code, Some(0), "{said}");
    let blocks: Vec<_> = said.split("upstream ").skip(1).collect();
    for (block, expected) in [
        (
            0,
            "large\n  urls            https://large-x.a.run.app, https://large-y.a.run.app\n",
        ),
        (
            0,
            "  models          org/large\n  aliases         opencode-llm = org/large\n",
        ),
        (
            0,
            "  auth            id_token\n  api_key         *** from LARGE_KEY\n",
        ),
        (
            0,
            "  max_model_len   32768\n  scale_to_zero   true\n  max_concurrent  8\n  idle_seconds    60\n",
        ),
        (1, "small, model org/tiny\n"),
        (
            2,
            "small\n  urls            http://127.0.0.1:8001\n  models          all that it lists\n",
        ),
        (2, "  api_key         *** from VLLM_API_KEY\n"),
        (3, "  api_key         none\n"),
    ] {
        assert!(blocks[block].contains(expected), "{expected}: {said}");
    }
    assert!(
        said.contains("MODEL_ALIASES            llm-user-managed=*  "),
        "{said}"
    );
    let (_, report) = run(folder.path(), &keys, &["check", "--offline", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let large = &report["upstreams"][0];
    assert_eq!(large["fallback"], json!(["small", "org/tiny"]));
    assert_eq!(large["api_key"], "***");
    assert_eq!(report["upstreams"][1]["idle_seconds"], Value::Null);
    assert_eq!(report["upstreams"].as_array().map(Vec::len), Some(3));
}

#[test]
fn without_a_file_the_endpoint_is_the_one_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("VLLM_ENDPOINT", "http://10.0.0.1/v1,http://10.0.0.2")];
    let output = tollgate(folder.path(), &variables, &["check", "--offline", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let urls = json!(["http://10.0.0.1", "http://10.0.0.2"]);
    assert_eq!(report["upstreams"][0]["urls"], urls);
    assert_eq!(report["upstreams"].as_array().map(Vec::len), Some(1));
}

#[test]
fn every_fault_of_the_file_is_in_one_message_beside_those_of_the_variables() {
    let folder = tempfile::tempdir().unwrap();
    let bad = GOOD
        .replace("\"small\"\nurls", "\"la rge\"\nurl")
        .replace(
            "idle_seconds = 60",
            "idle_seconds = 0\napi_key = \"sk-hidden\"",
        )
        .replace("https://large-y.a.run.app", "http://127.0.0.1:8002/v1/")
        .replace(
            "{ opencode-llm = \"org/large\" }",
            "{ opencode-llm = \"org/other\" }",
        )
        .replace("api_key_env = \"\"", "api_key_env = \"sk-hidden-too\"");
    fs::write(folder.path().join(FILE), bad).unwrap();
    let variables = [("PORT", "x"), ("LARGE_KEY", "sk hidden")];
    for verb in ["check", "serve"] {
        let (code, said) = run(folder.path(), &variables, &[verb]);
        assert_eq!(code, Some(64), "{said}");
        let (_, message) = said.split_once("cannot be used:\n").expect("faults");
        let faults: Vec<_> = message.lines().map(str::trim).collect();
        let expected = [
            "PORT: ",
            "UPSTREAMS_FILE: upstreams.toml line 6: upstream `large`: the alias `opencode-llm` ",
            "UPSTREAMS_FILE: upstreams.toml line 8: upstream `large`: `api_key_env` names LARGE_KEY, which holds blanks",
            "UPSTREAMS_FILE: upstreams.toml line 12: upstream `large`: `idle_seconds` ",
            "UPSTREAMS_FILE: upstreams.toml line 13: upstream `large`: `api_key` is no field",
            "UPSTREAMS_FILE: upstreams.toml line 14: upstream `large`: `fallback`: `small` is neither",
            "UPSTREAMS_FILE: upstreams.toml line 16: upstream number 2: has no `urls`",
            "UPSTREAMS_FILE: upstreams.toml line 17: upstream number 2: `name` ",
            "UPSTREAMS_FILE: upstreams.toml line 18: upstream number 2: `url` is no field; did you mean `urls`?",
            "UPSTREAMS_FILE: upstreams.toml line 22: upstream `tiny`: `urls`: http://127.0.0.1:8002 stands in upstream `large`",
            "UPSTREAMS_FILE: upstreams.toml line 24: upstream `tiny`: `api_key_env` is the name of a variable",
        ];
        assert_eq!(faults.len(), expected.len(), "{message}");
        for (fault, begin) in faults.iter().zip(expected) {
            assert!(fault.starts_with(begin), "{begin}\n{fault}");
        }
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_a_fault_and_shows_none_of_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(folder.path(), &[], &["serve"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("UPSTREAMS_FILE: `upstreams.toml` cannot be read"),
        "{said}"
    );
    fs::write(
        folder.path().join(FILE),
        "[[upstream]]\napi_key = \"sk-hidden\nurls = hidden\n",
    )
    .unwrap();
    let (code, said) = run(folder.path(), &[], &["serve"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("upstreams.toml line 2: is no TOML: "),
        "{said}"
    );
}

#[test]
fn dotenv_may_name_the_file_and_hold_its_keys_except_on_cloud_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE), GOOD).unwrap();
    fs::write(
        folder.path().join(".env"),
        format!("UPSTREAMS_FILE={FILE}\nLARGE_KEY=sk-hidden\nVLLM_ENDPOINT=http://10.0.0.1\n"),
    )
    .unwrap();
    let output = tollgate(folder.path(), &[], &["check", "--offline"]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("*** from LARGE_KEY") && !said.contains("hidden"),
        "{said}"
    );
    let warnings: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    let expected = "warning: VLLM_ENDPOINT: is not used, UPSTREAMS_FILE takes its place";
    assert_eq!(warnings, [expected], "{said}");
    let (code, said) = run(
        folder.path(),
        &[("K_SERVICE", "gate")],
        &["check", "--offline"],
    );
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("names LARGE_KEY, which is not set"), "{said}");
}
