//! A model server that is not there yet, not there any more, or one of several.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::calls::{chat, row_of, with};
use super::expect::refusal;
use super::fakes::golden::normal_events;
use super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::harness::Gate;

const CHAT: &str = "/v1/chat/completions";

fn plain() -> Value {
    with(chat(), "stream", json!(false))
}

#[tokio::test]
async fn calls_wait_for_a_server_that_comes_up() {
    let mut server = ModelServer::refusing(Settings::default());
    let mut gate = Gate::before(&server).await;
    let calls: Vec<Value> = (0..12)
        .map(|at| if at % 2 == 0 { plain() } else { chat() })
        .collect();
    let (replies, ()) = tokio::join!(
        join_all(calls.iter().map(|body| gate.post(CHAT, body))),
        async {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            server.resume().await;
        }
    );
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let row = row_of(&mut gate, reply).await;
        let waited = row["wait_ms"].as_u64().expect("a time");
        assert!((1000..4000).contains(&waited), "{waited} ms");
        assert_eq!(
            (&row["attempts"], &row["outcome"]),
            (&json!(1), &json!("complete"))
        );
        assert!(row["first_byte_ms"].as_u64() >= Some(waited));
    }
    assert_eq!(
        server.model_calls().len(),
        calls.len(),
        "each was sent once"
    );
    let reply = gate.post(CHAT, &plain()).await;
    assert_eq!(row_of(&mut gate, &reply).await["wait_ms"], 0);
    let log = gate.log();
    let line = log
        .iter()
        .find(|line| line["message"] == "upstream answers");
    let took = line.and_then(|line| line["start_ms"].as_u64());
    assert!(
        took >= Some(1000),
        "the log says in numbers how long it took: {line:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_come_up_is_said_to_be_out_of_reach_and_is_tried_by_each_call() {
    let mut server = ModelServer::refusing(Settings::default());
    let mut gate = Gate::with(&server.url(), &[("COLD_START_WAIT_SECONDS", "1")]).await;
    let began = Instant::now();
    let replies = join_all((0..4).map(|_| gate.post(CHAT, &PLAIN))).await;
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(4),
        "{took:?}"
    );
    for reply in replies {
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "upstream_unreachable");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!((&row["status"], &row["attempts"]), (&json!(502), &json!(0)));
        assert_eq!(row["outcome"], "upstream_error");
        assert_eq!(row["counted_by"], "none");
    }
    for body in [plain(), chat()] {
        let began = Instant::now();
        assert_eq!(gate.post(CHAT, &body).await.status, 502);
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "at once: {:?}",
            began.elapsed()
        );
    }
    server.resume().await;
    assert_eq!(
        gate.post(CHAT, &plain()).await.status,
        200,
        "up again, used again"
    );
    // And from the beginning when it goes once more.
    server.stop().await;
    let (reply, ()) = tokio::join!(gate.post(CHAT, &PLAIN), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.resume().await;
    });
    assert_eq!(reply.status, 200, "{}", reply.text());
}

static PLAIN: std::sync::LazyLock<Value> = std::sync::LazyLock::new(plain);

#[tokio::test]
async fn a_name_that_nobody_knows_fails_at_once() {
    let mut gate = Gate::with("http://no-such-host.invalid:8000", &[]).await;
    for body in [plain(), chat()] {
        let began = Instant::now();
        let reply = gate.post(CHAT, &body).await;
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "upstream_unreachable");
        assert!(
            !reply.text().contains("invalid:8000"),
            "no address for clients"
        );
        let row = row_of(&mut gate, &reply).await;
        assert_eq!(
            (&row["outcome"], &row["attempts"]),
            (&json!("upstream_error"), &json!(0))
        );
    }
}

