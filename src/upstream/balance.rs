//! In which order a call tries targets that are as good as one another: where its conversation is
//! cached, else where there is least to do. Does no I/O; knows no target, only how they stand.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::affinity::{Affinity, mix};

/// So many conversations that began away from home are remembered: some hundred kilobytes.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// Something that may take the call, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate<T> {
    pub of: T,
    /// Says which one it is, wherever it stands: [`name`].
    pub name: u64,
    /// How soon it is tried whatever there is to do: the lower the sooner.
    pub class: u8,
    /// Calls that it is answering.
    pub in_flight: usize,
}

/// The last class of those that take calls just now.
pub(super) const READY: u8 = 1;

/// What a target is known by in [`Balance::order`]: a number made of its base URL, the same in every
/// instance.
pub(super) fn name(url: &str) -> u64 {
    // FNV-1a; it is counted once for each target.
    let hash = url.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// Puts candidates in order for one call after another.
pub(super) struct Balance {
    /// Which comes first among equals; counts up with each call.
    turn: AtomicUsize,
    /// Conversations that did not begin at home, and where they did. Another instance does not know
    /// and takes them for at home; so does this one for those that nobody led on for longest.
    begun_away: Mutex<LruCache<u64, u64>>,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            turn: AtomicUsize::new(0),
            begun_away: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }
}

