//! A private model server on Cloud Run: only those who show an ID token for its address come in. The
//! gateway has the token from the metadata server.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate::config::{GoogleConfig, Limits, UpstreamConfig, UpstreamsConfig};
use tollgate::google::Google;
use tollgate::upstream::Upstreams;

use super::calls::{chat, row_of, with};
use super::expect::refusal;
use super::fakes::golden::normal_events;
use super::fakes::google::metadata::{ACCOUNT, IDENTITY, Metadata, Trouble};
use super::fakes::model_server::{Answer, Behaviour, IdTokens, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY, PATIENCE};

const CHAT: &str = "/v1/chat/completions";
/// A call that waits for a token ends within this time, whatever the metadata server does.
const TOKEN_WAIT: Duration = Duration::from_secs(8);

static PLAIN: LazyLock<Value> = LazyLock::new(|| with(chat(), "stream", json!(false)));

/// A private model server and who vouches for the gateway.
async fn private() -> (Metadata, ModelServer) {
    private_with(Settings::default()).await
}

async fn private_with(settings: Settings) -> (Metadata, ModelServer) {
    let metadata = Metadata::start().await;
    let tokens = metadata.tokens();
    let is_good = move |token: &str, audience: &str| tokens.is_id(token, audience);
    let server = ModelServer::start(Settings {
        id_tokens: Some(IdTokens::judged_by(is_good)),
        ..settings
    });
    (metadata, server.await)
}

async fn gate(metadata: &Metadata, server: &ModelServer, more: &[(&str, &str)]) -> Gate {
    let host = metadata.host();
    let mut settings = vec![("UPSTREAM_AUTH", "id_token"), ("GCE_METADATA_HOST", &host)];
    settings.extend_from_slice(more);
    Gate::with(&server.url(), &settings).await
}

