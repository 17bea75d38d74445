//! What the configuration promises, from sources given in the test.

use std::collections::BTreeMap;
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
    assert_eq!(
        config.upstreams.upstreams[0].urls,
        ["http://127.0.0.1:8001"]
    );
    assert_eq!(config.upstreams.aliases["opencode-llm"], "*");
    assert_eq!(config.upstreams.aliases["llm-user-managed"], "*");
    assert_eq!(config.usage.sink, SinkKind::Local);
    assert_eq!(config.limits.cold_start_wait, Duration::from_secs(15));
    assert_eq!(config.limits.body_bytes, 33_554_432);
    assert_eq!(config.limits.buffered_bytes, 134_217_728);
    let path = PathBuf::from("./tollgate-data/keys.json");
    let explicit = false;
    assert_eq!(config.keys.source, KeysSource::File { path, explicit });
    assert!(config.usage_file.ends_with("tollgate-data/tollgate.db"));
    assert!(config.public_models && !config.h2c && config.warnings.is_empty());
    assert_eq!(config.instance.instance_id.len(), 8);
    assert!(config.log.json, "no terminal, so json");
}

#[test]
fn every_variable_is_shown_once() {
    let config = from_env(&[]).unwrap();
    let shown: Vec<_> = config.settings.iter().map(|setting| setting.name).collect();
    let known: Vec<_> = VARS.iter().map(|var| var.name).collect();
    assert_eq!(shown, known);
}

#[test]
fn every_variable_is_judged() {
    for var in VARS {
        let free = ["DATA_DIR"];
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
    for name in ["  USAGE_SINK: ", "  DATABASE_URL: "] {
        assert!(text.contains(name), "{text}");
    }
    let allowed = from_env(&[run[0], run[1], run[2], ("ALLOW_EPHEMERAL", "true")]);
    assert!(allowed.is_ok(), "{:?}", allowed.err());
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
fn an_id_token_never_goes_out_in_clear() {
    let auth = ("UPSTREAM_AUTH", "id_token");
    for url in ["https://vllm-x.a.run.app", "http://127.0.0.1:8001"] {
        assert!(from_env(&[("VLLM_ENDPOINT", url), auth]).is_ok(), "{url}");
    }
    assert!(faults(&[("VLLM_ENDPOINT", "http://10.0.0.1"), auth]).contains("UPSTREAM_AUTH: "));
}

#[test]
fn keys_come_from_one_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let source = |pairs: &[(&str, &str)]| from_env(pairs).unwrap().keys.source;
    let secret = |name: &str| KeysSource::Secret(google::secret_ref(name).unwrap());
    let run = ("K_SERVICE", "gate");
    let named = ("API_KEYS_SECRET_NAME", "other/versions/3");
    assert_eq!(source(&[run]), secret("vllm-api-keys"));
    assert_eq!(source(&[run, named]), secret("other/versions/3"));
    assert_eq!(source(&[named]), secret("other/versions/3"));
    assert!(matches!(
        source(&[run, ("API_KEYS_FILE", path)]),
        KeysSource::File { explicit: true, .. }
    ));
    assert!(faults(&[named, ("API_KEYS_FILE", path)]).contains("API_KEYS_FILE: "));
}

#[test]
fn a_dataset_makes_bigquery_the_sink() {
    let dataset = ("BIGQUERY_DATASET", "p-1.llm");
    let sink = |pairs: &[(&str, &str)]| from_env(pairs).unwrap().usage.sink;
    let table = |table: &str| {
        SinkKind::BigQuery(TableRef {
            project: Some("p-1".to_owned()),
            dataset: "llm".to_owned(),
            table: table.to_owned(),
        })
    };
    assert_eq!(sink(&[dataset]), table("usage"));
    assert_eq!(
        sink(&[dataset, ("BIGQUERY_TABLE", "calls")]),
        table("calls")
    );
    assert_eq!(sink(&[dataset, ("USAGE_SINK", "stdout")]), SinkKind::Stdout);
    assert!(faults(&[("USAGE_SINK", "bigquery")]).contains("BIGQUERY_DATASET"));
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
    let path = PathBuf::from("/no/such/keys.json");
    let explicit = true;
    assert_eq!(paths.keys, KeysSource::File { path, explicit });
    assert_eq!(paths.usage_file.to_str(), Some("/d/tollgate.db"));
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
            .usage_file
            .to_str(),
        Some("./x/y.db")
    );
    assert!(
        from_env(&[("DATABASE_URL", "none"), ("DATA_DIR", "/d")])
            .unwrap()
            .usage_file
            .starts_with("/d")
    );
    for wrong in [
        "sqlite://",
        "sqlite://:memory:",
        "mysql://h/db",
        "x.db",
        "postgres://u:hidden@h:99999/db",
        "postgres://u:hidden/word@h/db",
        "postgres://u:hidden@h/db?sslmode=some",
    ] {
        assert!(!faults(&[("DATABASE_URL", wrong)]).contains("hidden"));
        assert!(
            faults(&[("DATABASE_URL", wrong)]).contains("DATABASE_URL: "),
            "{wrong}"
        );
    }
}
