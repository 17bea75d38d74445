//! In which order a call tries targets that are as good as one another: where its conversation is
//! cached, else where there is least to do. Pure; knows no target, only how they stand.

use super::affinity::{Affinity, mix};

/// One target that may take the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its place in the caller's own list.
    pub at: usize,
    /// Says which one it is, wherever it stands: [`name`].
    pub name: u64,
    /// Calls that it is answering.
    pub in_flight: usize,
    /// It has as many as it may have.
    pub is_full: bool,
}

/// What a target is known by in [`order`]: a number made of its base URL, the same in every instance.
pub(super) fn name(url: &str) -> u64 {
    // FNV-1a; it is counted once for each target.
    let hash = url.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// Puts the candidates into the order in which a call tries them. `turn` counts up with each call;
/// `home` is the target that served the conversation last, if that is known here.
///
/// A conversation that is under way goes home. Where that is not known every conversation has an order of its own among all targets (rendezvous hashing): when one goes,
/// only its conversations move, each to the next in its own order, and when it returns they do.
/// It takes the first of its order that is not busy. Any other call goes where the fewest calls are,
/// among equals by turns: nothing is cached of its beginning yet but what all share.
///
/// Busy is a target that is full, or has more than twice the calls of the least busy one and four
/// more. An engine works on its calls together: with twice as many each gets its tokens somewhat
/// later, while a conversation of tens of thousands of tokens that moves is read again from its
/// beginning, for seconds, which delays all others there. So a few calls more move nobody, among
/// idle targets as little as among loaded ones. Beyond that a target is slower than others, or
/// has got too many long conversations, and the reading is the smaller evil.
pub(super) fn order(
    candidates: &mut [Candidate],
    affinity: Option<Affinity>,
    home: Option<u64>,
    turn: usize,
) {
    if candidates.len() < 2 {
        return;
    }
    candidates.rotate_left(turn % candidates.len());
    let free = candidates.iter().filter(|one| !one.is_full);
    let least = free.map(|one| one.in_flight).min().unwrap_or(0);
    let under_way = affinity.filter(|affinity| affinity.is_under_way());
    // Sorting is stable: of equals, the turn decides.
    candidates.sort_by_key(|one| {
        let may_stay = under_way.is_some() && !is_busy(one, least);
        let load = if may_stay { 0 } else { one.in_flight };
        let distance = match under_way {
            Some(_) if home == Some(one.name) => 0,
            Some(affinity) => mix(affinity.hash() ^ one.name),
            None => 0,
        };
        (one.is_full, !may_stay, load, distance)
    });
}

fn is_busy(one: &Candidate, least: usize) -> bool {
    one.is_full || one.in_flight > least.saturating_mul(2).saturating_add(4)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Endpoint, Object};

    fn conversation(session: u32, is_under_way: bool) -> Affinity {
        let more = if is_under_way {
            r#",{"role":"assistant"}"#
        } else {
            ""
        };
        let text = format!(r#"{{"messages":[{{"role":"user","content":"{session}"}}{more}]}}"#);
        let body = Object::parse(Bytes::from(text)).expect("an object");
        Affinity::of(["service", "a"], None, Endpoint::ChatCompletions, &body).expect("one")
    }

    fn targets(in_flight: &[usize]) -> Vec<Candidate> {
        let one = |(at, &in_flight): (usize, &usize)| Candidate {
            at,
            name: name(&format!("http://10.0.0.{at}:8000")),
            in_flight,
            is_full: false,
        };
        in_flight.iter().enumerate().map(one).collect()
    }

    fn first(mut candidates: Vec<Candidate>, affinity: Option<Affinity>, turn: usize) -> usize {
        order(&mut candidates, affinity, None, turn);
        candidates[0].at
    }

    fn home(session: u32, targets_count: usize) -> usize {
        first(
            targets(&vec![0; targets_count]),
            Some(conversation(session, true)),
            0,
        )
    }

    #[test]
    fn the_least_busy_comes_first_and_equals_take_turns() {
        let mut all = targets(&[3, 1, 2]);
        order(&mut all, None, None, 0);
        assert_eq!(all.iter().map(|one| one.at).collect::<Vec<_>>(), [1, 2, 0]);
        let mut firsts = [0; 3];
        for turn in 0..30 {
            firsts[first(targets(&[2, 2, 2]), None, turn)] += 1;
        }
        assert_eq!(firsts, [10, 10, 10]);
        let mut full = targets(&[0, 5, 9]);
        full[0].is_full = true;
        full[2].is_full = true;
        order(&mut full, None, None, 0);
        assert_eq!(full.iter().map(|one| one.at).collect::<Vec<_>>(), [1, 0, 2]);
    }

    #[test]
    fn conversations_are_spread_evenly() {
        let mut count = [0; 3];
        for session in 0..3000 {
            count[home(session, 3)] += 1;
        }
        for share in count {
            assert!((900..1100).contains(&share), "{count:?}");
        }
    }

    #[test]
    fn what_has_just_begun_goes_where_least_is_to_do() {
        for session in 0..50 {
            let home = home(session, 3);
            let mut load = [0; 3];
            load[home] = 1;
            assert_ne!(
                first(targets(&load), Some(conversation(session, false)), 1),
                home
            );
            assert_eq!(
                first(targets(&load), Some(conversation(session, true)), 1),
                home
            );
        }
    }

    #[test]
    fn a_busy_target_is_left_for_the_next_of_the_conversation() {
        for session in 0..50 {
            let mut all = targets(&[2, 2, 2]);
            order(&mut all, Some(conversation(session, true)), None, 0);
            let (home, next) = (all[0].at, all[1].at);
            let mut load = [2; 3];
            load[home] = 8;
            assert_eq!(
                first(targets(&load), Some(conversation(session, true)), 1),
                home
            );
            load[home] = 9;
            for turn in 0..3 {
                let moved = first(targets(&load), Some(conversation(session, true)), turn);
                assert_eq!(moved, next, "it moves to one place, not to any");
            }
            let mut full = targets(&[0, 0, 0]);
            full[home].is_full = true;
            assert_eq!(first(full, Some(conversation(session, true)), 1), next);
        }
    }

    #[test]
    fn where_a_conversation_was_served_last_is_its_home() {
        for session in 0..50 {
            let chosen = home(session, 3);
            let other = (chosen + 1) % 3;
            let mut load = targets(&[0, 0, 0]);
            let last = Some(load[other].name);
            order(&mut load, Some(conversation(session, true)), last, 0);
            assert_eq!(load[0].at, other);
            load.sort_by_key(|one| one.at);
            load[other].in_flight = 9;
            order(&mut load, Some(conversation(session, true)), last, 0);
            assert_eq!(load[0].at, chosen, "busy, it is left");
        }
    }

    #[test]
    fn one_candidate_or_none_is_left_as_it_is() {
        order(&mut [], None, None, usize::MAX);
        let mut one = targets(&[7]);
        order(&mut one, Some(conversation(1, true)), None, usize::MAX);
        assert_eq!(one, targets(&[7]));
    }

    proptest! {
        #[test]
        fn only_the_conversations_of_a_target_move_with_it(session: u32, count in 2..8_usize, gone: usize) {
            let gone = gone % count;
            let before = home(session, count);
            let mut left = targets(&vec![0; count]);
            left.remove(gone);
            let after = first(left, Some(conversation(session, true)), 0);
            prop_assert_eq!(after == before, before != gone);
        }

        #[test]
        fn nobody_is_lost_and_a_free_one_is_first(
            load in proptest::collection::vec((0..40_usize, any::<bool>()), 2..9),
            session: u32,
            is_under_way: bool,
            turn: usize,
        ) {
            let mut all = targets(&load.iter().map(|(load, _)| *load).collect::<Vec<_>>());
            for (one, (_, is_full)) in all.iter_mut().zip(&load) {
                one.is_full = *is_full;
            }
            let before = all.clone();
            order(&mut all, Some(conversation(session, is_under_way)), None, turn);
            let mut sorted = all.clone();
            sorted.sort_by_key(|one| one.at);
            prop_assert_eq!(&sorted, &before);
            prop_assert!(!all[0].is_full || all.iter().all(|one| one.is_full));
            let least = all.iter().filter(|one| !one.is_full).map(|one| one.in_flight).min();
            if let Some(least) = least {
                prop_assert!(all[0].in_flight <= 2 * least + 4);
            }
        }
    }
}