impl Balance {
    /// Puts the candidates into the order in which a call tries them.
    ///
    /// Every conversation has an order of its own among all targets (rendezvous hashing), the same in
    /// all instances; the first of it is its home. When a target goes, only its conversations move,
    /// each to the next in its own order, and when it returns, so do they.
    ///
    /// A call that has no past goes where the fewest calls are, among equals by turns. A conversation
    /// that is under way goes where it began, else home, and as long as that is busy to the next in
    /// its order.
    ///
    /// All this among those of one class. Busy is a target that has more than twice the calls of the
    /// least busy one and eight more. An engine works on its calls together: with twice as many each
    /// gets its tokens somewhat later, while a conversation of tens of thousands of tokens that moves
    /// is read again from its beginning, for seconds, which delays all others there. So a few calls
    /// more move nobody, among idle targets as little as among loaded ones. Beyond that a target is
    /// slower than others or has got too many long conversations, and the reading is the smaller evil.
    pub(super) fn order<T>(&self, candidates: &mut [Candidate<T>], affinity: Option<Affinity>) {
        if candidates.len() < 2 {
            return;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(affinity) = affinity else {
            return by_load(candidates, turn);
        };
        // One statement, one lock: it is not held while another is.
        if affinity.is_under_way() {
            let began = self.begun_away().get(&affinity.hash()).copied();
            return by_home(candidates, affinity, began);
        }
        by_load(candidates, turn);
        let home = candidates.iter().min_by_key(|one| one.distance(affinity));
        let first = candidates.first();
        if let (Some(home), Some(first)) = (home, first)
            && home.name != first.name
        {
            self.begun_away().put(affinity.hash(), first.name);
        }
    }

    fn begun_away(&self) -> MutexGuard<'_, LruCache<u64, u64>> {
        self.begun_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Candidate<T> {
    /// How far it stands from the beginning of a conversation's own order.
    fn distance(&self, affinity: Affinity) -> u64 {
        mix(affinity.hash() ^ self.name)
    }
}

fn by_load<T>(candidates: &mut [Candidate<T>], turn: usize) {
    candidates.rotate_left(turn % candidates.len());
    // Sorting is stable: of equals, the turn decides.
    candidates.sort_by_key(|one| (one.class, one.in_flight));
}

fn by_home<T>(candidates: &mut [Candidate<T>], affinity: Affinity, began: Option<u64>) {
    let ready = candidates.iter().filter(|one| one.class <= READY);
    let least = ready.map(|one| one.in_flight).min().unwrap_or(0);
    candidates.sort_by_key(|one| {
        let is_busy = one.in_flight > least.saturating_mul(2).saturating_add(8);
        let load = if is_busy { one.in_flight } else { 0 };
        let is_elsewhere = began != Some(one.name);
        let distance = one.distance(affinity);
        (one.class, is_busy, load, is_elsewhere, distance)
    });
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Endpoint, Object};

    const FULL: u8 = 6;

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

    fn targets(in_flight: &[usize]) -> Vec<Candidate<usize>> {
        let one = |(of, &in_flight): (usize, &usize)| Candidate {
            of,
            name: name(&format!("http://10.0.0.{of}:8000")),
            in_flight,
            class: READY,
        };
        in_flight.iter().enumerate().map(one).collect()
    }

    fn first(mut candidates: Vec<Candidate<usize>>, affinity: Affinity) -> usize {
        Balance::default().order(&mut candidates, Some(affinity));
        candidates[0].of
    }

    fn home(session: u32, targets_count: usize) -> usize {
        let all = targets(&vec![0; targets_count]);
        first(all, conversation(session, true))
    }

    fn places(candidates: &[Candidate<usize>]) -> Vec<usize> {
        candidates.iter().map(|one| one.of).collect()
    }

    #[test]
    fn the_least_busy_comes_first_and_equals_take_turns() {
        let balance = Balance::default();
        let mut all = targets(&[3, 1, 2]);
        balance.order(&mut all, None);
        assert_eq!(places(&all), [1, 2, 0]);
        let mut firsts = [0; 3];
        for _ in 0..30 {
            let mut all = targets(&[2, 2, 2]);
            balance.order(&mut all, None);
            firsts[all[0].of] += 1;
        }
        assert_eq!(firsts, [10, 10, 10]);
        let mut full = targets(&[0, 5, 9]);
        full[0].class = FULL;
        full[2].class = FULL;
        balance.order(&mut full, None);
        assert_eq!(places(&full), [1, 0, 2]);
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
    fn what_begins_goes_where_least_is_to_do_and_is_found_there_again() {
        let balance = Balance::default();
        for session in 0..50 {
            let (begins, goes_on) = (conversation(session, false), conversation(session, true));
            let home = home(session, 3);
            let mut load = [0; 3];
            load[home] = 1;
            assert_eq!(first(targets(&load), goes_on), home);
            let mut all = targets(&load);
            balance.order(&mut all, Some(begins));
            let began = all[0].of;
            assert_ne!(began, home);
            for _ in 0..2 {
                let mut all = targets(&[0; 3]);
                balance.order(&mut all, Some(goes_on));
                assert_eq!((all[0].of, all[1].of), (began, home));
            }
            assert_eq!(first(targets(&[0; 3]), goes_on), home, "who does not know");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let balance = Balance::default();
        for session in 0..10_000 {
            let load = [
                usize::from(home(session, 2) == 0),
                usize::from(home(session, 2) == 1),
            ];
            balance.order(&mut targets(&load), Some(conversation(session, false)));
        }
        assert_eq!(balance.begun_away().len(), REMEMBERED.get());
    }

    #[test]
    fn a_busy_target_is_left_for_the_next_of_the_conversation() {
        for session in 0..50 {
            let goes_on = conversation(session, true);
            let mut all = targets(&[2; 3]);
            Balance::default().order(&mut all, Some(goes_on));
            let (home, next) = (all[0].of, all[1].of);
            let mut load = [2; 3];
            load[home] = 12;
            assert_eq!(first(targets(&load), goes_on), home);
            load[home] = 13;
            assert_eq!(first(targets(&load), goes_on), next);
            load[next] = 3;
            assert_eq!(
                first(targets(&load), goes_on),
                next,
                "a little more is no matter"
            );
            let mut full = targets(&[0; 3]);
            full[home].class = FULL;
            assert_eq!(first(full, goes_on), next);
        }
    }

    #[test]
    fn one_candidate_or_none_is_left_as_it_is() {
        let balance = Balance::default();
        balance.order::<usize>(&mut [], None);
        let mut one = targets(&[7]);
        balance.order(&mut one, Some(conversation(1, true)));
        assert_eq!(one, targets(&[7]));
    }

    proptest! {
        #[test]
        fn only_the_conversations_of_a_target_move_with_it(session: u32, count in 2..8_usize, gone: usize) {
            let gone = gone % count;
            let before = home(session, count);
            let mut left = targets(&vec![0; count]);
            left.remove(gone);
            let after = first(left, conversation(session, true));
            prop_assert_eq!(after == before, before != gone);
        }

        #[test]
        fn nobody_is_lost_and_a_free_one_is_first(
            load in proptest::collection::vec((0..40_usize, any::<bool>()), 2..9),
            session: u32,
            is_under_way: bool,
        ) {
            let mut all = targets(&load.iter().map(|(load, _)| *load).collect::<Vec<_>>());
            for (one, (_, is_full)) in all.iter_mut().zip(&load) {
                one.class = if *is_full { FULL } else { READY };
            }
            let before = all.clone();
            let affinity = conversation(session, is_under_way);
            Balance::default().order(&mut all, Some(affinity));
            let mut sorted = all.clone();
            sorted.sort_by_key(|one| one.of);
            prop_assert_eq!(&sorted, &before);
            prop_assert!(all[0].class == READY || all.iter().all(|one| one.class == FULL));
            let least = all.iter().filter(|one| one.class == READY).map(|one| one.in_flight).min();
            if let Some(least) = least {
                prop_assert!(all[0].in_flight <= 2 * least + 8);
            }
        }
    }
}
