//! Every admitted call leaves exactly one row, whatever becomes of it, and the row says what the
//! engine counted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::fakes::model_server::{End, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{ADMIN, Gate, KEY, PATIENCE};

const CALLS: u64 = 1000;
const AT_ONCE: usize = 40;
/// Calls that the key may have at once: some wait for their turn.
const SLOTS: usize = 32;

/// A small generator: the same seed, the same calls.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
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

fn plan(dice: &mut Dice) -> Plan {
    let pause = [0, 0, 1, 4, 10][usize::try_from(dice.roll(5)).expect("small")];
    let (tokens, head) = (1 + dice.roll(24), dice.roll(2) * dice.roll(60));
    let fault = [
        "",
        "",
        "",
        "",
        "",
        "",
        " cut_after=3",
        " error_after=2",
        " end_after=4",
        " hang_up",
    ][usize::try_from(dice.roll(10)).expect("small")];
    let prompt = format!("Say it [[tokens={tokens} delay_ms={pause} head_delay_ms={head}{fault}]]");
    let messages = json!([{"role": "user", "content": prompt}]);
    let stream = dice.roll(2) == 0;
    let (path, mut body) = match dice.roll(9) {
        0 | 1 => ("/v1/chat/completions", json!({"messages": messages})),
        2 => (
            "/v1/chat/completions",
            json!({"messages": messages, "n": 2, "stream_options": {"include_usage": false}}),
        ),
        3 => (
            "/v1/completions",
            json!({"prompt": prompt, "max_tokens": 30}),
        ),
        4 => (
            "/v1/completions",
            json!({"prompt": [prompt, prompt], "n": 2, "max_tokens": 30}),
        ),
        5 => (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 30}),
        ),
        6 => ("/v1/responses", json!({"input": prompt})),
        7 => ("/v1/embeddings", json!({"input": "a text"})),
        _ => (
            "/v1/chat/completions",
            json!({"messages": messages, "temperature": -1}),
        ),
    };
    if path != "/v1/embeddings" && (body["stream_options"].is_null() || stream) {
        body["stream"] = json!(stream);
    } else {
        body.as_object_mut()
            .expect("an object")
            .remove("stream_options");
    }
    body["model"] = json!(if dice.roll(20) == 0 {
        "no-such-model"
    } else {
        "tiny-chat"
    });
    let key = if dice.roll(20) == 0 {
        "sk-wrong-0123456789abcdef"
    } else {
        KEY
    };
    let leaves_after = (dice.roll(10) < 3).then(|| Duration::from_micros(dice.roll(180_000)));
    Plan {
        path,
        body,
        key,
        leaves_after,
    }
}

/// The answer, unless the client left.
async fn call(gate: &Gate, plan: &Plan) -> Option<Reply> {
    let body = plan.body.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("x-api-key", plan.key),
    ];
    let line = format!("POST {}", plan.path);
    let asking = gate.ask(&line, &headers, body.as_bytes());
    match plan.leaves_after {
        None => Some(asking.await),
        Some(patience) => tokio::time::timeout(patience, asking).await.ok(),
    }
}

