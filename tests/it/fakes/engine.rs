//! An engine as token budgets see it: it makes tokens at its own pace whether or not anybody reads
//! them, and counts every one, those of calls that were left too. A stand-in, or a running vLLM.

use std::net::SocketAddr;
use std::time::Duration;

use super::model_server::{Behaviour, ModelServer, Settings};
use super::wire;

/// How long an engine may go on with what is under way.
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks without a new token are rest.
const LOOKS_AT_REST: u32 = 5;
/// What a vLLM makes after its client has gone.
const LAG: Duration = Duration::from_millis(50);

/// An engine and the count that it began with.
pub struct Engine {
    addr: SocketAddr,
    before: u64,
    /// Nothing for one that runs elsewhere.
    stand_in: Option<ModelServer>,
}

impl Engine {
    /// A stand-in with this context, in tokens, that takes so long for each token.
    pub async fn start(max_model_len: u64, token_delay: Duration) -> Self {
        let behaviour = Behaviour {
            ahead: Some(LAG),
            ..Behaviour::default().paced(token_delay)
        };
        let settings = Settings {
            max_model_len,
            behaviour,
            ..Settings::default()
        };
        let server = ModelServer::start(settings).await;
        Self {
            addr: server.addr(),
            before: 0,
            stand_in: Some(server),
        }
    }

    /// A vLLM that runs already, such as `http://127.0.0.1:8001`, and does nothing else meanwhile.
    ///
    /// # Panics
    /// When the URL is not that of an address of this machine, or nothing answers there.
    pub async fn running(url: &str) -> Self {
        let addr = url.trim_start_matches("http://").trim_end_matches('/');
        let addr = addr.parse().expect("http://ADDRESS:PORT");
        let mut engine = Self {
            addr,
            before: 0,
            stand_in: None,
        };
        engine.before = engine.rest().await;
        engine
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Whether it follows the directives in a prompt.
    pub fn is_stand_in(&self) -> bool {
        self.stand_in.is_some()
    }

    /// Tokens of prompts and answers since the beginning, as its own metrics tell.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn made(&self) -> u64 {
        let page = self.metrics().await;
        let tokens = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"];
        tokens.map(|name| sum(&page, name)).iter().sum::<u64>() - self.before
    }

    /// Waits until nothing is under way any more; tokens made by then.
    ///
    /// # Panics
    /// When it goes on for minutes.
    pub async fn rest(&self) -> u64 {
        let at_rest = async {
            let (mut last, mut looks) = (u64::MAX, 0);
            while looks < LOOKS_AT_REST {
                let page = self.metrics().await;
                let made = self.made().await;
                let idle = sum(&page, "vllm:num_requests_running") == 0
                    && sum(&page, "vllm:num_requests_waiting") == 0;
                looks = if idle && made == last { looks + 1 } else { 0 };
                last = made;
                tokio::time::sleep(LOOK).await;
            }
            last
        };
        let made = tokio::time::timeout(PATIENCE, at_rest).await;
        made.expect("the engine comes to rest")
    }

    async fn metrics(&self) -> String {
        let page = wire::exchange(self.addr, "GET /metrics", &[], b"").await;
        page.expect("metrics").text()
    }
}

/// All samples of a metric together.
fn sum(page: &str, name: &str) -> u64 {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.rsplit_once(' ')?.1;
        (rest.starts_with('{') || rest.starts_with(' ')).then(|| whole(value))
    });
    samples.sum()
}

/// Counters are written as floats: `12.0`, `1.25e+06`.
fn whole(value: &str) -> u64 {
    let value: f64 = value.parse().expect("a number");
    format!("{value:.0}").parse().expect("a count")
}
