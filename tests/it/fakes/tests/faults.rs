//! Faults are what they say, and the book knows who hung up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fakes::model_server::{Answer, Behaviour, Call, End, Fault, ModelServer, Settings, sse};
use crate::fakes::wire::{self, Reply, Wire};

const CHAT: &str = "/v1/chat/completions";
const PACE: Duration = Duration::from_millis(5);

async fn server() -> ModelServer {
    ModelServer::start(Settings::default()).await
}

fn body(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}], "stream": stream})
}

async fn streamed(server: &ModelServer, behaviour: Behaviour) -> Reply {
    server.next(behaviour);
    wire::post(server.addr(), CHAT, &body(true)).await
}

async fn sent(server: &ModelServer, stream: bool) -> Wire {
    let mut wire = Wire::connect(server.addr()).await.expect("a connection");
    let headers = [("content-type", "application/json")];
    let text = body(stream).to_string();
    wire.send(&format!("POST {CHAT}"), &headers, text.as_bytes())
        .await
        .expect("sent");
    wire
}

fn events(reply: &Reply) -> Vec<String> {
    sse::split(&reply.body)
        .iter()
        .filter_map(|event| sse::data(event))
        .collect()
}

#[tokio::test]
async fn a_cut_stream_has_its_events_and_no_last_chunk() {
    let server = server().await;
    for after in 0..4 {
        let reply = streamed(&server, Behaviour::fault(Fault::Cut { after })).await;
        assert_eq!((events(&reply).len(), reply.complete), (after, false));
        let call = server.calls().pop().expect("a call");
        assert!(matches!(call.end, End::BrokenOff(_)), "{:?}", call.end);
    }
    server.next(Behaviour::fault(Fault::Cut { after: 0 }));
    let reply = wire::post(server.addr(), CHAT, &body(false)).await;
    assert!(
        !reply.complete && reply.body.starts_with(b"{\"id\""),
        "{reply:?}"
    );
}