#[tokio::test]
async fn a_restart_between_calls_is_not_noticed() {
    let mut server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    for round in 0..20 {
        let bodies = [plain(), chat(), plain(), chat()];
        for reply in join_all(bodies.iter().map(|body| gate.post(CHAT, body))).await {
            assert_eq!(reply.status, 200, "{round}: {}", reply.text());
        }
        server.stop().await;
        server.resume().await;
    }
    assert_eq!(server.model_calls().len(), 80);
}

#[tokio::test]
async fn connections_are_used_again_after_streams_and_after_refusals() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let refused = with(chat(), "temperature", json!(-1));
    for _ in 0..10 {
        for body in [&chat(), &PLAIN, &refused] {
            gate.post(CHAT, body).await;
        }
    }
    let calls = server.model_calls();
    assert_eq!(calls.len(), 30);
    let mut connections: Vec<u64> = calls.iter().map(|call| call.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() <= 2, "{connections:?}");
}

#[tokio::test]
async fn several_servers_share_the_load() {
    // Calls that belong to no conversation: of those, each stays with one server.
    const EMBEDDINGS: &str = "/v1/embeddings";
    let body = json!({"input": "Hello there"});
    let pooling = || Settings {
        pooling: true,
        ..Settings::default()
    };
    let servers = [
        ModelServer::start(pooling()).await,
        ModelServer::start(pooling()).await,
    ];
    let urls = servers.each_ref().map(ModelServer::url).join(",");
    let mut gate = Gate::with(&urls, &[]).await;
    for _ in 0..10 {
        let reply = gate.post(EMBEDDINGS, &body).await;
        let row = row_of(&mut gate, &reply).await;
        let id = reply.header("x-request-id");
        let took = servers
            .iter()
            .find(|server| server.call(id).is_some())
            .expect("one took it");
        assert_eq!(row["upstream"], took.url());
    }
    assert_eq!(
        servers.each_ref().map(|server| server.model_calls().len()),
        [5, 5]
    );
    // The busier one gets less.
    servers[0].always(Behaviour {
        head_delay: Duration::from_secs(3),
        ..Behaviour::default()
    });
    let slow = gate.post(EMBEDDINGS, &body);
    let rest = async {
        servers[0]
            .wait_for(|calls| calls.iter().filter(|call| call.path == EMBEDDINGS).count() == 6)
            .await;
        for _ in 0..6 {
            gate.post(EMBEDDINGS, &body).await;
        }
    };
    tokio::join!(slow, rest);
    assert_eq!(servers[0].model_calls().len(), 6);
}

