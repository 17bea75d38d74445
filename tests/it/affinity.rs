//! A conversation meets the model server that has its beginning cached, unless that one is busy or
//! gone; calls without a past go where least is to do.
//!
//! `scripts/prove-affinity.sh` measures the same at length.

mod share;
mod talk;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::calls::row_of;
use super::fakes::model_server::{Behaviour, Call, ModelServer, Settings};
use super::fakes::wire::Wire;
use super::harness::{Gate, KEY, PATIENCE};
use talk::{OTHER_KEY, Talk, Way};

/// So many calls, where others have none, make a server busy.
const BUSY: usize = 9;

async fn start(count: usize) -> (Vec<ModelServer>, Gate) {
    let settings = || Settings {
        max_model_len: 100_000,
        pooling: true,
        behaviour: Behaviour::tokens(8),
        ..Settings::default()
    };
    let servers = join_all((0..count).map(|_| ModelServer::start(settings()))).await;
    let gate = gate_before(&servers).await;
    (servers, gate)
}

async fn gate_before(servers: impl IntoIterator<Item = &ModelServer>) -> Gate {
    let urls: Vec<String> = servers.into_iter().map(ModelServer::url).collect();
    let keys = json!({"test": KEY, "other": OTHER_KEY});
    Gate::with_keys(&urls.join(","), &[], &keys).await
}

/// Conversations of all kinds, numbered from 0.
fn talks(count: usize) -> Vec<Talk> {
    let ways = Way::ALL.into_iter().cycle();
    let talk = |(number, way)| Talk::new(number, way);
    (0..count).zip(ways).map(talk).collect()
}

/// A turn of each, one after another, and which servers took them. The next begins when the last
/// is settled, so that nothing is in flight but what the test holds.
async fn round(gate: &mut Gate, servers: &[ModelServer], talks: &mut [Talk]) -> Vec<usize> {
    let mut took = Vec::new();
    for talk in talks {
        let reply = talk.ask(gate).await;
        row_of(gate, &reply).await;
        let id = reply.header("x-request-id");
        let at = servers.iter().position(|server| server.call(id).is_some());
        took.push(at.expect("one of them took it"));
    }
    took
}

/// Calls that one server works on for as long as they are kept: of conversations at home there.
async fn keep_busy(gate: &mut Gate, servers: &[ModelServer], busy: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    for number in 10_000.. {
        if held.len() == BUSY {
            break;
        }
        let mut talk = [Talk::new(number, Way::Session)];
        if round(gate, servers, &mut talk).await == [busy] {
            let server = &servers[busy];
            let before = server.model_calls().len();
            server.next(Behaviour::tokens(10_000).paced(Duration::from_millis(50)));
            held.push(talk[0].open(gate).await);
            server
                .wait_for(|_| server.model_calls().len() > before)
                .await;
        }
    }
    held
}

#[tokio::test]
async fn all_turns_of_a_conversation_meet_one_server() {
    let (servers, mut gate) = start(3).await;
    let mut talks = talks(75);
    let homes = round(&mut gate, &servers, &mut talks).await;
    for _ in 0..3 {
        assert_eq!(round(&mut gate, &servers, &mut talks).await, homes);
    }
    for way in Way::ALL {
        let mut met: Vec<usize> = (talks.iter().zip(&homes))
            .filter(|(talk, _)| talk.way == way)
            .map(|(_, home)| *home)
            .collect();
        met.sort_unstable();
        met.dedup();
        assert!(met.len() > 1, "{way:?} all go to {met:?}");
    }
    // Other instances did not see them begin, and yet are of one mind.
    let mut second = gate_before(servers.iter().rev()).await;
    let met = round(&mut second, &servers, &mut talks).await;
    let mut third = gate_before(&servers[..2]).await;
    let without_one = round(&mut third, &servers, &mut talks).await;
    for at in 0..talks.len() {
        if talks[at].way == Way::Session {
            assert_eq!(met[at], homes[at], "a name is enough");
        }
        let moved = without_one[at] != met[at];
        assert_eq!(moved, met[at] == 2, "only who was at home there moves");
    }
}

