//! Who started a model server that slept, how long it took, and who waits: in the row, for administrators,
//! in the metrics and in the report.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::calls::row_of;
use super::fakes::model_server::{Answer, Meanwhile, ModelServer, Settings};
use super::harness::{Gate, PATIENCE, command};
use super::states::{CHAT, Target, call, gate};

async fn upstream(gate: &Gate) -> Value {
    gate.admin("/admin/status").await.json()["upstreams"][0].clone()
}

/// Waits until the metrics have all these lines.
async fn until_metrics(gate: &Gate, lines: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = gate.admin("/metrics").await.text();
        let missing = lines
            .iter()
            .find(|line| !text.lines().any(|shown| shown == *line));
        let Some(missing) = missing else {
            return;
        };
        assert!(Instant::now() < deadline, "{missing} is not in\n{text}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The line of an upstream's metric.
fn line(url: &str, name: &str, more: &str, value: impl std::fmt::Debug) -> String {
    format!("tollgate_upstream_{name}{{upstream=\"{url}\"{more}}} {value:?}")
}

#[tokio::test]
async fn the_call_that_started_a_sleeping_server_is_told_from_those_that_waited() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Answers(Answer::no_instance()));
    let mut gate = gate(&[server.url()], Target::ScalesToZero, &[]).await;
    let url = server.url();
    let first = upstream(&gate).await;
    assert_eq!(first["name"], "gpu");
    assert_eq!(first["wakes"], 0);
    assert_eq!(first["last_wake"], Value::Null);
    assert_eq!(first["learnt_start_seconds"], Value::Null);

    let body = call(true);
    let starting = [
        line(&url, "state", ",state=\"starting\"", 1),
        line(&url, "state", ",state=\"ready\"", 0),
        line(&url, "up", "", 0),
        line(&url, "wakes_total", "", 1),
        "tollgate_upstream_waiting 2".to_owned(),
    ];
    let (waker, waiter, ()) = tokio::join!(gate.post(CHAT, &body), gate.post(CHAT, &body), async {
        until_metrics(&gate, &starting).await;
        server.open();
    });
    assert_eq!((waker.status, waiter.status), (200, 200));
    let later = gate.post(CHAT, &body).await;
    let mut woke = Vec::new();
    for reply in [&waker, &waiter, &later] {
        woke.push(row_of(&mut gate, reply).await["woke"].clone());
    }
    assert_eq!(woke[2], Value::Null);
    woke.sort_by_key(Value::is_null);
    assert_eq!(woke, [json!(true), Value::Null, Value::Null]);

    let seen = upstream(&gate).await;
    assert_eq!(
        (&seen["state"], &seen["wakes"]),
        (&json!("ready"), &json!(1))
    );
    assert_eq!(seen["last_wake"]["by"], "test");
    assert!(seen["last_wake"]["at"].is_string(), "{seen}");
    let took = seen["learnt_start_seconds"].as_f64().expect("a time");
    let ready = [
        line(&url, "state", ",state=\"ready\"", 1),
        line(&url, "up", "", 1),
        line(&url, "wakes_total", "", 1),
        line(&url, "start_seconds", "", took),
        "tollgate_upstream_waiting 0".to_owned(),
    ];
    until_metrics(&gate, &ready).await;
    the_report_counts_it(&mut gate).await;
}

async fn the_report_counts_it(gate: &mut Gate) {
    assert!(gate.stop().await.success());
    let report = command(gate.folder.path(), "", &[])
        .args(["usage", "--format", "csv"])
        .output()
        .expect("it runs");
    let report = String::from_utf8_lossy(&report.stdout);
    let line = report.lines().nth(1).expect("a line");
    assert!(
        line.starts_with("test,3,") && line.ends_with(",0,1"),
        "{report}"
    );
}
