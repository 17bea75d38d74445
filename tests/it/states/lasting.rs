//! A target that was up: what it answers then, how it goes down, and how it is tried again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::bench::{CHAT, Target, call, gate, seen, show, states, until_state};
use crate::calls::row_of;
use crate::expect::refusal;
use crate::fakes::model_server::{Answer, Behaviour, Fault, Meanwhile, ModelServer, Settings};
use crate::harness::Gate;

static PLAIN: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| call(false));

/// A gateway whose target has answered.
async fn warm(target: Target, settings: &[(&str, &str)]) -> (ModelServer, Gate) {
    let server = ModelServer::start(Settings::default()).await;
    let gate = gate(&[server.url()], target, settings).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    assert_eq!(states(&gate).await, ["ready"]);
    (server, gate)
}

#[tokio::test]
async fn the_front_end_of_a_ready_target_delays_only_the_call_that_met_it() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let (server, mut gate) = warm(target, &[]).await;
        // Of what stays, only Google's own front end is known by its name; any other page comes from
        // a proxy, and is no sign of a start.
        let mut answers = vec![Answer::no_instance(), Answer::not_available_yet()];
        if target == Target::ScalesToZero {
            answers.push(Answer::unavailable());
        }
        for answer in answers {
            for stream in [false, true] {
                server.next(Behaviour::answer(answer.clone()));
                let reply = gate.post(CHAT, &call(stream)).await;
                assert_eq!(reply.status, 200, "{answer:?}: {}", reply.text());
                assert_eq!(show(&reply).code, "", "{}", reply.text());
                let row = row_of(&mut gate, &reply).await;
                assert_eq!(
                    (&row["attempts"], &row["outcome"]),
                    (&json!(2), &json!("complete")),
                    "{row}"
                );
                assert_eq!(states(&gate).await, ["ready"], "{answer:?}");
            }
        }
        // The one that is turned away keeps nobody else.
        for _ in 0..3 {
            server.next(Behaviour::answer(Answer::no_instance()));
        }
        let delayed = gate.post(CHAT, &PLAIN);
        let others = async {
            server
                .wait_for(|calls| calls.iter().any(|call| call.status == Some(429)))
                .await;
            let began = Instant::now();
            for reply in join_all((0..4).map(|_| gate.post(CHAT, &PLAIN))).await {
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
            assert_eq!(states(&gate).await, ["ready"]);
            began.elapsed()
        };
        let (reply, took) = tokio::join!(delayed, others);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn a_full_queue_is_told_with_its_time_and_starts_nothing() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let (server, mut gate) = warm(target, &[]).await;
        for (answer, seconds) in [
            (Answer::queue_full(), 2),
            (Answer::queue_full().header("retry-after", "7"), 7),
        ] {
            for stream in [false, true] {
                server.next(Behaviour::answer(answer.clone()));
                let reply = gate.post(CHAT, &call(stream)).await;
                refusal(&reply, 503, "overloaded");
                assert_eq!(show(&reply).retry_after, Some(seconds));
                let row = row_of(&mut gate, &reply).await;
                assert_eq!(
                    (&row["status"], &row["error_code"], &row["attempts"]),
                    (&json!(503), &json!("overloaded"), &json!(1))
                );
                assert_eq!(
                    (&row["wait_ms"], &row["total_tokens"]),
                    (&json!(0), &json!(0))
                );
            }
        }
        assert_eq!(states(&gate).await, ["ready"]);
        assert_eq!(server.model_calls().len(), 5, "{}", seen(&server));
    }
}

#[tokio::test]
async fn a_call_that_a_draining_server_turns_away_goes_to_its_successor() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let (mut server, mut gate) = warm(target, &[]).await;
        server.always(Behaviour::answer(Answer::draining()));
        let bodies = [false, true, false, true].map(call);
        let (replies, ()) = tokio::join!(
            join_all(bodies.iter().map(|body| gate.post(CHAT, body))),
            async {
                server
                    .wait_for(|calls| calls.iter().any(|call| call.status == Some(500)))
                    .await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                server.stop().await;
                server.always(Behaviour::default());
                tokio::time::sleep(Duration::from_millis(500)).await;
                server.resume().await;
            }
        );
        for reply in &replies {
            assert_eq!(
                (reply.status, show(reply).code.as_str()),
                (200, ""),
                "{}",
                reply.text()
            );
            let row = row_of(&mut gate, reply).await;
            assert!(row["attempts"].as_u64() >= Some(1), "{row}");
            assert_eq!(
                (&row["outcome"], &row["counted_by"]),
                (&json!("complete"), &json!("engine"))
            );
        }
    }
}