#[tokio::test]
async fn two_keys_share_no_conversation() {
    let (servers, mut gate) = start(2).await;
    let mut of_one = talks(20);
    round(&mut gate, &servers, &mut of_one).await;
    let other = |talk: &Talk| talk.clone().with_key(OTHER_KEY);
    let mut of_other: Vec<Talk> = of_one.iter().map(other).collect();
    // An instance that knows nothing of them goes by who asks and what is said alone.
    let mut gate = gate_before(&servers).await;
    let one = round(&mut gate, &servers, &mut of_one).await;
    let other = round(&mut gate, &servers, &mut of_other).await;
    assert_ne!(
        one, other,
        "the same words and names, but not the same homes"
    );
    assert_eq!(round(&mut gate, &servers, &mut of_one).await, one);
    assert_eq!(round(&mut gate, &servers, &mut of_other).await, other);
}

#[tokio::test]
async fn a_busy_server_is_left_by_its_conversations_alone_and_for_as_long() {
    let (servers, mut gate) = start(3).await;
    let mut talks = talks(25);
    let homes = round(&mut gate, &servers, &mut talks).await;
    let busy = homes[0];
    let held = keep_busy(&mut gate, &servers, busy).await;
    let met = round(&mut gate, &servers, &mut talks).await;
    for (home, met) in homes.iter().zip(&met) {
        assert_eq!(met == home, *home != busy, "{met} instead of {home}");
    }
    assert_eq!(
        round(&mut gate, &servers, &mut talks).await,
        met,
        "who had to move stays at the other"
    );
    drop(held);
    let returned = async { while round(&mut gate, &servers, &mut talks).await != homes {} };
    let in_time = tokio::time::timeout(PATIENCE, returned).await;
    in_time.expect("all are back home");
}

#[tokio::test]
async fn a_few_calls_more_move_no_conversation_but_what_begins() {
    let (servers, mut gate) = start(2).await;
    let mut talks = talks(10);
    let homes = round(&mut gate, &servers, &mut talks).await;
    let mut held = keep_busy(&mut gate, &servers, homes[0]).await;
    drop(held.pop());
    let server = &servers[homes[0]];
    let left = |call: &Call| call.disconnected_at().is_some();
    server.wait_for(|calls| calls.iter().any(left)).await;
    assert_eq!(round(&mut gate, &servers, &mut talks).await, homes);
    let mut new: Vec<Talk> = (100..110).map(|at| Talk::new(at, Way::Chat)).collect();
    let met = round(&mut gate, &servers, &mut new).await;
    assert_eq!(met, [1 - homes[0]; 10]);
}

#[tokio::test]
async fn a_server_that_dies_moves_its_own_conversations_and_no_other() {
    let (mut servers, mut gate) = start(3).await;
    let mut talks = talks(25);
    let homes = round(&mut gate, &servers, &mut talks).await;
    let dead = homes[0];
    servers[dead].stop().await;
    let met = round(&mut gate, &servers, &mut talks).await;
    for (home, met) in homes.iter().zip(&met) {
        assert_eq!(met == home, *home != dead, "{met} instead of {home}");
    }
    assert_eq!(round(&mut gate, &servers, &mut talks).await, met);
    servers[dead].resume().await;
    let returned = async { while round(&mut gate, &servers, &mut talks).await != homes {} };
    let in_time = tokio::time::timeout(2 * PATIENCE, returned).await;
    in_time.expect("all are back home");
}

#[tokio::test]
async fn calls_without_a_past_take_turns_and_leave_out_who_is_slow() {
    let (servers, mut gate) = start(3).await;
    let embed = json!({"input": "Hello"});
    let first = gate.post("/v1/embeddings", &embed).await;
    assert_eq!(first.status, 200, "{}", first.text());
    row_of(&mut gate, &first).await;
    for _ in 1..12 {
        let reply = gate.post("/v1/embeddings", &embed).await;
        row_of(&mut gate, &reply).await;
    }
    let taken = |servers: &[ModelServer]| -> Vec<usize> {
        let count = |server: &ModelServer| server.model_calls().len();
        servers.iter().map(count).collect()
    };
    assert_eq!(taken(&servers), [4; 3]);
    servers[0].always(Behaviour {
        head_delay: Duration::from_millis(500),
        ..Behaviour::default()
    });
    // Six callers, each with its next call when it has its answer.
    let callers = (0..6).map(async |_| {
        for _ in 0..20 {
            let reply: Value = gate.post("/v1/embeddings", &embed).await.json();
            assert_eq!(reply["object"], "list", "{reply}");
        }
    });
    join_all(callers).await;
    let taken = taken(&servers);
    assert_eq!(taken.iter().sum::<usize>(), 132);
    assert!(taken[0] < 4 + 12, "{taken:?}");
    assert!(taken[1] > 40 && taken[2] > 40, "{taken:?}");
}
