//! Every admitted call leaves exactly one row, whatever becomes of it, and the row says what the
//! engine counted.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::fakes::model_server::{Call, End, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{ADMIN, Gate, KEY, PATIENCE};

const CALLS: u64 = 1000;
const AT_ONCE: usize = 40;
/// Calls that the key may have at once: some wait for their turn.
const SLOTS: usize = 32;
const WRONG_KEY: &str = "sk-wrong-0123456789abcdef";
const WRONG_MODEL: &str = "no-such-model";

static EMBEDDING: LazyLock<Value> = LazyLock::new(|| json!({"input": "a text"}));

/// A small generator: the same seed, the same calls.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = usize::try_from(self.roll(choices.len() as u64)).expect("an index");
        choices[at]
    }
}

/// One call of the crowd, and when its client loses patience.
#[derive(Debug)]
struct Plan {
    path: &'static str,
    body: Value,
    key: &'static str,
    leaves_after: Option<Duration>,
}

impl Plan {
    fn roll(dice: &mut Dice) -> Self {
        let (path, mut body) = body(dice);
        body["model"] = json!(if dice.roll(20) == 0 {
            WRONG_MODEL
        } else {
            "tiny-chat"
        });
        Self {
            path,
            body,
            key: if dice.roll(20) == 0 { WRONG_KEY } else { KEY },
            leaves_after: (dice.roll(10) < 3).then(|| Duration::from_micros(dice.roll(180_000))),
        }
    }

    fn is_refused(&self) -> bool {
        self.key != KEY || self.body["model"] == WRONG_MODEL
    }

    /// The answer, unless the client left.
    async fn call(&self, gate: &Gate) -> Option<Reply> {
        let body = self.body.to_string();
        let headers = [
            ("content-type", "application/json"),
            ("x-api-key", self.key),
        ];
        let line = format!("POST {}", self.path);
        let asking = gate.ask(&line, &headers, body.as_bytes());
        match self.leaves_after {
            None => Some(asking.await),
            Some(patience) => tokio::time::timeout(patience, asking).await.ok(),
        }
    }
}

fn body(dice: &mut Dice) -> (&'static str, Value) {
    const FAULTS: [&str; 9] = [
        "",
        "",
        "",
        "",
        "",
        "cut_after=3",
        "error_after=2",
        "end_after=4",
        "hang_up",
    ];
    let pause = dice.pick(&[0, 0, 1, 4, 10]);
    let (tokens, head) = (1 + dice.roll(24), dice.roll(2) * dice.roll(60));
    let fault = dice.pick(&FAULTS);
    let prompt =
        format!("Say it [[tokens={tokens} delay_ms={pause} head_delay_ms={head} {fault}]]");
    let messages = json!([{"role": "user", "content": prompt}]);
    let stream = dice.roll(2) == 0;
    match dice.roll(9) {
        0 | 1 => (
            "/v1/chat/completions",
            json!({"messages": messages, "stream": stream}),
        ),
        2 => (
            "/v1/chat/completions",
            json!({"messages": messages, "n": 2, "stream": true, "stream_options": {"include_usage": false}}),
        ),
        3 => (
            "/v1/completions",
            json!({"prompt": prompt, "max_tokens": 30, "stream": stream}),
        ),
        4 => (
            "/v1/completions",
            json!({"prompt": [prompt, prompt], "n": 2, "max_tokens": 30, "stream": stream}),
        ),
        5 => (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 30, "stream": stream}),
        ),
        6 => ("/v1/responses", json!({"input": prompt, "stream": stream})),
        7 => ("/v1/embeddings", EMBEDDING.clone()),
        _ => (
            "/v1/chat/completions",
            json!({"messages": messages, "temperature": -1}),
        ),
    }
}

fn seed() -> u64 {
    let told = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    told.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |now| now.as_secs() | 1)
    })
}

