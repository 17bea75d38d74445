//! Several upstreams in one file: which of their servers a name leads to, under which name the model
//! is asked there, and who may ask for it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::calls::row_of;
use super::expect::refusal;
use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY, command};

const CHAT: &str = "/v1/chat/completions";
const BY_ALIAS: &str = "sk-by-alias-0123456789abcdef";
const BY_ID: &str = "sk-by-id-0123456789abcdef";

/// The places of the servers below.
const TALKS: [usize; 2] = [0, 1];
const CODES: usize = 2;
const SLEEPS: usize = 3;

/// A gateway with this upstreams file.
async fn gate(file: &str) -> Gate {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = json!({
        "test": KEY,
        "by-alias": {"key": BY_ALIAS, "models": ["small", "coder-1.5"]},
        "by-id": {"key": BY_ID, "models": ["org/talk"]},
    });
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("keys.json", &keys.to_string());
    write("upstreams.toml", file);
    let settings = [
        ("UPSTREAMS_FILE", "upstreams.toml"),
        ("MODEL_ALIASES", "only=*,far=org/code,gone=org/none"),
    ];
    let mut command = command(folder.path(), "", &settings);
    command.env_remove("VLLM_ENDPOINT");
    Gate::run(folder, command).await
}

/// Two servers of a model, one of another, one that may sleep, and a gateway before them.
struct Site {
    servers: Vec<ModelServer>,
    gate: Gate,
}

