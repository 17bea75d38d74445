//! Gateways that are as they should be, and the ways to call the verb.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::fakes::model_server::{Behaviour, Dialect, ModelServer, Settings};
use super::super::harness::{Gate, KEY};
use super::{HOPS, doctor, with_key};

#[tokio::test]
async fn a_gateway_that_works_passes_at_every_hop_and_costs_a_few_small_calls() {
    for dialect in [Dialect::Python, Dialect::Rust, Dialect::Foreign] {
        let server = ModelServer::start(Settings {
            dialect,
            ..Settings::default()
        })
        .await;
        let mut gate = Gate::before(&server).await;
        let said = with_key(&[&format!("http://{}", gate.addr)]).await;
        said.is_fine();
        assert_eq!(said.err, "", "{said:?}");
        assert!(said.hop("address").1.contains("Tollgate"), "{said:?}");
        assert!(said.hop("key").1.contains("test"), "{said:?}");
        assert!(said.hop("models").1.contains("tiny-chat"), "{said:?}");
        assert!(said.hop("tool_call").1.contains("get_weather"), "{said:?}");
        // The last is asked twice where the model does not call by itself.
        let rows = gate.rows(4).await;
        for row in &rows {
            assert_eq!(row["outcome"], "complete", "{row}");
            assert_eq!(row["client"], "tollgate", "{row}");
        }
        let tokens: u64 = rows.iter().filter_map(|r| r["total_tokens"].as_u64()).sum();
        assert!(tokens < 400, "{tokens} tokens");
    }
}

#[tokio::test]
async fn a_model_that_calls_the_tool_by_itself_is_told_from_one_that_has_to() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    let forced = with_key(&[&url]).await;
    assert!(forced.out.contains("warning: "), "{forced:?}");
    server.always(Behaviour {
        call_tool: Some("get_weather".to_owned()),
        ..Behaviour::default()
    });
    let free = with_key(&[&url]).await;
    free.is_fine();
    assert!(!free.out.contains("warning: "), "{free:?}");
    assert!(free.hop("tool_call").1.contains("by itself"), "{free:?}");
}

#[tokio::test]
async fn the_report_as_json_tells_the_same() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    let report = async |arguments: &[&str], key: &str, code: i32| -> Value {
        let run = doctor(arguments).env("TOLLGATE_API_KEY", key);
        let said = run.said().await;
        assert_eq!(said.code, Some(code), "{said:?}");
        serde_json::from_str(&said.out).expect("JSON alone on standard output")
    };
    let fine = report(&[&url, "--json", "--model", "opencode-llm"], KEY, 0).await;
    assert_eq!((&fine["ok"], &fine["failed"]), (&json!(true), &Value::Null));
    assert_eq!(fine["model"], "opencode-llm");
    assert_eq!(fine["url"], url);
    let names: Vec<&str> = fine["hops"]
        .as_array()
        .expect("hops")
        .iter()
        .filter_map(|hop| hop["hop"].as_str())
        .collect();
    assert_eq!(names, HOPS);
    let wrong = report(&[&url, "--json"], "sk-wrong-0123456789abcdef", 1).await;
    assert_eq!(
        (&wrong["ok"], &wrong["failed"]),
        (&json!(false), &json!("key"))
    );
    assert_eq!(wrong["hops"][1]["result"], "failed");
    assert!(wrong["hops"][1]["todo"].is_string());
    assert_eq!(
        wrong["hops"][5],
        json!({"hop": "tool_call", "result": "skipped"})
    );
}

#[tokio::test]
async fn the_key_comes_from_the_flag_the_environment_a_file_or_standard_input() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}/v1/", gate.addr);
    let file = gate.folder.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).expect("written");
    let file = file.to_str().expect("a path");
    for run in [
        doctor(&[&url, "--key", KEY]),
        doctor(&[&url, "--key", KEY]).env("TOLLGATE_API_KEY", "sk-wrong-0123456789abcdef"),
        doctor(&[&url]).env("TOLLGATE_API_KEY", KEY),
        doctor(&[&url]).env("TOLLGATE_API_KEY_FILE", file),
        doctor(&[&url, "--key", "-"]).input(&format!("{KEY}\n")),
    ] {
        run.said().await.is_fine();
    }
}

#[tokio::test]
async fn wrong_arguments_end_with_64_and_nothing_is_asked() {
    let server = ModelServer::start(Settings::default()).await;
    let url = server.url();
    for (arguments, word) in [
        (&[][..], "URL"),
        (&["127.0.0.1:8000"], "http://127.0.0.1:8000"),
        (&["localhost:8000/v1"], "http://localhost:8000/v1"),
        (&["ftp://h"], "no address"),
        (&["http://u:hidden@h"], "credentials"),
        (&[&url, "--wait", "0"], "--wait"),
        (&[&url, "--key", "two words"], "blanks"),
        (&[&url, "--key", ""], "empty"),
        (&[&url, "--fast"], "--fast"),
        (&[&url, &url], "unexpected"),
    ] {
        let said = doctor(arguments).said().await;
        assert_eq!(said.code, Some(64), "{said:?}");
        assert!(said.err.contains(word), "{word}: {said:?}");
        assert!(!said.both().contains("hidden"), "{said:?}");
        assert!(!said.both().contains("two words"), "{said:?}");
        assert_eq!(said.out, "", "{said:?}");
    }
    assert_eq!(server.calls().len(), 0);
    assert_eq!(doctor(&["--help"]).said().await.code, Some(0));
}

#[tokio::test]
async fn a_model_server_that_comes_late_is_waited_for() {
    let mut server = ModelServer::refusing(Settings::default());
    let gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "60")]).await;
    let url = format!("http://{}", gate.addr);
    let arguments = [url.as_str()];
    let (said, ()) = tokio::join!(with_key(&arguments), async {
        while gate.admin("/admin/status").await.json()["in_flight"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Until it has said that it waits.
        tokio::time::sleep(Duration::from_millis(5500)).await;
        server.resume().await;
    });
    said.is_fine();
    assert!(said.hop("models").1.contains("not told"), "{said:?}");
    let line = "chat: waiting for the model server";
    assert!(said.err.starts_with(line), "{said:?}");
}

#[tokio::test]
async fn a_gateway_without_accounts_knows_keys_too() {
    let server = ModelServer::start(Settings::default()).await;
    let settings = [("DATABASE_URL", "none"), ("PUBLIC_MODELS", "false")];
    let gate = Gate::with(&server.url(), &settings).await;
    let url = format!("http://{}", gate.addr);
    with_key(&[&url]).await.is_fine();
    let wrong = doctor(&[&url, "--key", "sk-wrong-0123456789abcdef"]);
    wrong.said().await.breaks_at("key", &["tollgate keys list"]);
    let none = doctor(&[&url]).said().await;
    none.breaks_at("key", &["TOLLGATE_API_KEY"]);
}