#[tokio::test]
async fn a_thousand_calls_with_clients_that_leave_make_one_row_each() {
    let seed = seed();
    println!("SEED={seed}");
    let server = ModelServer::start(Settings {
        pooling: true,
        ..Settings::default()
    })
    .await;
    let keys = json!({"test": {"key": KEY, "max_concurrent": SLOTS}, "ops": {"key": ADMIN, "admin": true}});
    let mut gate = Gate::with_keys(&server.url(), &[], &keys).await;
    let mut dice = Dice(seed);
    let plans: Vec<Plan> = (0..CALLS).map(|_| Plan::roll(&mut dice)).collect();
    let asked = &gate;
    let replies: Vec<(&Plan, Option<Reply>)> = stream::iter(&plans)
        .map(|plan| async move { (plan, plan.call(asked).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let calls = server
        .wait_for(|calls| calls.iter().all(|call| call.end != End::Running))
        .await;
    nothing_is_held(&gate).await;
    assert!(gate.stop().await.success());
    let rows = gate.rows(1).await;
    let book = Book::of(&rows);
    let answered = book.answers_have_rows(&replies);
    for call in calls
        .iter()
        .filter(|call| call.path.starts_with("/v1") && call.method == "POST")
    {
        if !call.path.ends_with("/count_tokens") {
            book.row_says_what_was_made(call, &answered);
        }
    }
    book.aborts_are_of_clients_that_left(&answered);
    table_is_the_log(&gate, &rows).await;
}

/// The rows by their request ids.
struct Book<'a>(HashMap<&'a str, &'a Value>);

impl<'a> Book<'a> {
    fn of(rows: &'a [Value]) -> Self {
        let pairs = rows
            .iter()
            .map(|row| (row["request_id"].as_str().expect("an id"), row));
        let book: HashMap<_, _> = pairs.collect();
        assert_eq!(book.len(), rows.len(), "no row stands twice");
        Self(book)
    }

    /// An answer has a row with its status, a refusal of the gateway has none. The ids of answers.
    fn answers_have_rows<'b>(&self, replies: &'b [(&Plan, Option<Reply>)]) -> HashSet<&'b str> {
        let mut answered = HashSet::new();
        for (plan, reply) in replies {
            let Some(reply) = reply else { continue };
            let id = reply.header("x-request-id");
            let row = self.0.get(id);
            assert_eq!(
                row.is_none(),
                plan.is_refused(),
                "{plan:?} {}",
                reply.text()
            );
            if let Some(row) = row {
                assert_eq!(row["status"], reply.status, "{plan:?} {row}");
                answered.insert(id);
            }
        }
        answered
    }

    fn row_says_what_was_made(&self, call: &Call, answered: &HashSet<&str>) {
        let row = self.0.get(call.request_id());
        let row = row.unwrap_or_else(|| panic!("no row for {call:?}"));
        let told = (
            row["prompt_tokens"].as_u64(),
            row["completion_tokens"].as_u64(),
        );
        let made = (Some(call.prompt_tokens), Some(call.completion_tokens));
        let is_counted = call.status == Some(200) && call.path != "/v1/embeddings";
        if row["outcome"] == "complete" && is_counted {
            assert_eq!(
                (&row["counted_by"], told),
                (&json!("engine"), made),
                "{row} {call:?}"
            );
        } else if row["counted_by"] == "running" {
            assert!(told.0 <= made.0 && told.1 <= made.1, "{row} {call:?}");
        }
        if call.disconnected_at().is_some() && !answered.contains(call.request_id()) {
            assert_eq!(row["outcome"], "client_abort", "{row} {call:?}");
        }
    }

    fn aborts_are_of_clients_that_left(&self, answered: &HashSet<&str>) {
        let aborts = self
            .0
            .iter()
            .filter(|(_, row)| row["outcome"] == "client_abort");
        let mut count = 0;
        for (id, row) in aborts {
            count += 1;
            assert!(!answered.contains(id), "{row}");
            let is_headless = row["status"] == 499;
            assert!(is_headless || row["status"] == 200, "{row}");
            assert!(!is_headless || row["response_bytes"] == 0, "{row}");
        }
        assert!(count > 80, "{count} aborts of {}", self.0.len());
    }
}

/// What a call held is given back, whatever became of it.
async fn nothing_is_held(gate: &Gate) {
    let is_idle = async {
        loop {
            let metrics = gate.admin("/metrics").await.text();
            if metrics
                .lines()
                .any(|line| line == "tollgate_requests_in_flight 0")
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_idle)
        .await
        .expect("an end of all calls");
    let all = (0..SLOTS).map(|_| gate.post("/v1/embeddings", &EMBEDDING));
    for reply in join_all(all).await {
        assert_eq!(
            reply.status,
            200,
            "a slot of the key is lost: {}",
            reply.text()
        );
    }
}

async fn table_is_the_log(gate: &Gate, rows: &[Value]) {
    let logged = rows.iter().map(|row| {
        let text = |name: &str| row[name].as_str().expect("a text").to_owned();
        let count = |name: &str| row[name].as_i64().expect("a count");
        (
            text("request_id"),
            count("prompt_tokens"),
            count("completion_tokens"),
            text("outcome"),
        )
    });
    let table = gate.table().await;
    assert_eq!(table.len(), rows.len());
    assert_eq!(
        table.into_iter().collect::<HashSet<_>>(),
        logged.collect::<HashSet<_>>()
    );
}