/// Calls until a call is answered well.
async fn until_good(gate: &Gate) -> Reply {
    let began = Instant::now();
    loop {
        let reply = gate.post(CHAT, &PLAIN).await;
        if reply.status == 200 {
            return reply;
        }
        assert!(began.elapsed() < PATIENCE, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for what comes without being asked for.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn log_text(gate: &Gate) -> String {
    Value::from(gate.log()).to_string()
}

#[tokio::test]
async fn every_request_upstream_carries_one_and_the_same_token_which_nothing_tells() {
    let (metadata, server) = private().await;
    let mut gate = gate(&metadata, &server, &[("LOG_LEVEL", "trace")]).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    let stream = gate.post(CHAT, &chat()).await;
    assert_eq!(stream.status, 200);
    assert!(normal_events(&stream.body).len() > 2, "{}", stream.text());
    // Too much output for the context: the prompt is counted first.
    let much = with(PLAIN.clone(), "max_tokens", json!(32_000));
    assert_eq!(gate.post(CHAT, &much).await.status, 200);
    let list = gate.ask("GET /v1/models", &[], b"").await;
    assert!(list.text().contains("tiny-chat"), "{}", list.text());
    row_of(&mut gate, &stream).await;

    let tokens = metadata.tokens();
    let calls = server.calls();
    for path in [CHAT, "/v1/models", "/version", "/tokenize"] {
        assert!(calls.iter().any(|call| call.path == path), "{path}");
    }
    for call in &calls {
        let shown = call.header("x-serverless-authorization");
        let token = shown.strip_prefix("Bearer ").expect("a bearer token");
        assert!(tokens.is_id(token, &server.url()), "{}", call.path);
        assert_eq!(call.header("authorization"), "", "{}", call.path);
    }
    assert_eq!(metadata.count(IDENTITY), 1);
    let told = [log_text(&gate), gate.admin("/admin/status").await.text()].concat();
    for token in tokens.all() {
        let signature = token.rsplit('.').next().expect("a signature");
        assert!(!told.contains(signature));
    }
}

#[tokio::test]
async fn the_key_of_the_model_server_goes_beside_the_token() {
    let key = "sk-of-the-model-server-itself";
    let settings = Settings {
        api_key: Some(key.to_owned()),
        ..Settings::default()
    };
    let (metadata, server) = private_with(settings).await;
    let gate = gate(&metadata, &server, &[("VLLM_API_KEY", key)]).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    for call in server.calls() {
        assert_eq!(call.header("authorization"), format!("Bearer {key}"));
        assert!(!call.header("x-serverless-authorization").is_empty());
    }
}

#[tokio::test]
async fn what_the_client_shows_to_cloud_run_goes_no_further() {
    let (metadata, server) = private().await;
    let gate = gate(&metadata, &server, &[]).await;
    let open = ModelServer::start(Settings::default()).await;
    let bare = Gate::before(&open).await;
    for (gate, server) in [(&gate, &server), (&bare, &open)] {
        let headers = [
            ("content-type", "application/json"),
            ("x-api-key", KEY),
            ("authorization", "Bearer of-the-client"),
            ("x-serverless-authorization", "Bearer of-the-client"),
        ];
        let body = PLAIN.to_string();
        let line = format!("POST {CHAT}");
        let reply = gate.ask(&line, &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 200);
        assert!(!server.model_calls().is_empty());
        for call in server.calls() {
            assert!(!format!("{:?}", call.headers).contains("of-the-client"));
        }
    }
}

#[tokio::test]
async fn no_token_goes_to_a_server_that_is_not_private() {
    let metadata = Metadata::start().await;
    let server = ModelServer::start(Settings::default()).await;
    let host = metadata.host();
    for auth in ["auto", "none"] {
        let settings = [("UPSTREAM_AUTH", auth), ("GCE_METADATA_HOST", &host)];
        let gate = Gate::with(&server.url(), &settings).await;
        assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    }
    let calls = server.calls();
    let mut shown = calls.iter().map(|c| c.header("x-serverless-authorization"));
    assert!(shown.all(str::is_empty));
    assert_eq!(metadata.count(""), 0, "nobody need ask who this is");
}

#[tokio::test]
async fn a_cloud_run_service_is_shown_a_token_for_its_origin() {
    let metadata = Metadata::start().await;
    let google = Google::new(&GoogleConfig {
        metadata_host: Some(metadata.host()),
        ..GoogleConfig::default()
    });
    let second = Duration::from_secs(1);
    let limits = Limits {
        body_bytes: 1,
        buffered_bytes: 1,
        cold_start_wait: second,
        keepalive: second,
        upstream_idle: second,
        client_stall: second,
        drain: second,
    };
    let urls = ["https://m-abc-ew.a.run.app/below/v1", "https://h.example"];
    let config = UpstreamsConfig {
        upstreams: vec![UpstreamConfig::at(urls.map(str::to_owned).to_vec())],
        aliases: std::collections::BTreeMap::new(),
    };
    let upstream = Upstreams::new(&config, &limits, &google.into(), false, &[]);
    let proofs = upstream.expect("an upstream").prove_identity().await;
    let [proof] = &proofs[..] else {
        panic!("{} proofs", proofs.len())
    };
    assert_eq!(proof.audience, "https://m-abc-ew.a.run.app");
    assert_eq!(proof.outcome, Ok(Some(ACCOUNT.to_owned())));
}

#[tokio::test]
async fn a_metadata_server_is_known_by_its_answer() {
    let metadata = Metadata::start().await;
    let google = |host: String| {
        let config = GoogleConfig {
            metadata_host: Some(host),
            ..GoogleConfig::default()
        };
        Google::new(&config)
    };
    let here = google(metadata.host());
    assert!(here.metadata().is_there().await && here.metadata().is_there().await);
    assert_eq!(metadata.count(""), 1, "it is looked for once");
    // Another program in its place, and one that never says anything.
    let other = ModelServer::start(Settings::default()).await;
    assert!(!google(other.addr().to_string()).metadata().is_there().await);
    metadata.trouble("", Trouble::Hangs);
    let began = Instant::now();
    assert!(!google(metadata.host()).metadata().is_there().await);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_token_that_expires_while_the_gateway_runs_is_replaced() {
    let (metadata, server) = private().await;
    metadata.set_life(Duration::from_secs(2));
    let gate = gate(&metadata, &server, &[]).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    let tokens = metadata.tokens();
    let first = tokens.all().remove(0);
    until("the token expires", || !tokens.is_id(&first, &server.url())).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    assert_eq!(gate.post(CHAT, &chat()).await.status, 200);
}

#[tokio::test]
async fn a_process_that_was_frozen_for_longer_than_its_token_lives_goes_on() {
    let (metadata, server) = private().await;
    metadata.set_life(Duration::from_secs(3));
    let gate = gate(&metadata, &server, &[]).await;
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    gate.signal("STOP");
    let tokens = metadata.tokens();
    let old = tokens.all();
    let is_over = || old.iter().all(|token| !tokens.is_id(token, &server.url()));
    until("the tokens expire", is_over).await;
    metadata.set_life(Duration::from_hours(1));
    gate.signal("CONT");
    let replies = join_all((0..8).map(|_| gate.post(CHAT, &PLAIN))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let fetched = tokens.all().len() - old.len();
    assert_eq!(fetched, 1, "all share one");
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_beside_the_calls_and_not_with_each() {
    let (metadata, server) = private().await;
    metadata.set_life(Duration::from_secs(100));
    metadata.trouble(IDENTITY, Trouble::IsSlow(Duration::from_millis(1800)));
    let gate = gate(&metadata, &server, &[]).await;
    // This one waits for its token, which is to be renewed from the beginning.
    assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1700), "{took:?}");
    until("it is renewed", || metadata.tokens().all().len() == 2).await;
    let calls = server.model_calls();
    let first = calls[0].header("x-serverless-authorization");
    let shown = |at: usize| calls[at].header("x-serverless-authorization");
    assert!((1..5).all(|at| shown(at) == first), "the old one is good");
    until_shown_another(&gate, &server, first).await;
    assert_eq!(metadata.count(IDENTITY), 2);
}

/// The gateway has to read what the metadata server has sent.
async fn until_shown_another(gate: &Gate, server: &ModelServer, old: &str) {
    let began = Instant::now();
    loop {
        assert_eq!(gate.post(CHAT, &PLAIN).await.status, 200);
        let calls = server.model_calls();
        let last = calls.last().expect("a call");
        if last.header("x-serverless-authorization") != old {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the old token is used for ever");
    }
}

#[tokio::test]
async fn without_the_metadata_server_calls_fail_in_words_until_it_is_back() {
    let (metadata, server) = private().await;
    let mut gate = gate(&metadata, &server, &[]).await;
    for (trouble, cause) in [
        (Trouble::Fails(503), "503"),
        (Trouble::Fails(404), "404"),
        (Trouble::Says("<html>".to_owned()), "is no ID token"),
    ] {
        metadata.trouble(IDENTITY, trouble);
        let reply = gate.post(CHAT, &PLAIN).await;
        let text = refusal(&reply, 502, "upstream_error");
        assert!(text.contains("operator"), "{text}");
        let row = row_of(&mut gate, &reply).await;
        assert_eq!((&row["attempts"], &row["wait_ms"]), (&json!(0), &json!(0)));
        assert_eq!(row["outcome"], "upstream_error");
        let tells = || {
            let log = log_text(&gate);
            log.contains("no ID token for") && log.contains(cause)
        };
        until("the cause is in the log", tells).await;
        // What was known of the failure is forgotten before the next trouble.
        tokio::time::sleep(Duration::from_millis(2100)).await;
    }
    assert_eq!(server.calls().len(), 0, "nothing goes without a token");
    let ready = gate.ask("GET /ready", &[], b"").await;
    assert!(!ready.text().contains("starting"), "{}", ready.text());
    metadata.heal();
    until_good(&gate).await;
}

#[tokio::test]
async fn a_metadata_server_that_hangs_holds_no_call_for_long() {
    let (metadata, server) = private().await;
    let gate = gate(&metadata, &server, &[]).await;
    metadata.trouble("", Trouble::Hangs);
    let began = Instant::now();
    let replies = join_all((0..20).map(|_| gate.post(CHAT, &PLAIN))).await;
    let took = began.elapsed();
    assert!(took < TOKEN_WAIT, "{took:?}");
    for reply in &replies {
        refusal(reply, 502, "upstream_error");
    }
    assert!(
        metadata.count(IDENTITY) <= 6,
        "they share what they wait for"
    );
    let began = Instant::now();
    assert_eq!(gate.ask("GET /v1/models", &[], b"").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(2));
    metadata.heal();
    until_good(&gate).await;
}

#[tokio::test]
async fn a_denial_is_told_to_the_operator_and_forgotten_once_it_is_over() {
    let (metadata, server) = private().await;
    let mut gate = gate(&metadata, &server, &[]).await;
    for (status, path) in [
        (403, "/v1/models"),
        (403, "/version"),
        (403, CHAT),
        (401, CHAT),
    ] {
        server.on(
            path,
            Behaviour::answer(Answer::html(status, "<html>no</html>")),
        );
        let alias = with(PLAIN.clone(), "model", json!("opencode-llm"));
        let reply = gate.post(CHAT, &alias).await;
        if path == CHAT {
            refusal(&reply, 502, "upstream_error");
            row_of(&mut gate, &reply).await;
        }
    }
    for word in ["roles/run.invoker", ACCOUNT, &server.url()] {
        until(word, || log_text(&gate).contains(word)).await;
    }
    for path in ["/v1/models", "/version", CHAT] {
        server.on(path, Behaviour::default());
    }
    // The list was denied before; the alias leads to the model all the same.
    let alias = with(PLAIN.clone(), "model", json!("opencode-llm"));
    let reply = gate.post(CHAT, &alias).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(row_of(&mut gate, &reply).await["served_model"], "tiny-chat");
}
