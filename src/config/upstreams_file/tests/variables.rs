//! The file beside the variables: keys, defaults, what takes the place of what.

use super::*;

#[test]
fn keys_come_from_the_variables_that_the_file_names() {
    let text = with("api_key_env = \"BIG_KEY\"");
    let key = |config: &Config| {
        let upstream = &config.upstreams.upstreams[0];
        assert_eq!(upstream.api_key_env, "BIG_KEY");
        upstream.api_key.as_ref().unwrap().expose().clone()
    };
    let other = ("VLLM_API_KEY", "sk-other");
    assert_eq!(
        key(&good(&text, &[("BIG_KEY", " sk-hidden "), other])),
        "sk-hidden"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "sk-hidden").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(key(&good(&text, &[("BIG_KEY_FILE", path)])), "sk-hidden");
    for (variables, right) in [
        (&[other][..], "names BIG_KEY, which is not set"),
        (&[("BIG_KEY", "")], "names BIG_KEY, which is not set"),
        (
            &[("BIG_KEY", "sk-hidden two")],
            "names BIG_KEY, which holds blanks",
        ),
        (
            &[("BIG_KEY", "sk-hidden"), ("BIG_KEY_FILE", path)],
            "not both",
        ),
        (
            &[("BIG_KEY_FILE", "/no/such/file")],
            "BIG_KEY_FILE: `/no/such/file` cannot be read",
        ),
    ] {
        let faults = faults(&text, variables);
        assert!(faults.len() == 1 && faults[0].contains(right), "{faults:?}");
        assert!(faults[0].contains("upstream `one`"), "{faults:?}");
        assert!(!faults[0].contains("hidden"), "{faults:?}");
    }
    for (name, right) in [
        ("sk-hidden", "the key itself is not for this file"),
        ("hidden", "the key itself is not for this file"),
        ("JWT_SECRET_KEY", "a variable of the gateway itself"),
        ("DATABASE_URL_FILE", "a variable of the gateway itself"),
    ] {
        let faults = faults(&with(&format!("api_key_env = \"{name}\"")), &[]);
        assert!(faults.len() == 1 && faults[0].contains(right), "{faults:?}");
        assert!(!faults[0].contains("hidden"), "{faults:?}");
    }
}

#[test]
fn a_key_may_stand_in_dotenv_except_on_cloud_run() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(with("api_key_env = \"BIG_KEY\"").as_bytes())
        .unwrap();
    let path = file.path().to_str().unwrap();
    let loaded = Config::from_sources(&Sources {
        dotenv: format!("BIG_KEY=sk-hidden\nUPSTREAMS_FILE={path}\n"),
        ..Sources::default()
    });
    let config = loaded.unwrap();
    let key = config.upstreams.upstreams[0].api_key.as_ref();
    assert_eq!(key.unwrap().expose(), "sk-hidden");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_file_takes_the_place_of_the_endpoint_and_its_names_that_of_the_aliases() {
    let variables = [
        ("VLLM_ENDPOINT", "http://127.0.0.1:9/v1"),
        ("MODEL_ALIASES", "a=x,b=y,c=m"),
    ];
    let text = with("models = [\"m\", \"n\"]\naliases = {a = \"m\"}");
    let config = good(&text, &variables);
    assert_eq!(config.upstreams.upstreams[0].urls, ["http://10.0.0.1"]);
    let aliases: Vec<_> = config.upstreams.aliases.iter().collect();
    assert_eq!(aliases.len(), 2, "{aliases:?}");
    assert_eq!(config.upstreams.aliases["c"], "m");
    let told = config.warnings.join("\n");
    for words in [
        "VLLM_ENDPOINT: is not used, UPSTREAMS_FILE takes its place",
        "MODEL_ALIASES: `a` is a name in UPSTREAMS_FILE, which counts",
        "MODEL_ALIASES: `b` stands for `y`, which no upstream",
    ] {
        assert!(told.contains(words), "{told}");
    }
    // The default aliases go on, unless the file gives them a meaning.
    let config = good(&with("aliases = {opencode-llm = \"m\"}"), &[]);
    let aliases: Vec<_> = config.upstreams.aliases.keys().collect();
    assert_eq!(aliases, ["llm-user-managed"]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn waits_and_warnings_go_by_the_addresses_of_the_file() {
    let wait = |text: &str| good(text, &[]).limits.cold_start_wait.as_secs();
    assert_eq!(wait(GOOD), 240);
    let here = GOOD.replace("https://two-x.a.run.app", "http://localhost:8002");
    assert_eq!(wait(&here), 15);
    let own = good(&here, &[("PORT", "8002")]).warnings;
    assert!(
        own.len() == 1
            && own[0]
                .starts_with("UPSTREAMS_FILE: http://localhost:8002 is the gateway's own port"),
        "{own:?}"
    );
    let auth = [("UPSTREAM_AUTH", "id_token")];
    let text = faults(&with(""), &auth).join("\n");
    assert!(text.contains("(from UPSTREAM_AUTH) would send"), "{text}");
    good(&with("auth = \"none\""), &auth);
}