#[tokio::test]
async fn streams_end_in_every_wrong_way() {
    let server = server().await;
    let early = streamed(&server, Behaviour::fault(Fault::EndEarly { after: 3 })).await;
    assert!(early.complete && events(&early).len() == 3 && !early.text().contains("\"stop\""));

    let open = streamed(&server, Behaviour::fault(Fault::NoDone)).await;
    assert!(open.complete && open.text().contains("\"stop\"") && !open.text().contains("[DONE]"));

    let dead = streamed(&server, Behaviour::fault(Fault::EngineError { after: 2 })).await;
    let dead = events(&dead);
    assert_eq!((dead.len(), dead[3].as_str()), (4, "[DONE]"));
    assert!(dead[2].starts_with("{\"error\":"), "{}", dead[2]);
    server.next(Behaviour::fault(Fault::EngineError { after: 2 }));
    let plain = wire::post(server.addr(), CHAT, &body(false)).await;
    assert_eq!(
        (plain.status, &plain.json()["error"]["code"]),
        (500, &json!(500))
    );

    let garbage = events(&streamed(&server, Behaviour::fault(Fault::Garbage { after: 2 })).await);
    let broken: Vec<usize> = (0..garbage.len())
        .filter(|at| serde_json::from_str::<Value>(&garbage[*at]).is_err())
        .collect();
    assert_eq!(broken, [2, garbage.len() - 1], "the garbage and [DONE]");

    let huge = Behaviour::fault(Fault::Huge {
        after: 1,
        bytes: 300_000,
    });
    assert!(events(&streamed(&server, huge).await)[1].len() > 300_000);

    let behaviour = Behaviour {
        finish_reason: Some("abort".into()),
        ..Behaviour::tokens(3)
    };
    assert!(
        streamed(&server, behaviour)
            .await
            .text()
            .contains("\"finish_reason\":\"abort\"")
    );

    let mut asked = body(true);
    asked["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
    server.next(Behaviour {
        no_usage: true,
        ..Behaviour::default()
    });
    let silent = wire::post(server.addr(), CHAT, &asked).await.text();
    assert!(
        !silent.contains("usage") && silent.contains("[DONE]"),
        "{silent}"
    );
    server.next(Behaviour {
        cached_tokens: Some(2),
        ..Behaviour::text("Cached.")
    });
    let cached = wire::post(server.addr(), CHAT, &asked).await.text();
    assert!(cached.contains("{\"cached_tokens\":2,"), "{cached}");
}

#[tokio::test]
async fn fixed_answers_come_as_ordered() {
    let server = server().await;
    let cases = [
        Answer::queue_full(),
        Answer::html(502, "<html>Bad Gateway</html>"),
        Answer::json(429, r#"{"error":{"message":"slow down"}}"#).header("retry-after", "7"),
        Answer::empty(307).header("location", "http://127.0.0.1/elsewhere"),
        Answer::empty(401),
    ];
    for answer in cases {
        let reply = streamed(&server, Behaviour::answer(answer.clone())).await;
        assert_eq!((reply.status, reply.text()), (answer.status, answer.body));
        for (name, value) in answer.headers {
            assert_eq!(reply.header(&name), value);
        }
    }
    server.on("/version", Behaviour::answer(Answer::empty(404)));
    let reply = wire::exchange(server.addr(), "GET /version", &[], b"").await;
    assert_eq!(reply.expect("an answer").status, 404);
}

#[tokio::test]
async fn a_directive_orders_what_a_test_can() {
    let server = server().await;
    let said =
        |text: &str| json!({"messages": [{"role": "user", "content": text}], "stream": true});
    let directed = [
        ("Hi [[tokens=4]]", 200, 6, true),
        ("Hi [[cut_after=2 tokens=9]] there", 200, 2, false),
        ("Hi [[end_after=1]]", 200, 1, true),
        (
            "Hi [[status=429 retry_after=3]][[body=\"too many\"]]",
            429,
            0,
            true,
        ),
        ("Hi [[no_such_thing]]", 400, 0, true),
    ];
    for (text, status, count, complete) in directed {
        let reply = wire::post(server.addr(), CHAT, &said(text)).await;
        let found = if status == 200 {
            events(&reply).len()
        } else {
            0
        };
        assert_eq!(
            (reply.status, found, reply.complete),
            (status, count, complete),
            "{text}"
        );
    }
    let reply = wire::post(
        server.addr(),
        CHAT,
        &said("[[status=503 body=\"queue full\"]]"),
    )
    .await;
    assert_eq!(reply.text(), "queue full");
}

#[tokio::test]
async fn a_hang_up_is_booked_when_it_happens() {
    let server = server().await;
    server.always(Behaviour::tokens(2_000).paced(PACE));
    for (at, stream) in [true, false].into_iter().enumerate() {
        let mut wire = sent(&server, stream).await;
        if stream {
            wire.head().await.expect("a head");
            for _ in 0..3 {
                wire.chunk().await.expect("a chunk");
            }
        }
        server
            .wait_for(|calls| calls.get(at).is_some_and(|call| call.completion_tokens > 2))
            .await;
        let hung_up = Instant::now();
        drop(wire);
        let gone = |calls: &[Call]| calls[at].disconnected_at().is_some();
        let call = server.wait_for(gone).await.remove(at);
        let after = call
            .disconnected_at()
            .expect("it has gone")
            .duration_since(hung_up);
        assert!(after < Duration::from_secs(1), "{after:?}");
        assert!(call.completion_tokens < 2_000 && !call.finished());
        assert_eq!(call.status, stream.then_some(200));
        assert!(call.prompt_tokens > 0 && call.received_at < hung_up);
    }
}

#[tokio::test]
async fn a_mute_server_keeps_the_connection_and_sends_nothing() {
    let server = server().await;
    server.next(Behaviour::fault(Fault::MuteBeforeHead));
    let mut wire = sent(&server, true).await;
    server.wait_for(|calls| calls.len() == 1).await;
    let silence = Duration::from_millis(200);
    assert!(tokio::time::timeout(silence, wire.head()).await.is_err());

    server.next(Behaviour::fault(Fault::Mute { after: 2 }));
    let mut wire = sent(&server, true).await;
    wire.head().await.expect("a head");
    wire.chunk().await.expect("the first event");
    wire.chunk().await.expect("the second event");
    assert!(tokio::time::timeout(silence, wire.chunk()).await.is_err());
    assert_eq!(server.calls()[1].end, End::Running);

    server.next(Behaviour::fault(Fault::HangUpBeforeHead));
    let mut wire = sent(&server, true).await;
    assert_eq!(wire.closed().await.expect("a proper close"), b"");
}

#[tokio::test]
async fn a_head_and_a_token_take_the_time_they_are_given() {
    let server = server().await;
    let delay = Duration::from_millis(120);
    let begun = Instant::now();
    server.next(Behaviour {
        head_delay: delay,
        ..Behaviour::default()
    });
    wire::post(server.addr(), CHAT, &body(true)).await;
    assert!(begun.elapsed() >= delay);
    let begun = Instant::now();
    server.next(Behaviour::tokens(10).paced(delay / 6));
    wire::post(server.addr(), CHAT, &body(false)).await;
    assert!(begun.elapsed() >= delay);
}

#[tokio::test]
async fn a_refused_port_opens_later_and_closes_again() {
    let mut server = ModelServer::refusing(Settings::default());
    assert!(Wire::connect(server.addr()).await.is_err());
    server.resume().await;
    assert!(server.url().ends_with(&server.addr().port().to_string()));
    let mut kept = Wire::connect(server.addr()).await.expect("a connection");
    kept.send("GET /health", &[], b"").await.expect("sent");
    assert_eq!(kept.reply().await.expect("an answer").status, 200);

    server.always(Behaviour::fault(Fault::Mute { after: 1 }));
    let mut mute = sent(&server, true).await;
    mute.head().await.expect("a head");
    server.close_port().await;
    assert!(Wire::connect(server.addr()).await.is_err());
    kept.send("GET /health", &[], b"")
        .await
        .expect("the connection is still there");
    assert_eq!(kept.reply().await.expect("an answer").status, 200);

    server.stop().await;
    assert_eq!(kept.closed().await.unwrap_or_default(), b"");
    server.resume().await;
    server.always(Behaviour::default());
    assert!(wire::post(server.addr(), CHAT, &body(true)).await.complete);
}

#[tokio::test]
async fn an_idle_connection_is_closed_once_it_has_served() {
    let idle = Duration::from_millis(150);
    let server = ModelServer::start(Settings {
        idle,
        ..Settings::default()
    })
    .await;
    let mut fresh = Wire::connect(server.addr()).await.expect("a connection");
    let mut used = Wire::connect(server.addr()).await.expect("a connection");
    for _ in 0..2 {
        used.send("GET /health", &[], b"").await.expect("sent");
        assert_eq!(used.reply().await.expect("an answer").status, 200);
    }
    let calls = server.calls();
    assert_eq!(calls[0].connection, calls[1].connection);
    let begun = Instant::now();
    assert_eq!(used.closed().await.expect("a proper close"), b"");
    assert!(begun.elapsed() < Duration::from_secs(5));
    fresh
        .send("GET /health", &[], b"")
        .await
        .expect("a silent one is left open");
    assert_eq!(fresh.reply().await.expect("an answer").status, 200);
}
