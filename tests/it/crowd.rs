//! Many clients arrive at a server that sleeps: one wakes it, all are served; or, if it does not come, all are
//! told so in bounded time. scripts/prove-cold-start.sh runs this with a start as long as a real one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;

use super::fakes::model_server::{Answer, Behaviour, Meanwhile, ModelServer, Settings};
use super::fakes::wire::Reply;
use super::harness::{Gate, KEY};
use super::states::{CHAT, Shown, Target, call, gate, most_at_once, seen, show};

const CLIENTS: usize = 200;
/// What a start takes in tests.
const START: Duration = Duration::from_secs(3);

/// What a start takes, in this run.
fn start_takes() -> Duration {
    let seconds = std::env::var("PROVE_COLD_START_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(START, Duration::from_secs)
}

/// One call of a crowd: plain, or a stream, which is read as it comes.
async fn one(gate: &Gate, at: usize, patience: Duration) -> (Reply, Duration) {
    let began = Instant::now();
    let mut wire = gate.wire().await.patient(patience);
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let body = call(at.is_multiple_of(2)).to_string();
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await
        .expect("sent");
    (wire.reply().await.expect("an answer"), began.elapsed())
}

/// What became of a crowd.
struct Told {
    shown: Vec<(Shown, Duration)>,
    /// Theirs.
    rows: Vec<Value>,
    /// With those of whoever else called.
    all: Vec<Value>,
}

/// They arrive within two seconds, as people and their tools do after a break.
async fn crowd(gate: &mut Gate, patience: Duration) -> Told {
    let calls = (0..CLIENTS).map(|at| {
        let gate = &*gate;
        async move {
            tokio::time::sleep(Duration::from_millis(10) * u32::try_from(at).unwrap_or(0)).await;
            one(gate, at, patience).await
        }
    });
    let answers = join_all(calls).await;
    let shown = answers.iter().map(|(reply, took)| (show(reply), *took));
    let ids: Vec<&str> = answers
        .iter()
        .map(|(reply, _)| reply.header("x-request-id"))
        .collect();
    let mut wanted = CLIENTS;
    loop {
        let all = gate.rows(wanted).await;
        let is_ours = |row: &&Value| {
            row["request_id"]
                .as_str()
                .is_some_and(|id| ids.contains(&id))
        };
        let rows: Vec<Value> = all.iter().filter(is_ours).cloned().collect();
        if rows.len() == CLIENTS {
            let shown = shown.collect();
            return Told { shown, rows, all };
        }
        wanted = all.len() + 1;
    }
}

impl Told {
    /// How often each end was seen: status and code.
    fn ends(&self) -> BTreeMap<String, usize> {
        let mut ends = BTreeMap::new();
        for (shown, _) in &self.shown {
            *ends
                .entry(format!("{} {}", shown.status, shown.code))
                .or_default() += 1;
        }
        ends
    }

    fn print(&self, what: &str, server: &ModelServer, until: Instant) {
        let calls = server.calls();
        let before = calls.iter().filter(|call| call.received_at < until).count();
        let mut waits: Vec<u64> = self
            .rows
            .iter()
            .filter_map(|row| row["wait_ms"].as_u64())
            .collect();
        let mut took: Vec<Duration> = self.shown.iter().map(|(_, took)| *took).collect();
        waits.sort_unstable();
        took.sort_unstable();
        let middle = CLIENTS / 2;
        println!("{what}");
        println!("  answers                          {:?}", self.ends());
        println!("  rows                             {}", self.rows.len());
        println!(
            "  wait_ms, median and longest      {} {}",
            waits[middle],
            waits[CLIENTS - 1]
        );
        println!(
            "  seconds to the end, the same     {:.1} {:.1}",
            took[middle].as_secs_f64(),
            took[CLIENTS - 1].as_secs_f64()
        );
        println!("  requests before it was up        {before}");
        println!(
            "  of these together, at most       {}",
            most_at_once(&calls, until)
        );
        println!("  requests in all                  {}", calls.len());
    }
}

#[tokio::test]
async fn a_crowd_at_a_sleeping_server_wakes_it_once_and_is_served() {
    let takes = start_takes();
    for (what, meanwhile) in [
        ("held while it starts", Meanwhile::Holds),
        (
            "turned away while it starts",
            Meanwhile::Answers(Answer::no_instance()),
        ),
        (
            "turned away with a page",
            Meanwhile::Answers(Answer::not_available_yet()),
        ),
    ] {
        let server = ModelServer::start(Settings {
            max_model_len: 32_768,
            behaviour: Behaviour {
                agent: true,
                ..Behaviour::default()
            },
            ..Settings::default()
        })
        .await;
        server.sleep(meanwhile, takes);
        let urls = [server.url()];
        // As on Cloud Run; in the short run comments come all the same.
        let keepalive = if takes > START { "15" } else { "1" };
        let settings = [
            ("COLD_START_WAIT_SECONDS", "240"),
            ("KEEPALIVE_SECONDS", keepalive),
        ];
        let mut gate = gate(&urls, Target::ScalesToZero, &settings).await;
        let opencode = Opencode::before(&gate);
        let told = crowd(&mut gate, takes + Duration::from_mins(1)).await;
        let up_at = server.up_at().expect("it was started");
        told.print(
            &format!("{CLIENTS} clients, {} s, {what}", takes.as_secs()),
            &server,
            up_at,
        );
        if let Some(opencode) = opencode {
            opencode.print().await;
        }
        assert_eq!(told.ends(), BTreeMap::from([("200 ".to_owned(), CLIENTS)]));
        let most = most_at_once(&server.calls(), up_at);
        assert!(most <= 1, "{what}: {most} at once\n{}", seen(&server));
        for row in &told.rows {
            assert_eq!(
                (&row["outcome"], &row["counted_by"]),
                (&"complete".into(), &"engine".into()),
                "{row}"
            );
        }
        let woke: Vec<&Value> = told.all.iter().filter(|row| row["woke"] == true).collect();
        assert_eq!(woke.len(), 1, "{what}: one of them woke it");
        let waited_ms = woke[0]["wait_ms"].as_u64().expect("a time");
        assert!(
            u128::from(waited_ms) + 500 > takes.as_millis(),
            "{waited_ms} ms"
        );
    }
}

#[tokio::test]
async fn a_crowd_at_a_server_that_never_comes_is_told_so_in_bounded_time() {
    let limit = start_takes();
    let seconds = limit.as_secs().to_string();
    for (what, meanwhile) in [
        ("held for ever", Meanwhile::Holds),
        (
            "turned away for ever",
            Meanwhile::Answers(Answer::no_instance()),
        ),
    ] {
        let server = ModelServer::start(Settings::default()).await;
        server.shut(meanwhile);
        let settings = [("COLD_START_WAIT_SECONDS", seconds.as_str())];
        let mut gate = gate(&[server.url()], Target::ScalesToZero, &settings).await;
        let told = crowd(&mut gate, limit + Duration::from_mins(1)).await;
        let now = Instant::now();
        told.print(
            &format!("{CLIENTS} clients, {seconds} s, {what}"),
            &server,
            now,
        );
        for (shown, took) in &told.shown {
            let is_told = match shown.status {
                // A stream that had begun.
                200 => shown.code == "503" || shown.code == "502",
                503 => shown.code == "upstream_starting" && shown.retry_after.is_some(),
                // Who comes after the wait is over.
                502 => shown.code == "upstream_unreachable",
                _ => false,
            };
            assert!(is_told, "{what}: {shown:?}");
            assert!(*took < limit + Duration::from_secs(8), "{what}: {took:?}");
        }
        let most = most_at_once(&server.calls(), now);
        assert!(most <= 1, "{what}: {most} at once\n{}", seen(&server));
        assert_eq!(told.rows.len(), CLIENTS);
        assert!(
            told.rows.iter().all(|row| row["total_tokens"] == 0),
            "{what}"
        );
    }
}

/// OpenCode, one more client of the crowd, where the script has installed it.
struct Opencode(tokio::process::Child, Instant);

impl Opencode {
    fn before(gate: &Gate) -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os("PROVE_COLD_START_OPENCODE")?);
        let child = tokio::process::Command::new("node")
            .arg(folder.join("cold_turn.mjs"))
            .env("BASE_URL", format!("http://{}/v1", gate.addr))
            .env("API_KEY", KEY)
            .env("MODEL", "tiny-chat")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        Some(Self(child.expect("node runs"), Instant::now()))
    }

    async fn print(self) {
        let output = self.0.wait_with_output().await.expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        println!(
            "  OpenCode's turn                  {:.1} s, {text}",
            self.1.elapsed().as_secs_f64()
        );
        assert!(output.status.success(), "{text}");
    }
}
