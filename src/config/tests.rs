//! What the configuration promises, from sources given in the test.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn from_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_sources(&Sources {
        environment: map(pairs),
        ..Sources::default()
    })
}

/// The faults of an environment, as one text.
fn faults(pairs: &[(&str, &str)]) -> String {
    from_env(pairs).unwrap_err().to_string()
}

fn setting<'a>(settings: &'a [Setting], name: &str) -> &'a Setting {
    settings
        .iter()
        .find(|setting| setting.name == name)
        .unwrap()
}

#[test]
fn nothing_set_serves_on_loopback() {
    let config = from_env(&[]).unwrap();
    assert!(config.host.is_loopback());
    assert_eq!((config.port, config.metrics_port), (8000, None));
    assert_eq!(config.upstream.urls, ["http://127.0.0.1:8001"]);
    assert_eq!(config.upstream.aliases["opencode-llm"], "*");
    assert_eq!(config.upstream.aliases["llm-user-managed"], "*");
    assert_eq!(config.usage.sink, SinkKind::Local);
    assert_eq!(config.limits.cold_start_wait, Duration::from_secs(15));
    assert_eq!(config.limits.body_bytes, 33_554_432);
    assert_eq!(config.limits.buffered_bytes, 134_217_728);
    assert!(!config.keys.explicit && config.keys.file.ends_with("tollgate-data/keys.json"));
    assert!(config.database.ends_with("tollgate-data/tollgate.db"));
    assert!(config.public_models && !config.h2c && config.warnings.is_empty());
    assert_eq!(config.instance.instance_id.len(), 8);
    assert!(config.log.json, "no terminal, so json");
}

#[test]
fn every_variable_is_shown_once() {
    let config = from_env(&[]).unwrap();
    let shown: Vec<_> = config.settings.iter().map(|setting| setting.name).collect();
    // What this version refuses is shown only where somebody set it.
    let refused = [
        "UPSTREAMS_FILE",
        "API_KEYS_SECRET_NAME",
        "BIGQUERY_DATASET",
        "BIGQUERY_TABLE",
    ];
    let known: Vec<_> = VARS
        .iter()
        .map(|var| var.name)
        .filter(|name| !refused.contains(name))
        .collect();
    assert_eq!(shown, known);
}

#[test]
fn every_variable_is_judged() {
    for var in VARS {
        let free = ["GCP_PROJECT", "GOOGLE_CLOUD_PROJECT", "DATA_DIR"];
        let wrong = "\u{1}no such value\u{1}";
        if !free.contains(&var.name) {
            assert!(
                faults(&[(var.name, wrong)]).contains(var.name),
                "{}",
                var.name
            );
        }
    }
}

#[test]
fn cloud_run_has_its_own_defaults() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let run = [
        ("K_SERVICE", "gate"),
        ("K_REVISION", "gate-1"),
        ("PORT", "8080"),
        ("API_KEYS_FILE", path),
    ];
    let config = from_env(&run).unwrap();
    assert!(config.host.is_unspecified());
    assert_eq!(config.usage.sink, SinkKind::Stdout);
    assert_eq!(config.limits.cold_start_wait, Duration::from_mins(4));
    assert_eq!(
        (
            config.instance.service.as_str(),
            config.instance.revision.as_str()
        ),
        ("gate", "gate-1")
    );
    assert_eq!(setting(&config.settings, "DATABASE_URL").value, "none");
    assert!(config.instance.on_cloud_run);
}

#[test]
fn cloud_run_refuses_what_would_be_lost() {
    let run = [
        ("K_SERVICE", "gate"),
        ("USAGE_SINK", "local"),
        ("DATABASE_URL", "sqlite:///tmp/x.db"),
    ];
    let text = faults(&run);
    for name in ["  API_KEYS_FILE: ", "  USAGE_SINK: ", "  DATABASE_URL: "] {
        assert!(text.contains(name), "{text}");
    }
    let allowed = faults(&[run[0], run[1], run[2], ("ALLOW_EPHEMERAL", "true")]);
    assert!(
        !allowed.contains("USAGE_SINK") && !allowed.contains("DATABASE_URL"),
        "{allowed}"
    );
}

#[test]
fn faults_come_together_and_sorted() {
    let text = faults(&[
        ("PORT", "70000"),
        ("H2C", "perhaps"),
        ("KEEPALIVE_SECONDS", "0"),
        ("LABELS", "A=b"),
    ]);
    let lines: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| line.trim().split(':').next().unwrap())
        .collect();
    assert_eq!(lines, ["H2C", "KEEPALIVE_SECONDS", "LABELS", "PORT"]);
}

#[test]
fn what_is_missing_in_this_version_is_said() {
    for (name, value) in [
        ("UPSTREAMS_FILE", "upstreams.toml"),
        ("API_KEYS_SECRET_NAME", "vllm-api-keys"),
        ("BIGQUERY_DATASET", "llm"),
        ("BIGQUERY_TABLE", "usage"),
        ("USAGE_SINK", "bigquery"),
        ("DATABASE_URL", "postgres://u:hidden@h/db"),
        ("UPSTREAM_AUTH", "id_token"),
    ] {
        let text = faults(&[(name, value)]);
        assert!(
            text.contains(&format!("{name}: ")) && text.contains("this version"),
            "{text}"
        );
        assert!(!text.contains("hidden"), "{text}");
    }
}

