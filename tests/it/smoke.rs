//! `scripts/smoke.sh` against real gateways: passes where all is well, and says what is not.

use std::process::{Command, Output};

use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{Gate, KEY};

/// Runs the script beside the gateway, whose model server needs this thread's runtime.
async fn smoke(url: String, key: &'static str) -> Output {
    let run = move || {
        let mut script = Command::new("scripts/smoke.sh");
        script
            .arg(url)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("API_KEY", key)
            .env("WAIT_SECONDS", "3")
            .env_remove("ID_TOKEN")
            .env_remove("MODEL")
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.expect("it runs");
    output.expect("it starts")
}

fn lines(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smoke_script_passes_where_all_is_well() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let output = smoke(format!("http://{}/", gate.addr), KEY).await;
    let lines = lines(&output);
    assert!(output.status.success(), "{lines}");
    assert_eq!(lines.matches("\nok ").count(), 7, "{lines}");
    assert!(!lines.contains(KEY));
    assert_eq!(server.model_calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smoke_script_fails_where_something_is_wrong() {
    let mut server = ModelServer::start(Settings::default()).await;
    let gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "1")]).await;
    let url = format!("http://{}", gate.addr);

    let output = smoke(url.clone(), "sk-not-a-key-of-this-gateway").await;
    let text = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL  models are listed: answered 401"),
        "{text}"
    );

    server.stop().await;
    let output = smoke(url, KEY).await;
    let text = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  a chat"), "{text}");

    // A machine that speaks no HTTP at all.
    let output = smoke(server.url(), KEY).await;
    let text = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  the gateway answers"), "{text}");
}
