//! What the engine counts for a call is never more than the call's bound, whatever the call: against
//! the worst engine there could be, and by scripts/prove-bounds.sh against a real vLLM.

mod bodies;
mod capped;
mod others;
mod server;
mod shapes;
mod worst;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tollgate::config::{GoogleConfig, Limits, UpstreamConfig, UpstreamsConfig};
use tollgate::google::Google;
use tollgate::upstream::{
    Answer, Asked, Bound, Endpoint, Object, Payload, Progress, Request, Upstreams,
};

use super::fakes::engine::Engine;
use bodies::Body;
use server::Server;

/// Calls tried on every run.
const CALLS: u32 = 1500;

#[test]
fn the_worst_engine_counts_no_more_than_the_bound() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let bench = runtime.block_on(Bench::new(&server.url(), true));
    let mut tally = Tally::default();
    let calls = proptest::prop_oneof![9 => bodies::generating(), 1 => bodies::reading()];
    let calls = (calls, 0_u64..=100);
    let config = Config {
        cases: CALLS,
        failure_persistence: None,
        ..Config::default()
    };
    let told = std::cell::RefCell::new(&mut tally);
    let outcome = TestRunner::new(config).run(&calls, |(body, share)| {
        let tried = runtime.block_on(bench.try_one(&body, share));
        told.borrow_mut().add(&tried);
        tried.verdict().map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    println!("{CALLS} calls: {tally:?}");
    tally.check(CALLS);
}

#[test]
fn many_small_things_around_the_text_are_counted_too() {
    let empty = json!({"role": "user", "content": ""});
    let call = json!({"id": "", "type": "function", "function": {"name": "", "arguments": ""}});
    let cases = [
        json!({"messages": vec![empty.clone(); 100]}),
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": vec![call; 100]}]}),
        json!({"messages": [empty], "tools": vec![json!({"type": "function", "function": {"name": ""}}); 100]}),
    ];
    let runtime = runtime();
    let server = runtime.block_on(Server::start());
    let bench = runtime.block_on(Bench::new(&server.url(), true));
    for case in cases {
        let mut text = case;
        text["max_tokens"] = json!(1);
        let text = text.to_string();
        let endpoint = Endpoint::ChatCompletions;
        // An odd share: by bytes, not by the engine's own count.
        let tried = runtime.block_on(bench.try_one(&Body { endpoint, text }, 1));
        let Tried::Sent { status, made, .. } = tried else {
            panic!("it was not bounded");
        };
        assert_eq!((status, made > 4_000), (200, true), "{tried:?}");
        assert_eq!(tried.verdict(), Ok(()));
    }
}

/// Run by scripts/prove-bounds.sh, which names a vLLM.
#[test]
fn a_real_vllm_counts_no_more_than_the_bound() {
    let Ok(url) = std::env::var("PROVE_BOUNDS_ENGINE") else {
        eprintln!("skipped: no vLLM to prove bounds against; see scripts/prove-bounds.sh");
        return;
    };
    let told = std::env::var("PROVE_BOUNDS_CALLS").ok();
    let calls = told.and_then(|text| text.parse().ok()).unwrap_or(200);
    let runtime = runtime();
    let bench = runtime.block_on(Bench::new(&url, false));
    let mut runner = TestRunner::new(Config::default());
    let strategy = (bodies::generating(), 0_u64..=100);
    let mut tally = Tally::default();
    for _ in 0..calls {
        let (body, share) = strategy.new_tree(&mut runner).expect("a call").current();
        let tried = runtime.block_on(bench.try_one(&body, share));
        tally.add(&tried);
        if let Err(fault) = tried.verdict() {
            panic!("{fault}\n{} {}", body.endpoint.path(), body.text);
        }
    }
    println!("{calls} calls: {tally:?}");
    tally.check(calls);
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// What came of the calls.
#[derive(Debug, Default)]
struct Tally {
    /// Refused by the gateway, for nobody could bound them.
    unbounded: u32,
    refused: u32,
    answered: u32,
    /// Of these, after the prompt itself was counted.
    counted: u32,
    /// Of what was answered: the engine's tokens, and those that were reserved for them.
    made: u64,
    reserved: u64,
    closest_percent: u64,
}

impl Tally {
    fn add(&mut self, tried: &Tried) {
        let (status, made, reserved) = match *tried {
            Tried::Unbounded => {
                self.unbounded += 1;
                return;
            }
            Tried::Sent {
                status,
                made,
                reserved,
                is_counted,
            } => {
                self.counted += u32::from(is_counted && status == 200);
                (status, made, reserved)
            }
        };
        if status == 200 {
            self.answered += 1;
            self.made += made;
            self.reserved += reserved;
            self.closest_percent = self.closest_percent.max(made * 100 / reserved.max(1));
        } else {
            self.refused += 1;
        }
    }

    /// Too few answers would prove nothing.
    fn check(&self, calls: u32) {
        assert!(self.answered > calls / 3, "{self:?}");
        assert!(self.counted > 0, "{self:?}");
        assert!(self.made > u64::from(calls) * 10, "{self:?}");
    }
}

/// One call, and what it made the engine count.
#[derive(Clone, Copy, Debug)]
enum Tried {
    Unbounded,
    Sent {
        status: u16,
        made: u64,
        reserved: u64,
        is_counted: bool,
    },
}

impl Tried {
    fn verdict(&self) -> Result<(), String> {
        match self {
            Self::Sent { made, reserved, .. } if made > reserved => Err(format!(
                "the engine counted {made}, {reserved} were reserved"
            )),
            _ => Ok(()),
        }
    }
}

/// An engine and the part of the gateway that goes before it.
struct Bench {
    engine: Engine,
    upstream: Upstreams,
    /// Its counts are right at once.
    is_prompt: bool,
}

impl Bench {
    async fn new(url: &str, is_prompt: bool) -> Self {
        let upstream = upstream(url);
        let text = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
        let first = request(&Body {
            endpoint: Endpoint::ChatCompletions,
            text: text.to_string(),
        });
        let first = first.expect("a request");
        upstream.learn_template(&first).await;
        let bound = upstream.bound(&first).expect("a bound");
        assert!(bound.prompt < 500, "its template was not learnt: {bound:?}");
        Self {
            engine: Engine::running(url).await,
            upstream,
            is_prompt,
        }
    }

    /// Sends a call with so many percent of the output that can be taken from it.
    async fn try_one(&self, body: &Body, share: u64) -> Tried {
        let Some(mut request) = request(body) else {
            return Tried::Unbounded;
        };
        self.upstream.learn_template(&request).await;
        let Ok(bound) = self.upstream.bound(&request) else {
            return Tried::Unbounded;
        };
        // Near the end of a budget the exact count is what is reserved.
        let counted = match share % 2 {
            0 => self.upstream.counted_bound(&request, &bound).await,
            _ => None,
        };
        let is_counted = counted.is_some();
        let bound = counted.unwrap_or(bound);
        let output = granted(&bound, share);
        request.cap_output(output);
        let before = self.made().await;
        let answer = self.upstream.forward(request, &Progress::default()).await;
        let status = match answer {
            Ok(Answer::Exchange(exchange)) => {
                let _ = exchange.body.collect().await.expect("an answer");
                200
            }
            Ok(Answer::Refusal(refusal)) => refusal.status.as_u16(),
            Err(_) => 500,
        };
        Tried::Sent {
            status,
            made: self.made().await - before,
            reserved: bound.total(output),
            is_counted,
        }
    }

    async fn made(&self) -> u64 {
        if self.is_prompt {
            self.engine.made().await
        } else {
            self.engine.rest().await
        }
    }
}

/// All that was asked, or down to the least of it.
fn granted(bound: &Bound, share: u64) -> u64 {
    let most = bound.output.expect("a known context");
    let least = bound.least_output.min(most);
    least + (most - least) * share / 100
}

/// As the gateway reads a body; `None` for what it refuses.
fn request(body: &Body) -> Option<Request> {
    let object = Object::parse(Bytes::copy_from_slice(body.text.as_bytes())).ok()?;
    let held = Arc::new(Semaphore::new(1)).try_acquire_owned().ok()?;
    let stream = object.get("stream") == Some("true") && body.endpoint.streams();
    Some(Request {
        endpoint: body.endpoint,
        headers: HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        )]),
        model: object.string("model"),
        payload: Payload::Json(object),
        allowed: None,
        stream,
        asked: Asked::default(),
        affinity: None,
        cap: None,
        may_wake: true,
        by: "test".into(),
        held,
    })
}

fn upstream(url: &str) -> Upstreams {
    upstreams(&UpstreamsConfig {
        upstreams: vec![UpstreamConfig::at(vec![url.to_owned()])],
        aliases: [("opencode-llm".to_owned(), "*".to_owned())].into(),
    })
}

fn upstreams(config: &UpstreamsConfig) -> Upstreams {
    let second = Duration::from_secs(1);
    let limits = Limits {
        body_bytes: 1 << 20,
        buffered_bytes: 1 << 20,
        cold_start_wait: second,
        keepalive: second,
        upstream_idle: 60 * second,
        client_stall: second,
        drain: second,
    };
    let google = Google::new(&GoogleConfig::default());
    let upstream = Upstreams::new(config, &limits, &google.into(), false, &[]);
    upstream.expect("an upstream")
}
