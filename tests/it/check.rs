//! `tollgate check` and the exit codes, by running the program.

mod services;
mod upstreams;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the program in a folder with nothing in its environment but these variables.
fn tollgate(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied());
    command.output().unwrap()
}

fn setting(output: &Output, name: &str) -> (String, String) {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let part = |key: &str| report["settings"][name][key].as_str().unwrap().to_owned();
    (part("value"), part("origin"))
}

#[test]
fn a_good_configuration_is_printed_with_stars_for_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let output = tollgate(
        folder.path(),
        &[("VLLM_API_KEY", "sk-hidden-from-all")],
        &["check"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with("VLLM_API_KEY "))
        .unwrap();
    assert!(
        line.contains("***") && line.ends_with("environment"),
        "{line}"
    );
    assert!(
        !text.contains("sk-hidden-from-all") && !text.contains('\x1b'),
        "{text}"
    );
}

#[test]
fn every_fault_is_in_one_message_and_the_code_is_64() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("PORT", "http"),
        ("DATABASE_URL", "postgres://u:hidden@h:99999/db"),
        ("LABELS", "A=1"),
    ];
    for verb in ["check", "serve"] {
        let output = tollgate(folder.path(), &variables, &[verb]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{text}");
        let named: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.trim().split(':').next().unwrap())
            .collect();
        let faulty = ["DATABASE_URL", "JWT_SECRET_KEY", "LABELS", "PORT"];
        assert_eq!(named, faulty, "{text}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(
            !text.contains("hidden") && !shown.contains("hidden"),
            "{text}{shown}"
        );
    }
}

#[test]
fn a_database_that_nobody_finds_is_a_warning_and_a_url_that_cannot_be_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let check = |url: &str| {
        let secret = "0123456789abcdef-0123456789abcdef";
        let variables = [("DATABASE_URL", url), ("JWT_SECRET_KEY", secret)];
        let output = tollgate(folder.path(), &variables, &["check"]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("hidden"), "{text}");
        (output.status.code(), text)
    };
    // Port 1 of this machine is nobody's.
    let (code, text) = check("postgres://u:hidden@127.0.0.1:1/db");
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: DATABASE_URL: could not be checked: cannot connect";
    assert!(text.contains(warning), "{text}");
    let (code, text) = check("postgres://u:hidden@127.0.0.1:99999/db");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("DATABASE_URL: cannot be read: "), "{text}");
}

#[test]
fn dotenv_is_read_except_on_cloud_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join(".env"),
        "export PORT='9001' # ours\nKEEPALIVE_SECONDS=7\n",
    )
    .unwrap();
    let output = tollgate(
        folder.path(),
        &[("KEEPALIVE_SECONDS", "8")],
        &["check", "--json"],
    );
    assert_eq!(
        setting(&output, "PORT"),
        ("9001".to_owned(), ".env".to_owned())
    );
    assert_eq!(
        setting(&output, "KEEPALIVE_SECONDS"),
        ("8".to_owned(), "environment".to_owned())
    );
    fs::write(folder.path().join("keys.json"), "{}").unwrap();
    let output = tollgate(
        folder.path(),
        &[("K_SERVICE", "gate"), ("API_KEYS_FILE", "keys.json")],
        &["check", "--json"],
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        setting(&output, "PORT"),
        ("8000".to_owned(), "default".to_owned())
    );
    assert_eq!(
        setting(&output, "HOST"),
        ("0.0.0.0".to_owned(), "default".to_owned())
    );
}

#[test]
fn flags_win_and_secrets_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let output = tollgate(
        folder.path(),
        &[("PORT", "1")],
        &[
            "check",
            "--json",
            "--port",
            "2",
            "--h2c",
            "--public-models",
            "false",
        ],
    );
    assert_eq!(
        setting(&output, "PORT"),
        ("2".to_owned(), "flag".to_owned())
    );
    assert_eq!(setting(&output, "H2C").0, "true");
    assert_eq!(setting(&output, "PUBLIC_MODELS").0, "false");
    assert_eq!(
        tollgate(folder.path(), &[], &["serve", "--vllm-api-key", "x"])
            .status
            .code(),
        Some(64)
    );
}

#[test]
fn help_is_no_failure_and_names_the_codes() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["keys", "--help"],
        &["usage", "--help"],
        &["--version"],
    ] {
        let output = tollgate(folder.path(), &[], arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
    let help = String::from_utf8(tollgate(folder.path(), &[], &["--help"]).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("64"), "{help}");
}
