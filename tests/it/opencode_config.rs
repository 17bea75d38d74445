//! `tollgate opencode-config`: what it prints, and what it says when there is nothing to print. That the
//! real OpenCode works with it is shown by `scripts/test-clients.sh`.

use std::process::Command;

use serde_json::{Value, json};

use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::harness::{Gate, KEY, reserve_port};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the verb in an empty folder with nothing else in its environment.
async fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .arg("opencode-config")
        .args(arguments)
        .current_dir(folder.path())
        .env_clear()
        .envs(variables.iter().copied());
    let run = move || command.output();
    let output = tokio::task::spawn_blocking(run).await.expect("it runs");
    let output = output.expect("it starts");
    let said = Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    };
    assert!(!said.out.contains(KEY) && !said.err.contains(KEY));
    said
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).expect("JSON alone on standard output")
    }

    /// Nothing to use on standard output, and these words on the other.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""));
        for word in words {
            assert!(self.err.contains(word), "{word}: {}", self.err);
        }
    }
}

#[tokio::test]
async fn every_model_and_alias_is_named_with_its_limits() {
    let server = ModelServer::start(Settings {
        model: "org/tiny-chat".to_owned(),
        max_model_len: 32_768,
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    for url in [
        format!("http://{}", gate.addr),
        format!("http://{}/v1/", gate.addr),
    ] {
        let said = config(&["--url", &url], &[]).await;
        assert_eq!(said.err, "");
        let limit = json!({"context": 32768, "output": 8192});
        let alias = |name: &str| json!({"name": format!("{name} (org/tiny-chat)"), "limit": limit});
        assert_eq!(
            said.json(),
            json!({
                "$schema": "https://opencode.ai/config.json",
                "provider": {"tollgate": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Tollgate",
                    "options": {
                        "baseURL": format!("http://{}/v1", gate.addr),
                        "apiKey": "{env:TOLLGATE_API_KEY}",
                    },
                    "models": {
                        "org/tiny-chat": {"name": "org/tiny-chat", "limit": limit},
                        "llm-user-managed": alias("llm-user-managed"),
                        "opencode-llm": alias("opencode-llm"),
                    },
                }},
                "model": "tollgate/org/tiny-chat",
            })
        );
    }
    assert_eq!(server.model_calls().len(), 0);
}

#[tokio::test]
async fn a_long_context_leaves_no_more_to_the_answer_than_opencode_asks_for() {
    let server = ModelServer::start(Settings {
        max_model_len: 1_000_000,
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    let said = config(&["--url", &format!("http://{}", gate.addr)], &[]).await;
    let limit = &said.json()["provider"]["tollgate"]["models"]["tiny-chat"]["limit"];
    assert_eq!(*limit, json!({"context": 1_000_000, "output": 32_000}));
}

#[tokio::test]
async fn without_a_url_the_gateway_of_this_configuration_is_meant() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let port = gate.addr.port().to_string();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let said = config(&[], &[("PORT", &port), ("HOST", host)]).await;
        let base = format!("http://127.0.0.1:{port}/v1");
        assert_eq!(
            said.json()["provider"]["tollgate"]["options"]["baseURL"],
            base
        );
    }
    config(&[], &[("PORT", "0")]).await.fails(64, &["--url"]);
    config(&[], &[("PORT", "many")]).await.fails(64, &["PORT"]);
}

#[tokio::test]
async fn a_list_behind_a_key_is_asked_with_the_key() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with(&server.url(), &[("PUBLIC_MODELS", "false")]).await;
    let url = format!("http://{}", gate.addr);
    let said = config(&["--url", &url], &[]).await;
    said.fails(1, &["missing_api_key", "TOLLGATE_API_KEY"]);
    let said = config(
        &["--url", &url],
        &[("TOLLGATE_API_KEY", "sk-wrong-0123456789abcdef")],
    )
    .await;
    said.fails(1, &["invalid_api_key", "tollgate keys"]);
    let key = [("TOLLGATE_API_KEY", KEY)];
    config(&["--url", &url], &key).await.json();
    let said = config(&["--url", &url, "--x-api-key"], &key).await.json();
    let options = &said["provider"]["tollgate"]["options"];
    assert_eq!(
        options["headers"],
        json!({"X-API-Key": "{env:TOLLGATE_API_KEY}"})
    );
    assert!(options.get("apiKey").is_none(), "{options}");
}

#[tokio::test]
async fn a_model_whose_context_nobody_knows_has_no_limit_and_a_warning() {
    // Nothing listens there yet, so that only aliases are known.
    let server = ModelServer::refusing(Settings::default());
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    let said = config(&["--url", &url], &[]).await;
    let models = &said.json()["provider"]["tollgate"]["models"];
    assert_eq!(models["opencode-llm"], json!({"name": "opencode-llm"}));
    for word in ["opencode-llm", "limit", "tollgate doctor", &url] {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
}

#[tokio::test]
async fn where_there_is_no_model_nothing_is_printed_and_the_reason_is_said() {
    let server = ModelServer::start(Settings::default()).await;
    let empty = Answer::json(200, r#"{"object":"list","data":[]}"#);
    server.on("/v1/models", Behaviour::answer(empty));
    let gate = Gate::before(&server).await;
    let said = config(&["--url", &format!("http://{}", gate.addr)], &[]).await;
    said.fails(1, &["empty", "VLLM_ENDPOINT", "tollgate doctor"]);
    let (_kept, addr) = reserve_port();
    let said = config(&["--url", &format!("http://{addr}")], &[]).await;
    said.fails(1, &["nothing listens", "tollgate serve"]);
    let said = config(&["--url", &addr.to_string()], &[]).await;
    said.fails(64, &[&format!("http://{addr}")]);
}

#[tokio::test]
async fn the_fields_of_openworks_form_are_printed() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    let said = config(&["--url", &url, "--openwork"], &[("TOLLGATE_API_KEY", KEY)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lines: Vec<&str> = said.out.lines().collect();
    let server_url = format!("Server URL: {url}/v1");
    for line in [
        "Provider Name: Tollgate",
        &server_url,
        "Model ID: tiny-chat",
        "Model ID: opencode-llm",
    ] {
        assert!(lines.contains(&line), "{line}: {}", said.out);
    }
    assert!(said.out.contains("API Key: the value of TOLLGATE_API_KEY"));
}