#[tokio::test]
async fn a_stale_connection_costs_no_call() {
    let settings = Settings {
        is_stale: true,
        ..Settings::default()
    };
    let server = ModelServer::start(settings).await;
    let gate = gate(&[server.url()], Target::Stays, &[]).await;
    for at in 0..4 {
        let reply = gate.post(CHAT, &call(at % 2 == 0)).await;
        assert_eq!(
            (reply.status, show(&reply).code.as_str()),
            (200, ""),
            "{at}: {}",
            reply.text()
        );
        // It is idle: one that ends as soon as it is used again may have ended for the call.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(server.model_calls().len(), 4, "each was served once");
}

#[tokio::test]
async fn a_target_that_is_down_is_tried_by_each_call_and_one_answer_makes_it_ready() {
    for target in [Target::ScalesToZero, Target::Stays] {
        let mut server = ModelServer::refusing(Settings::default());
        let gate = gate(&[server.url()], target, &[("COLD_START_WAIT_SECONDS", "1")]).await;
        let code = match target {
            Target::ScalesToZero => (503, "upstream_starting"),
            Target::Stays => (502, "upstream_unreachable"),
        };
        refusal(&gate.post(CHAT, &PLAIN).await, code.0, code.1);
        until_state(&gate, "down").await;
        for at in 0..4 {
            let began = Instant::now();
            let reply = gate.post(CHAT, &call(at % 2 == 0)).await;
            refusal(&reply, 502, "upstream_unreachable");
            assert!(
                began.elapsed() < Duration::from_millis(800),
                "{:?}",
                began.elapsed()
            );
            assert_eq!(states(&gate).await, ["down"]);
        }
        server.resume().await;
        for reply in join_all((0..8).map(|_| gate.post(CHAT, &PLAIN))).await {
            assert_eq!(reply.status, 200, "{target:?}: {}", reply.text());
        }
        assert_eq!(states(&gate).await, ["ready"]);
    }
}

#[tokio::test]
async fn a_target_that_is_down_and_holds_calls_ends_them_in_bounded_time() {
    let server = ModelServer::start(Settings::default()).await;
    server.shut(Meanwhile::Holds);
    let settings = [("COLD_START_WAIT_SECONDS", "2")];
    let gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
    for round in 0..2 {
        let began = Instant::now();
        for reply in join_all(
            [false, true]
                .map(call)
                .iter()
                .map(|body| gate.post(CHAT, body)),
        )
        .await
        {
            let shown = show(&reply);
            assert!(
                matches!(shown.status, 502..=504),
                "{round}: {}",
                reply.text()
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{round}: {:?}",
            began.elapsed()
        );
    }
    server.open();
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_found_or_trusted_is_no_start() {
    let plain_http = ModelServer::start(Settings::default()).await;
    let urls = [
        "http://no-such-host.invalid:8000".to_owned(),
        plain_http.url().replace("http://", "https://"),
    ];
    for (url, target) in urls
        .iter()
        .flat_map(|url| [(url, Target::ScalesToZero), (url, Target::Stays)])
    {
        let gate = gate(std::slice::from_ref(url), target, &[]).await;
        for round in 0..2 {
            let began = Instant::now();
            let bodies = [false, true].map(call);
            for reply in join_all(bodies.iter().map(|body| gate.post(CHAT, body))).await {
                let text = refusal(&reply, 502, "upstream_unreachable");
                assert!(!text.contains("invalid"), "no address for clients: {text}");
            }
            let took = began.elapsed();
            assert!(
                took < Duration::from_secs(9),
                "{url} {target:?} {round}: {took:?}"
            );
            let states = states(&gate).await;
            assert!(!states.contains(&"starting".to_owned()), "{url} {states:?}");
        }
    }
    assert!(plain_http.calls().is_empty());
}

#[tokio::test]
async fn the_time_to_come_again_is_learnt_from_a_start() {
    let server = ModelServer::start(Settings::default()).await;
    server.sleep(
        Meanwhile::Answers(Answer::no_instance()),
        Duration::from_secs(4),
    );
    let settings = [("COLD_START_WAIT_SECONDS", "8")];
    let mut gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
    let reply = gate.post(CHAT, &PLAIN).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(row_of(&mut gate, &reply).await["wait_ms"].as_u64() > Some(3500));
    // It goes, and does not come back.
    let mut server = server;
    server.stop().await;
    let reply = gate.post(CHAT, &PLAIN).await;
    refusal(&reply, 503, "upstream_starting");
    let seconds = show(&reply).retry_after;
    assert!(
        (Some(3)..=Some(6)).contains(&seconds),
        "{seconds:?} s, learnt of one of four"
    );
}

#[tokio::test]
async fn streams_of_a_server_that_refuses_new_connections_and_is_mute_are_given_up() {
    let (mut server, mut gate) = warm(Target::Stays, &[("KEEPALIVE_SECONDS", "1")]).await;
    server.next(Behaviour::fault(Fault::Mute { after: 3 }));
    let body = call(true);
    let (reply, ()) = tokio::join!(gate.post(CHAT, &body), async {
        server
            .wait_for(|calls| calls.iter().any(|call| call.events == 3))
            .await;
        server.close_port().await;
    });
    // Long before the silence that a stream may have is over.
    assert_eq!(show(&reply).code, "502", "{}", reply.text());
    let row = row_of(&mut gate, &reply).await;
    assert_eq!(
        (&row["status"], &row["outcome"]),
        (&json!(200), &json!("upstream_error")),
        "{row}"
    );
}
