//! Many calls at once, spread over several gateways: whole answers and streams, some of them left in
//! the middle, some failing. The same mix each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fakes::wire::{Reply, Wire};

/// How long an answer may stay silent: real models let calls queue.
const SILENCE: Duration = Duration::from_mins(3);
/// How often a caller asks again where only other calls stood in the way.
const TRIES: usize = 4;

/// What is sent.
#[derive(Clone, Copy)]
pub struct Mix {
    pub calls: usize,
    /// Of a hundred calls so many are left in the middle.
    pub left: usize,
    /// Of a hundred calls so many fail at the engine.
    pub failing: usize,
    /// Tokens of each answer, from and to.
    pub tokens: (u64, u64),
    /// Of those that fail some break off or die, for an engine that does so when it is told to. Else
    /// all of them are refused.
    pub breaking: bool,
}

/// What became of the calls, by what their callers saw.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<String, usize>);

impl Tally {
    /// How many ended so: `done`, `left`, `broken off`, or the code of an error.
    pub fn of(&self, end: &str) -> usize {
        self.0.get(end).copied().unwrap_or(0)
    }

    /// Those of both.
    pub fn join(&mut self, other: Self) {
        for (end, count) in other.0 {
            *self.0.entry(end).or_default() += count;
        }
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Plain,
    Stream,
    /// A stream of two choices.
    Choices,
    /// Two prompts in one call.
    Prompts,
}

#[derive(Clone, Copy)]
enum Turn {
    Proper,
    /// The caller leaves after so many events.
    LeftAfter(usize),
    /// The caller leaves before a plain answer comes.
    LeftWaiting(Duration),
    /// The engine refuses the call.
    Refused,
    /// The engine fails before it begins.
    Failing,
    /// The engine breaks off.
    Cut,
}

impl Mix {
    /// Sends all of them at once and waits for all ends.
    pub async fn run(self, gates: &[SocketAddr], key: &str) -> Tally {
        let mut calls = JoinSet::new();
        for at in 0..self.calls {
            // The next try goes to the next gateway, as behind a load balancer.
            let gates: Vec<SocketAddr> = gates
                .iter()
                .cycle()
                .skip(at)
                .take(gates.len().max(TRIES))
                .copied()
                .collect();
            let key = key.to_owned();
            calls.spawn(async move { self.insist(at, &gates, &key).await });
        }
        let mut tally = Tally::default();
        while let Some(end) = calls.join_next().await {
            *tally.0.entry(end.expect("a call")).or_default() += 1;
        }
        tally
    }

    /// One call, asked again while it is told to.
    async fn insist(self, at: usize, gates: &[SocketAddr], key: &str) -> String {
        let mut tries = gates.iter().take(TRIES);
        loop {
            let Some(gate) = tries.next() else {
                return "rate_limit_exceeded".to_owned();
            };
            match self.call(at, *gate, key).await {
                Err(error) => return format!("broken off: {:?}", error.kind()),
                Ok(End::Ended(how)) => return how,
                Ok(End::AskAgain(after)) => tokio::time::sleep(after).await,
            }
        }
    }

    async fn call(self, at: usize, gate: SocketAddr, key: &str) -> std::io::Result<End> {
        let (shape, turn) = self.turn(at);
        let (path, body) = self.body(at, shape, turn);
        let mut wire = Wire::connect(gate).await?.patient(SILENCE);
        let headers = [("x-api-key", key), ("content-type", "application/json")];
        wire.send(
            &format!("POST {path}"),
            &headers,
            body.to_string().as_bytes(),
        )
        .await?;
        match turn {
            Turn::LeftWaiting(after) => match tokio::time::timeout(after, wire.reply()).await {
                Ok(reply) => Ok(End::of(&reply?)),
                Err(_) => Ok(End::Ended("left".into())),
            },
            Turn::LeftAfter(events) => {
                let head = wire.head().await?;
                if head.status != 200 {
                    return Ok(End::of(&wire.body(head).await?));
                }
                for _ in 0..events {
                    wire.chunk().await?;
                }
                Ok(End::Ended("left".into()))
            }
            _ => Ok(End::of(&wire.reply().await?)),
        }
    }

    fn turn(self, at: usize) -> (Shape, Turn) {
        // Spread over the mix: 37 and 100 have no common divisor.
        let place = at * 37 % 100;
        let shape = match at % 5 {
            0 | 1 => Shape::Stream,
            2 => Shape::Plain,
            3 => Shape::Choices,
            _ => Shape::Prompts,
        };
        if place < self.left {
            return match place % 3 {
                0 => (Shape::Plain, Turn::LeftWaiting(Duration::from_millis(150))),
                1 => (Shape::Stream, Turn::LeftAfter(1)),
                _ => (Shape::Stream, Turn::LeftAfter(8)),
            };
        }
        if place >= self.left + self.failing {
            return (shape, Turn::Proper);
        }
        match place % 3 {
            0 if self.breaking => (Shape::Plain, Turn::Failing),
            1 if self.breaking => (Shape::Stream, Turn::Cut),
            _ => (shape, Turn::Refused),
        }
    }

    fn body(self, at: usize, shape: Shape, turn: Turn) -> (&'static str, Value) {
        let (least, most) = self.tokens;
        let tokens = least + (at as u64 * 31) % (most - least + 1);
        let directive = match turn {
            Turn::Failing => r#" status=500 body="{}""#,
            Turn::Refused => r#" status=400 body="{\"error\":{\"message\":\"no\"}}""#,
            Turn::Cut => " cut_after=6",
            _ => "",
        };
        let said = format!(
            "Tell story {at} [[tokens={tokens}{directive}]]{}",
            " at length".repeat(at % 7)
        );
        let mut body = json!({"max_tokens": tokens, "ignore_eos": true});
        if matches!(turn, Turn::Refused) {
            // What a vLLM takes offence at.
            body["top_p"] = json!(7);
        }
        body["stream"] = json!(!matches!(shape, Shape::Plain | Shape::Prompts));
        if matches!(shape, Shape::Choices) {
            body["n"] = json!(2);
        }
        if matches!(shape, Shape::Prompts) {
            // The directives of all prompts are read together.
            body["prompt"] = json!([said, "And another story"]);
            return ("/v1/completions", body);
        }
        body["messages"] = json!([{"role": "user", "content": said}]);
        ("/v1/chat/completions", body)
    }
}

enum End {
    Ended(String),
    AskAgain(Duration),
}

impl End {
    fn of(reply: &Reply) -> Self {
        if reply.status == 200 {
            let broken = reply.text().contains("\"error\"") || !reply.complete;
            return Self::Ended(if broken { "broken off" } else { "done" }.into());
        }
        let code = reply.json()["error"]["code"].to_string();
        let code = code.trim_matches('"').to_owned();
        let wait = reply.header("retry-after").parse().map(Duration::from_secs);
        match (code.as_str(), wait) {
            ("rate_limit_exceeded", Ok(wait)) => Self::AskAgain(wait),
            ("null", _) => Self::Ended(reply.status.to_string()),
            _ => Self::Ended(code),
        }
    }
}