#[tokio::test]
async fn a_thousand_calls_with_clients_that_leave_make_one_row_each() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| now.as_secs() | 1)
        });
    println!("SEED={seed}");
    let server = ModelServer::start(Settings {
        pooling: true,
        ..Settings::default()
    })
    .await;
    let keys = json!({"test": {"key": KEY, "max_concurrent": SLOTS}, "ops": {"key": ADMIN, "admin": true}});
    let mut gate = Gate::with_keys(&server.url(), &[], &keys).await;
    let mut dice = Dice(seed);
    let plans: Vec<Plan> = (0..CALLS).map(|_| plan(&mut dice)).collect();
    let asking = &gate;
    let replies: Vec<(&Plan, Option<Reply>)> = stream::iter(&plans)
        .map(|plan| async move { (plan, call(asking, plan).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let calls = server
        .wait_for(|calls| calls.iter().all(|call| call.end != End::Running))
        .await;
    nothing_is_in_flight(&gate).await;
    assert!(gate.stop().await.success(), "seed {seed}");
    let rows = gate.rows(1).await;
    let by_id: HashMap<&str, &Value> = rows
        .iter()
        .map(|row| (row["request_id"].as_str().expect("an id"), row))
        .collect();
    assert_eq!(by_id.len(), rows.len(), "seed {seed}: no row twice");

    let mut answered = HashSet::new();
    for (plan, reply) in &replies {
        let Some(reply) = reply else { continue };
        let id = reply.header("x-request-id");
        let is_refused = plan.key != KEY || plan.body["model"] == "no-such-model";
        assert_eq!(
            by_id.contains_key(id),
            !is_refused,
            "seed {seed}: {plan:?} {}",
            reply.text()
        );
        if !is_refused {
            answered.insert(id);
            let status = by_id[id]["status"].as_u64();
            assert_eq!(
                status,
                Some(u64::from(reply.status)),
                "seed {seed}: {plan:?}"
            );
        }
    }
    for call in calls.iter().filter(|call| {
        call.method == "POST"
            && call.path.starts_with("/v1")
            && !call.path.ends_with("count_tokens")
    }) {
        let row = by_id
            .get(call.request_id())
            .unwrap_or_else(|| panic!("seed {seed}: no row for {call:?}"));
        let (prompt, completion) = (
            row["prompt_tokens"].as_u64(),
            row["completion_tokens"].as_u64(),
        );
        let made = (Some(call.prompt_tokens), Some(call.completion_tokens));
        let counts = call.path != "/v1/embeddings" && call.status == Some(200);
        if row["outcome"] == "complete" && counts {
            assert_eq!(row["counted_by"], "engine", "seed {seed}: {row} {call:?}");
            assert_eq!((prompt, completion), made, "seed {seed}: {row} {call:?}");
        } else if row["counted_by"] == "running" {
            assert!(
                prompt <= made.0 && completion <= made.1,
                "seed {seed}: {row} {call:?}"
            );
        }
        if !answered.contains(call.request_id())
            && !call.finished()
            && call.disconnected_at().is_some()
        {
            assert_eq!(row["outcome"], "client_abort", "seed {seed}: {row}");
        }
    }
    for row in &rows {
        let id = row["request_id"].as_str().expect("an id");
        if row["outcome"] == "client_abort" {
            assert!(!answered.contains(id), "seed {seed}: {row}");
            let is_headless = row["status"] == 499;
            assert!(is_headless || row["status"] == 200, "seed {seed}: {row}");
            assert!(
                !is_headless || row["response_bytes"] == 0,
                "seed {seed}: {row}"
            );
        }
    }
    let left = rows
        .iter()
        .filter(|row| row["outcome"] == "client_abort")
        .count();
    assert!(left > 80, "seed {seed}: {left} aborts of {}", rows.len());
    table_is_the_log(&gate, &rows).await;
}

fn embedding() -> &'static Value {
    static BODY: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| json!({"input": "a text"}));
    &BODY
}

/// What a call held is given back, whatever became of it.
async fn nothing_is_in_flight(gate: &Gate) {
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
    // Every slot of the key is free.
    let all = (0..SLOTS).map(|_| gate.post("/v1/embeddings", embedding()));
    for reply in futures_util::future::join_all(all).await {
        assert_eq!(reply.status, 200);
    }
}

async fn table_is_the_log(gate: &Gate, rows: &[Value]) {
    let logged: HashSet<(String, i64, i64, String)> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().expect("a text").to_owned();
            let count = |name: &str| row[name].as_i64().expect("a count");
            (
                text("request_id"),
                count("prompt_tokens"),
                count("completion_tokens"),
                text("outcome"),
            )
        })
        .collect();
    let table = gate.table().await;
    assert_eq!(table.len(), rows.len());
    assert_eq!(table.into_iter().collect::<HashSet<_>>(), logged);
}