#[tokio::test]
async fn a_model_is_found_on_whichever_server_has_it() {
    let serving = async |model: &str| {
        let settings = Settings {
            model: model.to_owned(),
            ..Settings::default()
        };
        ModelServer::start(settings).await
    };
    let servers = [serving("one").await, serving("two").await];
    let urls = servers.each_ref().map(ModelServer::url).join(",");
    let gate = Gate::with(&urls, &[]).await;
    for model in ["one", "two", "one", "one", "two"] {
        let body =
            serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        let reply = gate.post(CHAT, &body).await;
        assert_eq!(
            (reply.status, reply.json()["model"].as_str()),
            (200, Some(model))
        );
    }
    let body =
        serde_json::json!({"model": "three", "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(gate.post(CHAT, &body).await.status, 404);
    assert_eq!(
        servers.each_ref().map(|server| server.model_calls().len()),
        [3, 2]
    );
}

#[tokio::test]
async fn one_dead_server_of_two_costs_no_call_and_is_used_when_it_is_back() {
    let mut dead = ModelServer::refusing(Settings::default());
    let alive = ModelServer::start(Settings::default()).await;
    for urls in [
        format!("{},{}", dead.url(), alive.url()),
        format!("{},{}", alive.url(), dead.url()),
    ] {
        let mut gate = Gate::with(&urls, &[("COLD_START_WAIT_SECONDS", "1")]).await;
        for body in [plain(), chat()].iter().cycle().take(10) {
            let reply = gate.post(CHAT, body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let row = row_of(&mut gate, &reply).await;
            assert_eq!(row["upstream"], alive.url());
            assert_eq!(row["wait_ms"], 0);
        }
    }
    let gate = Gate::with(&format!("{},{}", dead.url(), alive.url()), &[]).await;
    for _ in 0..4 {
        gate.post(CHAT, &plain()).await;
    }
    dead.resume().await;
    let came = async {
        while dead.model_calls().is_empty() {
            assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), came)
        .await
        .expect("it is tried again");
}

#[tokio::test]
async fn of_two_dead_servers_the_one_that_comes_up_is_found() {
    for back in [0, 1] {
        let mut servers = [
            ModelServer::refusing(Settings::default()),
            ModelServer::refusing(Settings::default()),
        ];
        let urls = servers.each_ref().map(ModelServer::url).join(",");
        let gate = Gate::with(&urls, &[("COLD_START_WAIT_SECONDS", "1")]).await;
        assert_eq!(gate.post(CHAT, &plain()).await.status, 502);
        servers[back].resume().await;
        for _ in 0..4 {
            let reply = gate.post(CHAT, &chat()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(!normal_events(&reply.body).is_empty());
        }
    }
}

#[tokio::test]
async fn a_key_with_a_list_of_models_waits_too_for_what_its_alias_leads_to() {
    const NARROW: &str = "sk-narrow-0123456789abcdef";
    const OTHER: &str = "sk-other-0123456789abcdef0";
    let mut server = ModelServer::refusing(Settings::default());
    let keys = json!({
        "narrow": {"key": NARROW, "models": ["tiny-chat"]},
        "other": {"key": OTHER, "models": ["another"]},
    });
    let aliases = [("MODEL_ALIASES", "any=*,small=tiny-chat")];
    let mut gate = Gate::with_keys(&server.url(), &aliases, &keys).await;
    let ask = async |key: &str, body: &Value| {
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let body = body.to_string();
        gate.ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
            .await
    };
    let named = |model: &str| with(plain(), "model", json!(model));
    let bodies = [named("any"), named("small"), named("tiny-chat"), named("")];
    // What an alias with a fixed end leads to needs no server to be refused.
    for model in ["small", "tiny-chat", "nobody"] {
        refusal(&ask(OTHER, &named(model)).await, 403, "model_not_allowed");
    }
    assert_eq!(ask(NARROW, &named("nobody")).await.status, 403);
    let any = named("any");
    let (allowed, refused, ()) = tokio::join!(
        join_all(bodies.iter().map(|body| ask(NARROW, body))),
        ask(OTHER, &any),
        async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            server.resume().await;
        }
    );
    for reply in &allowed {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    refusal(&refused, 403, "model_not_allowed");
    assert_eq!(server.model_calls().len(), bodies.len());
    assert_eq!(gate.rows(bodies.len()).await.len(), bodies.len());
}

#[tokio::test]
async fn of_several_servers_each_is_held_against_the_list_of_models() {
    const NARROW: &str = "sk-narrow-0123456789abcdef";
    let model = |model: &str| Settings {
        model: model.to_owned(),
        ..Settings::default()
    };
    let servers = [
        ModelServer::start(model("open")).await,
        ModelServer::start(model("closed")).await,
    ];
    let urls = servers.each_ref().map(ModelServer::url).join(",");
    let keys = json!({"narrow": {"key": NARROW, "models": ["open"]}});
    let gate = Gate::with_keys(&urls, &[("MODEL_ALIASES", "any=*")], &keys).await;
    let headers = [("content-type", "application/json"), ("x-api-key", NARROW)];
    let body = with(plain(), "model", json!("any")).to_string();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let reply = gate
            .ask(&format!("POST {CHAT}"), &headers, body.as_bytes())
            .await;
        statuses.push(reply.status);
    }
    assert!(statuses.contains(&200), "{statuses:?}");
    assert_eq!(servers[1].model_calls().len(), 0, "{statuses:?}");
}
