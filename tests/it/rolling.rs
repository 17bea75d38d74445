//! A model server is replaced under load: it drains, its port closes, another comes up in its place. No call
//! that had not begun fails. scripts/prove-rolling.sh runs this at length.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::fakes::model_server::{Answer, Behaviour, ModelServer, Settings};
use super::fakes::wire::{Reply, Wire};
use super::harness::{Gate, KEY};
use super::states::{CHAT, Target, call, gate, show};

/// Calls per second, whatever becomes of those before.
const RATE: u32 = 50;

/// Phases of a replacement: the time before it drains, drains, is away, and is back.
fn phase() -> Duration {
    let seconds = std::env::var("PROVE_ROLLING_PHASE_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_millis(700), Duration::from_secs)
}

/// Some twenty tokens, a fifth of a second.
fn usual() -> Behaviour {
    Behaviour::tokens(20).paced(Duration::from_millis(10))
}

async fn server() -> ModelServer {
    let settings = Settings {
        behaviour: usual(),
        ..Settings::default()
    };
    ModelServer::start(settings).await
}

/// What became of the calls.
#[derive(Default)]
struct Tally {
    ends: BTreeMap<String, usize>,
    took: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, (reply, took): (std::io::Result<Reply>, Duration)) {
        let end = match reply {
            Ok(reply) if !reply.complete => "broken off".to_owned(),
            Ok(reply) => {
                let shown = show(&reply);
                format!("{} {}", shown.status, shown.code).trim().to_owned()
            }
            Err(error) => error.to_string(),
        };
        *self.ends.entry(end).or_default() += 1;
        self.took.push(took);
    }
}

/// A call on a connection of its own, which may wait as long as a replacement takes.
async fn exchange(addr: SocketAddr, body: &str) -> std::io::Result<Reply> {
    let mut wire = Wire::connect(addr).await?.patient(Duration::from_mins(1));
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    wire.send(&format!("POST {CHAT}"), &headers, body.as_bytes())
        .await?;
    wire.reply().await
}

/// Half of them streams, at a steady rate until they are stopped.
async fn load(gate: &Gate, stop: CancellationToken) -> Tally {
    let addr = gate.addr;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for at in 0_usize.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        calls.spawn(async move {
            let began = Instant::now();
            let body = call(at.is_multiple_of(2)).to_string();
            (exchange(addr, &body).await, began.elapsed())
        });
    }
    let mut tally = Tally::default();
    while let Some(done) = calls.join_next().await {
        tally.add(done.expect("a call"));
    }
    tally
}

/// As vLLM goes when it is told to with time to finish, and another takes its port.
async fn replace(server: &mut ModelServer) {
    tokio::time::sleep(phase()).await;
    server.always(Behaviour::answer(Answer::draining()));
    tokio::time::sleep(phase()).await;
    server
        .wait_for(|calls| calls.iter().all(|call| !call.is_under_way()))
        .await;
    server.stop().await;
    tokio::time::sleep(phase()).await;
    server.always(usual());
    server.resume().await;
    tokio::time::sleep(phase()).await;
}

async fn report(what: &str, gate: &mut Gate, tally: &Tally) -> Vec<Value> {
    let rows = gate.rows(tally.took.len()).await;
    let mut waits: Vec<u64> = rows
        .iter()
        .filter_map(|row| row["wait_ms"].as_u64())
        .collect();
    let mut took = tally.took.clone();
    waits.sort_unstable();
    took.sort_unstable();
    let ms = |at: usize| took[at].as_millis();
    let (count, waited) = (took.len(), waits.iter().filter(|wait| **wait > 0).count());
    println!("{what}, {RATE} calls/s");
    println!("  calls, by end                {count} {:?}", tally.ends);
    println!("  calls that waited            {waited}");
    println!(
        "  wait_ms, median and longest  {} {}",
        waits[count / 2],
        waits[count - 1]
    );
    println!(
        "  ms to the end, the same      {} {}",
        ms(count / 2),
        ms(count - 1)
    );
    rows
}

fn assert_whole(tally: &Tally, rows: &[Value]) {
    assert_eq!(
        tally.ends,
        BTreeMap::from([("200".to_owned(), tally.took.len())])
    );
    assert_eq!(rows.len(), tally.took.len());
    for row in rows {
        assert_eq!(
            (&row["outcome"], &row["counted_by"]),
            (&json!("complete"), &json!("engine")),
            "{row}"
        );
        assert_eq!(row["completion_tokens"], 20, "{row}");
    }
}

#[tokio::test]
async fn two_servers_replaced_one_after_the_other_lose_no_call() {
    let mut servers = [server().await, server().await];
    let urls = servers.each_ref().map(ModelServer::url);
    let mut gate = gate(&urls, Target::Stays, &[]).await;
    let stop = CancellationToken::new();
    let (tally, ()) = tokio::join!(load(&gate, stop.clone()), async {
        for server in &mut servers {
            replace(server).await;
        }
        stop.cancel();
    });
    let rows = report("two servers, each replaced", &mut gate, &tally).await;
    assert_whole(&tally, &rows);
    // While one is there nobody waits long.
    let longest = rows.iter().filter_map(|row| row["wait_ms"].as_u64()).max();
    assert!(longest < Some(2_000), "{longest:?} ms");
    for server in &servers {
        let served = server
            .model_calls()
            .iter()
            .filter(|c| c.status == Some(200))
            .count();
        assert!(
            served > tally.took.len() / 5,
            "{served} of {}",
            tally.took.len()
        );
    }
}

#[tokio::test]
async fn a_single_server_that_is_replaced_makes_calls_wait_and_loses_none() {
    for target in [Target::Stays, Target::ScalesToZero] {
        let mut server = server().await;
        let mut gate = gate(&[server.url()], target, &[]).await;
        let stop = CancellationToken::new();
        let (tally, ()) = tokio::join!(load(&gate, stop.clone()), async {
            replace(&mut server).await;
            stop.cancel();
        });
        let rows = report(
            &format!("one server, replaced, {target:?}"),
            &mut gate,
            &tally,
        )
        .await;
        assert_whole(&tally, &rows);
        let longest = rows.iter().filter_map(|row| row["wait_ms"].as_u64()).max();
        assert!(longest > Some(100), "some had to wait: {longest:?} ms");
    }
}
