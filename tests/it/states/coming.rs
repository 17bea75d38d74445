//! A target that is on its way up, by each way in which that shows, and comes or does not.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::bench::{
    CHAT, Shown, Target, call, gate, most_at_once, seen, show, states, until_state,
};
use crate::calls::row_of;
use crate::fakes::golden::normal_events;
use crate::fakes::model_server::{Answer, Meanwhile, ModelServer, Settings};
use crate::harness::Gate;

/// How a server meets requests while it is not up.
#[derive(Clone, Debug)]
enum Cause {
    Refuses,
    Answers(Answer),
    Holds,
}

fn causes() -> Vec<Cause> {
    vec![
        Cause::Refuses,
        Cause::Answers(Answer::no_instance()),
        Cause::Answers(Answer::empty(429)),
        Cause::Answers(Answer::not_available_yet()),
        Cause::Answers(Answer::unavailable()),
        Cause::Answers(Answer::loading()),
        Cause::Holds,
    ]
}

impl Cause {
    async fn begin(&self) -> ModelServer {
        let settings = Settings::default();
        if let Self::Refuses = self {
            return ModelServer::refusing(settings);
        }
        let server = ModelServer::start(settings).await;
        server.shut(match self {
            Self::Answers(answer) => Meanwhile::Answers(answer.clone()),
            _ => Meanwhile::Holds,
        });
        server
    }

    async fn come_up(&self, server: &mut ModelServer) {
        match self {
            Self::Refuses => server.resume().await,
            _ => server.open(),
        }
    }
}

const TARGETS: [Target; 2] = [Target::ScalesToZero, Target::Stays];

/// Plain calls and streams.
async fn crowd(gate: &Gate, calls: usize) -> Vec<crate::fakes::wire::Reply> {
    let bodies: Vec<Value> = (0..calls).map(|at| call(at % 2 == 0)).collect();
    join_all(bodies.iter().map(|body| gate.post(CHAT, body))).await
}

#[tokio::test]
async fn calls_wait_for_a_target_that_comes_up_whatever_shows_that_it_does() {
    for (cause, target) in causes().into_iter().zip(TARGETS.into_iter().cycle()) {
        let case = format!("{cause:?} {target:?}");
        let mut server = cause.begin().await;
        let mut gate = gate(&[server.url()], target, &[("KEEPALIVE_SECONDS", "1")]).await;
        assert_eq!(states(&gate).await, ["unknown"], "{case}");
        let (replies, up_at) = tokio::join!(crowd(&gate, 8), async {
            if !matches!(cause, Cause::Holds) {
                until_state(&gate, "starting").await;
            }
            // Long enough for the streams to get their head.
            tokio::time::sleep(Duration::from_millis(1300)).await;
            cause.come_up(&mut server).await;
            Instant::now()
        });
        for reply in &replies {
            let shown = show(reply);
            assert_eq!(
                (shown.status, shown.code.as_str()),
                (200, ""),
                "{case} {}",
                reply.text()
            );
            let row = row_of(&mut gate, reply).await;
            assert_eq!(
                (
                    &row["status"],
                    &row["outcome"],
                    &row["error_code"],
                    &row["counted_by"]
                ),
                (
                    &json!(200),
                    &json!("complete"),
                    &Value::Null,
                    &json!("engine")
                ),
                "{case}"
            );
            let wait_ms = row["wait_ms"].as_u64();
            assert!((Some(900)..Some(10_000)).contains(&wait_ms), "{case} {row}");
            assert_eq!(row["upstream"], server.url(), "{case}");
            if row["stream"] == true {
                assert!(
                    shown.comments > 0 && normal_events(&reply.body).len() > 2,
                    "{case}"
                );
            }
        }
        assert_eq!(states(&gate).await, ["ready"], "{case}");
        let most = most_at_once(&server.calls(), up_at);
        assert!(most <= 1, "{case}: {most} at once\n{}", seen(&server));
        let answered = server
            .model_calls()
            .into_iter()
            .filter(|c| c.status == Some(200));
        assert_eq!(
            answered.count(),
            replies.len(),
            "{case}: each was served once"
        );
    }
}

/// What a plain call gets, and the code of a stream's error event.
fn unreachable() -> (Shown, &'static str) {
    let shown = Shown {
        status: 502,
        code: "upstream_unreachable".to_owned(),
        retry_after: None,
        comments: 0,
    };
    (shown, "502")
}

fn still_starting(retry_after: Option<u64>) -> (Shown, &'static str) {
    let shown = Shown {
        status: 503,
        code: "upstream_starting".to_owned(),
        retry_after,
        comments: 0,
    };
    (shown, "503")
}

#[tokio::test]
async fn a_target_that_does_not_come_up_is_told_in_bounded_time() {
    let settings = [("COLD_START_WAIT_SECONDS", "3"), ("KEEPALIVE_SECONDS", "1")];
    let mut tries = Vec::new();
    for cause in causes() {
        for target in TARGETS {
            tries.push(never_comes(cause.clone(), target, &settings));
        }
    }
    join_all(tries).await;
}

async fn never_comes(cause: Cause, target: Target, settings: &[(&str, &str)]) {
    let what = format!("{cause:?} {target:?}");
    let server = cause.begin().await;
    let mut gate = gate(&[server.url()], target, settings).await;
    let began = Instant::now();
    let replies = crowd(&gate, 8).await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(2500), "{what}: {took:?}");
    assert!(took < Duration::from_secs(15), "{what}: {took:?}");
    for reply in &replies {
        let shown = show(reply);
        // On a developer's machine nothing starts by itself.
        let (expected, event) = match (&cause, target) {
            (Cause::Refuses, Target::Stays) => unreachable(),
            _ => still_starting(shown.retry_after),
        };
        let row = row_of(&mut gate, reply).await;
        assert_eq!(row["error_code"], expected.code.as_str(), "{what} {row}");
        assert_eq!(row["outcome"], "upstream_error", "{what}");
        assert_eq!(row["counted_by"], "none", "{what}");
        assert_eq!(row["total_tokens"], 0, "{what}");
        assert!(row["wait_ms"].as_u64() > Some(1500), "{what} {row}");
        if row["stream"] == true {
            assert_eq!(
                (shown.status, row["status"].as_u64()),
                (200, Some(200)),
                "{what}"
            );
            assert_eq!(shown.code, event, "{what}: {}", reply.text());
            assert!(
                shown.comments > 0 && !reply.text().contains("[DONE]"),
                "{what}"
            );
        } else {
            assert_eq!(shown, expected, "{what}: {}", reply.text());
            let text = reply.json()["error"]["message"].to_string();
            assert!(
                !text.contains(|c: char| c.is_ascii_digit()),
                "{what}: {text}"
            );
            if expected.status == 503 {
                assert!(
                    (Some(1)..=Some(60)).contains(&shown.retry_after),
                    "{what}: {shown:?}"
                );
            }
        }
    }
    assert_eq!(states(&gate).await, ["down"], "{what}");
    let until = Instant::now();
    let most = most_at_once(&server.calls(), until);
    assert!(most <= 1, "{what}: {most} at once\n{}", seen(&server));
    assert!(server.calls().len() < 120, "{what}: {}", seen(&server));
}