impl Site {
    async fn start() -> Self {
        let server = |model: &str, max_model_len| {
            let model = model.to_owned();
            ModelServer::start(Settings {
                model,
                max_model_len,
                ..Settings::default()
            })
        };
        let all = [
            server("org/talk", 4096),
            server("org/talk", 4096),
            server("org/code", 2048),
            server("org/large", 8192),
        ];
        let servers = join_all(all).await;
        // It lists more than is offered of it.
        let cards = ["org/code", "org/hidden"].map(|id| {
            json!({"id": id, "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 2048})
        });
        let list = json!({"object": "list", "data": cards}).to_string();
        servers[CODES].on("/v1/models", Behaviour::answer(Answer::json(200, list)));
        let url = |at: usize| servers[at].url();
        let file = format!(
            r#"
            [[upstream]]
            name = "talk"
            urls = ["{}", "{}/v1"]
            aliases = {{ small = "org/talk", any = "*" }}
            max_model_len = 777

            [[upstream]]
            name = "code"
            urls = ["{}"]
            models = ["org/code"]
            aliases = {{ "coder-1.5" = "org/code" }}

            [[upstream]]
            name = "large"
            urls = ["{}"]
            models = ["org/large"]
            aliases = {{ big = "org/large" }}
            max_model_len = 8000
            scale_to_zero = true
            "#,
            url(0),
            url(1),
            url(CODES),
            url(SLEEPS),
        );
        let gate = gate(&file).await;
        Self { servers, gate }
    }

    async fn ask(&self, key: &str, model: &Value) -> Reply {
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        if !model.is_null() {
            body["model"] = model.clone();
        }
        let body = body.to_string();
        let line = format!("POST {CHAT}");
        self.gate.ask(&line, &headers, body.as_bytes()).await
    }

    /// Which server took an answered call, and the model that it was asked for there.
    fn took(&self, reply: &Reply) -> (usize, Value) {
        let id = reply.header("x-request-id");
        let call = |(at, server): (usize, &ModelServer)| Some((at, server.call(id)?));
        let mut calls = self.servers.iter().enumerate().filter_map(call);
        let (at, call) = calls.next().expect("a server took it");
        assert!(calls.next().is_none(), "one alone");
        (at, call.json()["model"].clone())
    }

    fn model_calls(&self) -> Vec<usize> {
        let count = |server: &ModelServer| server.model_calls().len();
        self.servers.iter().map(count).collect()
    }
}

#[tokio::test]
async fn every_name_leads_to_the_servers_of_its_model_which_are_asked_for_its_id() {
    let mut site = Site::start().await;
    for (name, id, places, upstream) in [
        ("org/talk", "org/talk", &TALKS[..], "talk"),
        ("small", "org/talk", &TALKS, "talk"),
        ("any", "org/talk", &TALKS, "talk"),
        ("org/code", "org/code", &[CODES], "code"),
        ("coder-1.5", "org/code", &[CODES], "code"),
        ("far", "org/code", &[CODES], "code"),
        ("big", "org/large", &[SLEEPS], "large"),
        ("org/large", "org/large", &[SLEEPS], "large"),
    ] {
        let reply = site.ask(KEY, &json!(name)).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let (at, asked) = site.took(&reply);
        assert!(places.contains(&at), "{name} of {upstream} went to {at}");
        assert_eq!(asked, id, "{name}");
        let row = row_of(&mut site.gate, &reply).await;
        assert_eq!(
            (&row["model"], &row["served_model"]),
            (&json!(name), &json!(id))
        );
        assert_eq!(row["upstream"], site.servers[at].url());
    }
    let calls = site.model_calls();
    assert!(
        TALKS.iter().all(|&at| calls[at] > 0),
        "they share the load: {calls:?}"
    );
}

#[tokio::test]
async fn without_a_model_a_call_goes_to_the_first_upstream() {
    let site = Site::start().await;
    for none in [Value::Null, json!("")] {
        let reply = site.ask(KEY, &none).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let (at, asked) = site.took(&reply);
        assert!(TALKS.contains(&at), "{at}");
        assert_eq!(asked, "org/talk");
    }
}

#[tokio::test]
async fn an_unknown_model_is_refused_and_no_server_hears_of_it() {
    let mut site = Site::start().await;
    let first = site.ask(KEY, &json!("org/talk")).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let list = site.gate.ask("GET /v1/models", &[], b"").await;
    assert_eq!(list.status, 200);
    let before = site.model_calls();
    // The only model there is, is none of several; what an upstream does not offer is not there.
    for name in [
        "org/none",
        "only",
        "gone",
        "org/hidden",
        "talk",
        "ORG/TALK",
        "*",
    ] {
        let reply = site.ask(KEY, &json!(name)).await;
        let text = refusal(&reply, 404, "model_not_found");
        assert!(!text.contains(name), "{text}");
    }
    assert_eq!(site.model_calls(), before);
    assert!(site.servers[SLEEPS].calls().is_empty(), "it sleeps on");
    // The next row is that of the next call.
    let next = site.ask(KEY, &json!("small")).await;
    let rows = site.gate.rows(2).await;
    let ids: Vec<&Value> = rows.iter().map(|row| &row["request_id"]).collect();
    assert_eq!(
        ids,
        [first.header("x-request-id"), next.header("x-request-id")]
    );
}

#[tokio::test]
async fn all_models_are_listed_once_with_their_contexts_and_the_aliases_that_lead_to_one() {
    let site = Site::start().await;
    let list = site.gate.ask("GET /v1/models", &[], b"").await.json();
    let cards = list["data"].as_array().expect("a list");
    let context = |card: &Value| {
        let id = card["id"].as_str().expect("an id").to_owned();
        (id, card["max_model_len"].as_u64())
    };
    let found: BTreeMap<_, _> = cards.iter().map(context).collect();
    assert_eq!(found.len(), cards.len(), "each once: {list}");
    let expected = [
        ("any", 4096),
        ("big", 8000),
        ("coder-1.5", 2048),
        ("far", 2048),
        ("org/code", 2048),
        ("org/large", 8000),
        ("org/talk", 4096),
        ("small", 4096),
    ];
    let expected = expected.map(|(id, context)| (id.to_owned(), Some(context)));
    assert_eq!(found, BTreeMap::from(expected));
    let card = site.gate.ask("GET /v1/models/coder-1.5", &[], b"").await;
    assert_eq!(
        (card.status, &card.json()["root"]),
        (200, &json!("org/code"))
    );
    let none = site.gate.ask("GET /v1/models/only", &[], b"").await;
    refusal(&none, 404, "model_not_found");
    assert!(site.servers[SLEEPS].calls().is_empty(), "no list wakes it");
}

#[tokio::test]
async fn a_key_may_call_the_names_in_its_list_and_the_models_in_it_by_any_name() {
    let site = Site::start().await;
    for (key, name, status) in [
        (BY_ALIAS, "small", 200),
        (BY_ALIAS, "coder-1.5", 200),
        (BY_ALIAS, "org/talk", 403),
        (BY_ALIAS, "any", 403),
        (BY_ALIAS, "org/code", 403),
        (BY_ALIAS, "big", 403),
        (BY_ID, "org/talk", 200),
        (BY_ID, "small", 200),
        (BY_ID, "any", 200),
        (BY_ID, "coder-1.5", 403),
        (BY_ID, "org/large", 403),
    ] {
        let reply = site.ask(key, &json!(name)).await;
        if status == 200 {
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        } else {
            refusal(&reply, status, "model_not_allowed");
        }
    }
    assert!(site.servers[SLEEPS].calls().is_empty(), "nobody woke it");
    let calls = site.model_calls();
    assert_eq!(calls[0] + calls[1], 4, "{calls:?}");
    assert_eq!(calls[CODES], 1, "{calls:?}");
}

#[tokio::test]
async fn upstreams_with_the_same_model_share_its_calls() {
    // By what the file says, and by what they say themselves.
    for models in ["models = [\"tiny-chat\"]\n", ""] {
        let settings = || Settings {
            pooling: true,
            ..Settings::default()
        };
        let servers = join_all((0..3).map(|_| ModelServer::start(settings()))).await;
        let entry = |(at, server): (usize, &ModelServer)| {
            let url = server.url();
            format!("[[upstream]]\nname = \"u{at}\"\nurls = [\"{url}\"]\n{models}")
        };
        let file: String = servers.iter().enumerate().map(entry).collect();
        let mut gate = gate(&file).await;
        for _ in 0..12 {
            let body = json!({"model": "tiny-chat", "input": "Hi"});
            let reply = gate.post("/v1/embeddings", &body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            row_of(&mut gate, &reply).await;
        }
        let took = |server: &ModelServer| server.model_calls().len();
        assert_eq!(servers.iter().map(took).collect::<Vec<_>>(), [4; 3]);
    }
}
