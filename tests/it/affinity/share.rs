//! How many follow-up turns meet the server of the turn before, many conversations at once.
//! `scripts/prove-affinity.sh` runs it at length.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::start;
use super::talk::{Talk, Way};
use crate::fakes::model_server::{Behaviour, ModelServer};
use crate::harness::Gate;

/// What happens to one of three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// It needs ten times as long as the others.
    Slow,
    /// It dies when a third of the turns are done.
    Dies,
}

/// How much is asked: conversations, turns of each, conversations at once.
struct Extent {
    talks: usize,
    turns: usize,
    at_once: usize,
}

struct Shares {
    /// Of follow-up turns, in percent: at the same server as the turn before.
    same: f64,
    /// Those of conversations that never were with the server in trouble.
    same_of_others: f64,
    /// Turns of each server.
    turns: Vec<usize>,
}

fn extent() -> Extent {
    if std::env::var("PROVE_AFFINITY_AT_LENGTH").is_ok() {
        Extent {
            talks: 200,
            turns: 6,
            at_once: 40,
        }
    } else {
        Extent {
            talks: 40,
            turns: 4,
            at_once: 12,
        }
    }
}

/// Leads a conversation to its end: the ids of its turns.
async fn lead(mut talk: Talk, turns: usize, gate: &Gate) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..turns {
        let reply = talk.insist(gate).await;
        ids.push(reply.header("x-request-id").to_owned());
    }
    ids
}

async fn run(extent: &Extent, way: Way, trouble: Trouble) -> Shares {
    let (mut servers, gate) = start(3).await;
    // All are known to be up: nobody waits for another's first call.
    for number in 90_000.. {
        if servers
            .iter()
            .all(|server| !server.model_calls().is_empty())
        {
            break;
        }
        Talk::new(number, Way::Chat).ask(&gate).await;
    }
    let quick = Behaviour::tokens(8).paced(Duration::from_millis(5));
    for server in &servers {
        server.always(quick.clone());
    }
    if trouble == Trouble::Slow {
        servers[0].always(Behaviour::tokens(8).paced(Duration::from_millis(50)));
    }
    let talks = (0..extent.talks).map(|number| Talk::new(number, way));
    let led = stream::iter(talks)
        .map(|talk| lead(talk, extent.turns, &gate))
        .buffer_unordered(extent.at_once)
        .collect::<Vec<_>>();
    let dies = async {
        if trouble == Trouble::Dies {
            let share = extent.talks * extent.turns / 9;
            servers[0]
                .wait_for(|calls| calls.iter().filter(|call| call.finished()).count() >= share)
                .await;
            servers[0].stop().await;
        }
    };
    let (led, ()) = tokio::join!(led, dies);
    weigh(&led, &servers)
}

fn weigh(led: &[Vec<String>], servers: &[ModelServer]) -> Shares {
    let mut took = HashMap::new();
    for (at, server) in servers.iter().enumerate() {
        for call in server.model_calls().iter().filter(|call| call.finished()) {
            took.insert(call.request_id().to_owned(), at);
        }
    }
    let of_talk = |ids: &Vec<String>| -> Vec<usize> { ids.iter().map(|id| took[id]).collect() };
    let met: Vec<Vec<usize>> = led.iter().map(of_talk).collect();
    let share = |met: &mut dyn Iterator<Item = &Vec<usize>>| {
        let pairs = met.flat_map(|met| met.windows(2));
        let (mut same, mut all) = (0_u32, 0_u32);
        for pair in pairs {
            all += 1;
            same += u32::from(pair[0] == pair[1]);
        }
        f64::from(same) * 100.0 / f64::from(all.max(1))
    };
    let turns = |at: usize| met.iter().flatten().filter(|met| **met == at).count();
    Shares {
        same: share(&mut met.iter()),
        same_of_others: share(&mut met.iter().filter(|met| !met.contains(&0))),
        turns: (0..servers.len()).map(turns).collect(),
    }
}

#[tokio::test]
async fn follow_up_turns_meet_the_server_of_the_turn_before() {
    let extent = extent();
    println!(
        "| told by | one of three servers | same server | those never with it | turns of each |"
    );
    println!("| --- | --- | ---: | ---: | --- |");
    for way in [Way::Session, Way::Chat] {
        for trouble in [Trouble::None, Trouble::Slow, Trouble::Dies] {
            let shares = run(&extent, way, trouble).await;
            let Shares {
                same,
                same_of_others,
                turns,
            } = &shares;
            println!("| {way:?} | {trouble:?} | {same:.1} % | {same_of_others:.1} % | {turns:?} |");
            assert_eq!(turns.iter().sum::<usize>(), extent.talks * extent.turns);
            // A machine that is short of time makes any server a slow one now and then.
            let least = if trouble == Trouble::None { 90.0 } else { 60.0 };
            assert!(*same >= least, "{way:?} {trouble:?}: {same}");
            assert!(
                *same_of_others >= 90.0,
                "{way:?} {trouble:?}: {same_of_others}"
            );
        }
    }
}
