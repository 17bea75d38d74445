//! A token budget holds whatever happens: several gateways on one database, calls that are left or
//! fail, gateways that die or freeze. What counts is what the engine made.
//!
//! `scripts/prove-budgets.sh` runs the same at length, and before a real vLLM.

pub mod load;
pub mod site;

use std::time::Duration;

use super::fakes::engine::Engine;
use super::harness::KEY;
use load::Mix;
use site::{AT_LENGTH, Site};

/// Tokens of the budget: about a third of what the calls would use.
const LIMIT: u64 = 22_000;
/// The shortest that may be set.
const LEASE: Duration = Duration::from_secs(15);
/// Of the engine. Long enough for a stream to last a second.
const TOKEN_DELAY: Duration = Duration::from_millis(10);
const CONTEXT: u64 = 2048;
/// Percent of a budget. What a call that was left is charged grows with the time that passes until a
/// loaded machine sees that its caller has gone: 90 on an idle one, 64 was seen.
const LEAST_WHEN_SOME_LEAVE: u64 = 50;
/// A URL here, of a vLLM with this context, takes the place of the stand-in.
const REAL_ENGINE: &str = "PROVE_BUDGETS_ENGINE";

async fn engine() -> Engine {
    match std::env::var(REAL_ENGINE) {
        Ok(url) => Engine::running(&url).await,
        Err(_) => Engine::start(CONTEXT, TOKEN_DELAY).await,
    }
}

fn mix(engine: &Engine, left: usize) -> Mix {
    Mix {
        calls: 500,
        left,
        failing: 5,
        tokens: (40, 120),
        // What breaks off half-way is charged at an upper bound, as what was left is.
        breaking: left > 0 && engine.is_stand_in(),
    }
}

async fn on_postgres() -> Option<Site> {
    let site = Site::on_postgres(3, (LIMIT, LEASE), engine().await).await;
    if site.is_none() {
        println!("skipped: Postgres is not installed");
    }
    site
}

/// What the engine made once it rests: never more than the limit.
async fn made(site: &Site, what: &str) -> u64 {
    let made = site.engine.rest().await;
    let limit = site.limit;
    assert!(made <= limit, "{what}: the engine made {made} of {limit}");
    made
}

/// All calls at once; the budget is used up to so many percent, and never beyond.
async fn use_up(site: &Site, left: usize, least_percent: u64, what: &str) {
    let began = tokio::time::Instant::now();
    let tally = mix(&site.engine, left).run(&site.addrs(), KEY).await;
    let made = made(site, what).await;
    let took = began.elapsed();
    let standing = site.quiet().await;
    let percent = made * 100 / site.limit;
    println!(
        "{what}: engine {made}, store {}, limit {} ({percent} %), {took:.1?}, {tally:?}",
        standing.used, site.limit
    );
    assert!(
        standing.used >= made,
        "{what}: {standing:?}, the engine made {made}"
    );
    assert!(
        percent >= least_percent,
        "{what}: only {percent} % could be used: {tally:?}"
    );
    assert!(
        tally.of("token_limit_exceeded") > 0,
        "{what}: none was refused: {tally:?}"
    );
    assert_eq!(tally.of("store_unavailable"), 0, "{what}: {tally:?}");
}

#[tokio::test]
async fn three_gateways_on_one_postgres_use_a_budget_up_and_never_pass_it() {
    let Some(site) = on_postgres().await else {
        return;
    };
    use_up(&site, 0, 95, "Postgres, none left").await;
}

#[tokio::test]
async fn three_gateways_use_most_of_a_budget_though_callers_leave() {
    let Some(site) = on_postgres().await else {
        return;
    };
    use_up(&site, 15, LEAST_WHEN_SOME_LEAVE, "Postgres, some left").await;
}

#[tokio::test]
async fn one_gateway_on_sqlite_uses_a_budget_up_and_never_passes_it() {
    let site = Site::on_sqlite((LIMIT, LEASE), engine().await).await;
    use_up(&site, 0, 95, "SQLite, none left").await;
}

#[tokio::test]
async fn one_gateway_on_sqlite_uses_most_of_a_budget_though_callers_leave() {
    let site = Site::on_sqlite((LIMIT, LEASE), engine().await).await;
    use_up(&site, 15, LEAST_WHEN_SOME_LEAVE, "SQLite, some left").await;
}

#[tokio::test]
async fn a_gateway_that_dies_and_one_that_freezes_do_not_pass_the_limit() {
    let Some(site) = on_postgres().await else {
        return;
    };
    let frozen_for = if std::env::var(AT_LENGTH).is_ok() {
        LEASE * 2
    } else {
        LEASE + Duration::from_secs(2)
    };
    let addrs = site.addrs();
    let (first, all) = (mix(&site.engine, 15), addrs.clone());
    let first = tokio::spawn(async move { first.run(&all, KEY).await });
    // In the midst of the streams.
    while site.engine.made().await < LIMIT / 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.gates[0].signal("KILL");
    site.gates[1].signal("STOP");
    let frozen_at = tokio::time::Instant::now();
    let mut tally = mix(&site.engine, 15).run(&addrs[2..], KEY).await;
    tokio::time::sleep_until(frozen_at + frozen_for).await;
    site.gates[1].signal("CONT");
    tally.join(first.await.expect("calls"));
    let more = Mix {
        calls: 100,
        ..mix(&site.engine, 0)
    };
    tally.join(more.run(&addrs[1..], KEY).await);
    let made = made(&site, "one killed, one frozen").await;
    let standing = site.quiet().await;
    println!(
        "one killed, one frozen: engine {made}, store {}, limit {LIMIT}, {tally:?}",
        standing.used
    );
    assert!(
        standing.used >= made,
        "{standing:?}, the engine made {made}"
    );
    assert!(made >= LIMIT / 3, "{made} tokens were made");
}
