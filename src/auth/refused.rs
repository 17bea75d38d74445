//! Hashes that were refused a moment ago, so that a repeated wrong key is refused at once. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::key::KeyHash;

const REMEMBERED: Duration = Duration::from_secs(5);
const MOST: usize = 4_096;

/// The refused hashes of the last seconds; bounded.
#[derive(Default)]
pub(super) struct Refused {
    since: HashMap<KeyHash, Instant>,
}

impl Refused {
    pub fn holds(&self, hash: &KeyHash, now: Instant) -> bool {
        self.since
            .get(hash)
            .is_some_and(|since| now.duration_since(*since) < REMEMBERED)
    }

    /// Remembers a hash. A full map keeps what it has: the hash that finds no room waits for the
    /// next refresh once more, which is slower and not wrong.
    pub fn insert(&mut self, hash: KeyHash, now: Instant) {
        if self.since.len() >= MOST {
            self.since
                .retain(|_, since| now.duration_since(*since) < REMEMBERED);
        }
        if self.since.len() < MOST {
            self.since.insert(hash, now);
        }
    }

    /// Forgets all: a newer set may hold them.
    pub fn clear(&mut self) {
        self.since.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_remembered_for_five_seconds_and_the_map_stays_bounded() {
        let start = Instant::now();
        let mut refused = Refused::default();
        let hash = |n: usize| KeyHash::of(&n.to_string());
        for n in 0..=MOST {
            refused.insert(hash(n), start);
        }
        assert_eq!(refused.since.len(), MOST);
        assert!(refused.holds(&hash(0), start + REMEMBERED / 2));
        assert!(!refused.holds(&hash(0), start + REMEMBERED));
        assert!(!refused.holds(&hash(MOST), start));
        refused.insert(hash(MOST), start + REMEMBERED);
        assert!(refused.holds(&hash(MOST), start + REMEMBERED));
        assert_eq!(refused.since.len(), 1);
    }
}
