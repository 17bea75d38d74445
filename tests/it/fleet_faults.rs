//! The database fails while calls are under way: what has tokens in hand goes on, what has none gets
//! a clear answer soon, and when the database is back nothing that was used is missing there.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::fakes::engine::Engine;
use super::fakes::link::{Link, Mood};
use super::fakes::postgres::Postgres;
use super::fakes::wire::{self, Reply};
use super::fleet::load::{Mix, Tally};
use super::fleet::site::{AT_LENGTH, FREE, OTHER, Site};
use super::harness::KEY;

/// Large enough for a lease to hold many calls.
const LIMIT: u64 = 1_000_000;
const LEASE: Duration = Duration::from_mins(1);
/// So many calls together reserve less than a lease holds.
const IN_HAND: usize = 20;
/// A call that needs the database and does not get it is told so within this time.
const BOUND: Duration = Duration::from_secs(12);
/// A call that does not need it takes no longer than this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long the database is away.
fn outage() -> Duration {
    let seconds = if std::env::var(AT_LENGTH).is_ok() {
        20
    } else {
        4
    };
    Duration::from_secs(seconds)
}

async fn site(gates: usize) -> Option<(Site, Link)> {
    let engine = Engine::start(2048, Duration::from_millis(2)).await;
    let site = Site::through_a_link(gates, (LIMIT, LEASE), engine).await;
    if site.is_none() {
        println!("skipped: Postgres is not installed");
    }
    site
}

/// No call fails by itself: what the engine made is what must be in the store.
fn mix(calls: usize) -> Mix {
    Mix {
        calls,
        left: 0,
        failing: 0,
        tokens: (20, 60),
        breaking: false,
    }
}

async fn call(gate: SocketAddr, key: &str) -> (Reply, Duration) {
    let body =
        json!({"max_tokens": 20, "messages": [{"role": "user", "content": "Hello [[tokens=20]]"}]});
    let headers = [("x-api-key", key)];
    let began = Instant::now();
    let reply = wire::exchange(
        gate,
        "POST /v1/chat/completions",
        &headers,
        body.to_string().as_bytes(),
    )
    .await;
    (reply.expect("an answer"), began.elapsed())
}

/// Everything that was made is charged, once, when all is quiet.
async fn all_is_settled(site: &Site) {
    let made = site.engine.rest().await;
    let (used, others) = (site.settled("test").await, site.settled("other").await);
    let free = site.told("free");
    println!("engine {made}, store {used} + {others}, without a limit {free}");
    assert_eq!(made, used + others + free);
}

#[tokio::test]
async fn answers_that_are_lost_on_the_way_charge_nothing_twice() {
    let Some((site, link)) = site(3).await else {
        return;
    };
    let mut tally = Tally::default();
    // An exchange has some ten answers: a different one is lost each time.
    let mut calls = 0;
    for every in [37, 23, 13].into_iter().cycle().take(30) {
        link.turn(Mood::Loses(every));
        tally.join(mix(100).run(&site.addrs(), KEY).await);
        calls += 100;
        if calls >= 300 && link.lost() >= 5 {
            break;
        }
    }
    link.turn(Mood::Passes);
    println!("{} answers lost, {tally:?}", link.lost());
    assert!(link.lost() >= 5, "{} answers were lost", link.lost());
    let (done, refused) = (tally.of("done"), tally.of("store_unavailable"));
    assert!(done >= 50 && done + refused == calls, "{tally:?}");
    all_is_settled(&site).await;
}

#[tokio::test]
async fn a_slow_database_delays_no_call_that_has_tokens_in_hand() {
    let Some((site, link)) = site(1).await else {
        return;
    };
    let gate = site.addrs()[0];
    let (reply, _) = call(gate, KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    link.turn(Mood::Slow(Duration::from_millis(1500)));
    for _ in 0..20 {
        let (reply, took) = call(gate, KEY).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(took < AT_ONCE, "{took:?}");
    }
    // More at once than a lease holds: they wait for the database, which takes its time.
    link.turn(Mood::Slow(Duration::from_millis(25)));
    // An exchange that failed before lets nobody ask for a second.
    site.settled("test").await;
    let tally = mix(300).run(&site.addrs(), KEY).await;
    assert_eq!(tally.of("done"), 300, "{tally:?}");
    link.turn(Mood::Passes);
    all_is_settled(&site).await;
}

/// Calls that need the database are served again.
async fn answers_again(gate: SocketAddr) {
    let back_at = Instant::now();
    while call(gate, OTHER).await.0.status != 200 {
        assert!(
            back_at.elapsed() < BOUND,
            "the database is back, and still 503"
        );
    }
}

/// The database goes away and comes back: what callers see meanwhile, and what is in the store then.
async fn while_away(
    site: &mut Site,
    away: impl AsyncFnOnce(&mut Site),
    back: impl AsyncFnOnce(&mut Site),
) {
    let gate = site.addrs()[0];
    let (reply, _) = call(gate, KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (mix, addrs) = (mix(IN_HAND), site.addrs());
    let meanwhile = tokio::spawn(async move { mix.run(&addrs[..1], KEY).await });
    away(site).await;
    let until = Instant::now() + outage();
    let refused = tokio::spawn(call(gate, OTHER));
    let mut calls = 0;
    while Instant::now() < until {
        for key in [KEY, FREE] {
            let (reply, took) = call(gate, key).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(took < AT_ONCE, "{took:?}");
        }
        calls += 1;
    }
    let (reply, took) = refused.await.expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "store_unavailable");
    assert!(took < BOUND, "{took:?}");
    println!(
        "{calls} calls on a lease; without one: {took:.1?}, {}",
        reply.text()
    );
    back(site).await;
    let tally = meanwhile.await.expect("calls");
    assert_eq!(tally.of("done"), IN_HAND, "{tally:?}");
    answers_again(gate).await;
    all_is_settled(site).await;
}

#[tokio::test]
async fn calls_with_tokens_in_hand_go_on_while_the_network_is_down() {
    let Some((mut site, link)) = site(1).await else {
        return;
    };
    let away = async |_: &mut Site| link.turn(Mood::Down);
    while_away(&mut site, away, async |_| link.turn(Mood::Passes)).await;
}

#[tokio::test]
async fn calls_with_tokens_in_hand_go_on_while_the_database_is_frozen() {
    let Some((mut site, _link)) = site(1).await else {
        return;
    };
    let away = async |site: &mut Site| signal(site.postgres(), "STOP");
    let back = async |site: &mut Site| signal(site.postgres(), "CONT");
    while_away(&mut site, away, back).await;
}

#[tokio::test]
async fn calls_with_tokens_in_hand_go_on_while_the_database_is_stopped() {
    let Some((mut site, _link)) = site(1).await else {
        return;
    };
    let away = async |site: &mut Site| site.postgres().stop();
    let back = async |site: &mut Site| site.postgres().go_on().await;
    while_away(&mut site, away, back).await;
}

/// To all processes of the server; each is in a session of its own.
fn signal(postgres: &Postgres, name: &str) {
    let first = postgres.process_id().expect("a server").to_string();
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
    let children = children.expect("its children");
    let ids = children.split_whitespace().chain([first.as_str()]);
    // One that has ended meanwhile is no fault.
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .args(ids)
        .status();
}