#[test]
fn a_private_cloud_run_upstream_is_refused_only_on_cloud_run() {
    let url = ("VLLM_ENDPOINT", "https://vllm-x.a.run.app");
    assert!(from_env(&[url]).is_ok());
    assert!(faults(&[url, ("K_SERVICE", "gate")]).contains("UPSTREAM_AUTH: "));
    assert!(
        !faults(&[url, ("K_SERVICE", "gate"), ("UPSTREAM_AUTH", "none")])
            .contains("UPSTREAM_AUTH: ")
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_dotenv() {
    let sources = Sources {
        flags: map(&[("PORT", "1")]),
        environment: map(&[
            ("PORT", "2"),
            ("KEEPALIVE_SECONDS", "2"),
            ("DRAIN_SECONDS", " "),
        ]),
        dotenv: "PORT=3\nKEEPALIVE_SECONDS=3\nDRAIN_SECONDS=3\nOTHER=x".to_owned(),
        ..Sources::default()
    };
    let config = Config::from_sources(&sources).unwrap();
    assert_eq!(config.port, 1);
    assert_eq!(config.limits.keepalive, Duration::from_secs(2));
    assert_eq!(
        config.limits.drain,
        Duration::from_secs(3),
        "an empty variable is unset"
    );
    let origins = ["PORT", "KEEPALIVE_SECONDS", "DRAIN_SECONDS"]
        .map(|name| setting(&config.settings, name).origin);
    assert_eq!(origins, [Origin::Flag, Origin::Environment, Origin::Dotenv]);
}

#[test]
fn a_bad_dotenv_line_is_a_fault() {
    let sources = Sources {
        dotenv: "PORT=1\nnonsense".to_owned(),
        ..Sources::default()
    };
    assert_eq!(
        Config::from_sources(&sources).unwrap_err().faults,
        [".env line 2: is not NAME=value"]
    );
}

#[test]
fn secrets_may_come_from_files_and_never_show() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"sk-upstream-secret\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = from_env(&[("VLLM_API_KEY_FILE", path)]).unwrap();
    assert_eq!(
        config.upstream.api_key.as_ref().unwrap().expose(),
        "sk-upstream-secret"
    );
    assert!(!format!("{config:?}").contains("sk-upstream-secret"));
    assert_eq!(setting(&config.settings, "VLLM_API_KEY").value, "***");
    assert!(faults(&[("VLLM_API_KEY_FILE", path), ("VLLM_API_KEY", "x")]).contains("not both"));
    assert!(faults(&[("VLLM_API_KEY_FILE", "/no/such/file")]).contains("VLLM_API_KEY_FILE: "));
}

#[test]
fn no_fault_repeats_a_secret() {
    let error = from_env(&[
        ("VLLM_API_KEY", "hidden hidden"),
        ("VLLM_ENDPOINT", "http://user:hidden@h:1"),
        ("DATABASE_URL", "mysql://u:hidden@h/db?password=hidden"),
        ("JWT_SECRET_KEY", "hidden"),
    ])
    .unwrap_err();
    assert_eq!(error.faults.len(), 4, "{error}");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
}

#[test]
fn settings_without_effect_are_checked_and_named() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config = from_env(&[("JWT_SECRET_KEY", secret), ("REGISTRATION", "closed")]).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(
        config
            .warnings
            .iter()
            .all(|warning| warning.contains("no effect yet"))
    );
    assert!(
        faults(&[("JWT_SECRET_KEY", "change-me-change-me-change-me-change-me")])
            .contains("placeholder")
    );
}

#[test]
fn bounds_that_belong_together_are_compared() {
    for (pairs, warning) in [
        (
            [("MAX_BODY_BYTES", "200"), ("MAX_BUFFERED_BYTES", "100")],
            "MAX_BUFFERED_BYTES: ",
        ),
        (
            [
                ("KEY_REFRESH_SECONDS", "60"),
                ("KEY_MAX_STALE_SECONDS", "30"),
            ],
            "KEY_MAX_STALE_SECONDS: ",
        ),
    ] {
        assert!(from_env(&pairs).unwrap().warnings[0].starts_with(warning));
    }
    assert!(faults(&[("METRICS_PORT", "8000")]).contains("METRICS_PORT: "));
    assert!(
        from_env(&[("VLLM_ENDPOINT", "http://localhost:8000")])
            .unwrap()
            .warnings[0]
            .contains("own port")
    );
}

#[test]
fn other_verbs_find_the_files_whatever_else_is_wrong() {
    let pairs = [
        ("PORT", "x"),
        ("API_KEYS_FILE", "/no/such/keys.json"),
        ("DATA_DIR", "/d"),
    ];
    let paths = assemble::paths(&Sources {
        environment: map(&pairs),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(paths.keys_file.to_str(), Some("/no/such/keys.json"));
    assert_eq!(paths.database.to_str(), Some("/d/tollgate.db"));
}

#[test]
fn a_named_keys_file_must_exist() {
    assert!(faults(&[("API_KEYS_FILE", "/no/such/keys.json")]).contains("API_KEYS_FILE: "));
}

#[test]
fn the_database_is_a_file() {
    assert_eq!(
        from_env(&[("DATABASE_URL", "sqlite://./x/y.db")])
            .unwrap()
            .database
            .to_str(),
        Some("./x/y.db")
    );
    assert!(
        from_env(&[("DATABASE_URL", "none"), ("DATA_DIR", "/d")])
            .unwrap()
            .database
            .starts_with("/d")
    );
    for wrong in ["sqlite://", "sqlite://:memory:", "mysql://h/db", "x.db"] {
        assert!(
            faults(&[("DATABASE_URL", wrong)]).contains("DATABASE_URL: "),
            "{wrong}"
        );
    }
}
