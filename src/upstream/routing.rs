//! Which targets may take a call, and in which order they are tried. Sends nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::balance;
use super::group::{Group, Match, ONLY};
use super::models::{Knowledge, unknown_model};
use super::state::State;
use super::target::Target;
use super::{Affinity, Upstreams};
use crate::config::Fallback;
use crate::error::Error;

/// A target that may take a call.
#[derive(Clone)]
pub struct Candidate {
    pub target: Arc<Target>,
    /// Which of the groups it belongs to.
    pub group: usize,
    /// The name that is looked up there: the one that was asked for, but for a fallback.
    pub name: Option<String>,
}

/// Candidates of one rank share a call's chances; the next rank is for when these have none.
pub type Rank = Vec<Candidate>;

impl Upstreams {
    /// Who may take a call of this model, by what is known: those that serve it, or if nobody is
    /// known to, those whose list is unknown; then their fallbacks. Empty if there is no such model.
    pub(super) fn ranks(&self, name: Option<&str>) -> Vec<Rank> {
        let mut ranks = vec![self.first_rank(name)];
        let mut seen: BTreeSet<usize> = ranks[0].iter().map(|one| one.group).collect();
        let mut next: Vec<usize> = seen.iter().copied().collect();
        while !next.is_empty() {
            let mut found = Vec::new();
            for fallback in next.iter().flat_map(|&group| &self.groups[group].fallback) {
                let rank = self.fallback(fallback, name, &seen);
                seen.extend(rank.iter().map(|one| one.group));
                found.extend(rank.iter().map(|one| one.group));
                if !rank.is_empty() {
                    ranks.push(rank);
                }
            }
            found.dedup();
            next = found;
        }
        ranks.retain(|rank| !rank.is_empty());
        ranks
    }

    /// What a name leads to at one target of a group.
    ///
    /// # Errors
    /// `model_not_found`, against a known list alone.
    pub(super) fn resolve(
        &self,
        group: usize,
        name: Option<&str>,
        known: &Knowledge,
    ) -> Result<Option<String>, Error> {
        match self.groups[group].find(name, known, &self.aliases) {
            // The name itself: whoever listens there knows better.
            Match::Certain(None) | Match::Perhaps(None) => Ok(name.map(str::to_owned)),
            Match::Certain(id) | Match::Perhaps(id) => Ok(id),
            Match::No => Err(unknown_model().param("model")),
        }
    }

    /// The ids that a name can lead to, where that depends on no server.
    pub(super) fn foreseen<'a>(&'a self, name: &'a str) -> Option<Vec<&'a str>> {
        let own = self.groups.iter().map(|group| group.aliases.get(name));
        let all = own.chain([self.aliases.get(name)]).flatten();
        let ids: Vec<&str> = all.map(String::as_str).collect();
        match &ids[..] {
            [] => Some(vec![name]),
            ids if ids.contains(&ONLY) => None,
            _ => Some(ids),
        }
    }

    /// The best first: those that answer, and of these the conversation's own or the least busy.
    pub(super) fn sort(&self, rank: &mut Rank, affinity: Option<Affinity>) {
        if rank.len() < 2 {
            return;
        }
        let stand = |of: Candidate| balance::Candidate {
            name: balance::name(of.target.url()),
            class: class(&of.target),
            in_flight: of.target.in_flight(),
            of,
        };
        let mut all: Vec<_> = rank.drain(..).map(stand).collect();
        self.balance.order(&mut all, affinity);
        rank.extend(all.into_iter().map(|one| one.of));
    }

    fn first_rank(&self, name: Option<&str>) -> Rank {
        let (mut certain, mut perhaps) = (Rank::new(), Rank::new());
        if self.is_ambiguous(name) {
            return certain;
        }
        for (index, group) in self.groups.iter().enumerate() {
            let mut served = Rank::new();
            let mut unknown = Rank::new();
            for target in &group.targets {
                let found = group.find(name, &target.knowledge(), &self.aliases);
                let rank = match found {
                    Match::Certain(_) => &mut served,
                    Match::Perhaps(_) => &mut unknown,
                    Match::No => continue,
                };
                rank.push(Candidate {
                    target: target.clone(),
                    group: index,
                    name: name.map(str::to_owned),
                });
            }
            if served.is_empty() {
                perhaps.append(&mut unknown);
            } else {
                // Its neighbours most likely serve the same.
                certain.append(&mut served);
                certain.append(&mut unknown);
            }
            if name.is_none() && !(certain.is_empty() && perhaps.is_empty()) {
                // Without a name it is the first upstream's.
                break;
            }
        }
        if certain.is_empty() { perhaps } else { certain }
    }

    /// `NAME=*` means the only model there is; with several it means none.
    fn is_ambiguous(&self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            return false;
        };
        let own = |group: &Group| group.aliases.contains_key(name);
        if self.groups.len() < 2
            || self.aliases.get(name).map(String::as_str) != Some(ONLY)
            || self.groups.iter().any(own)
        {
            return false;
        }
        let mut ids = BTreeSet::new();
        for group in &self.groups {
            for target in &group.targets {
                let known = target.knowledge();
                let offered = group.offered(&known).unwrap_or_default();
                ids.extend(offered.into_iter().map(str::to_owned));
            }
        }
        ids.len() > 1 && !ids.contains(name)
    }

    fn fallback(&self, to: &Fallback, name: Option<&str>, seen: &BTreeSet<usize>) -> Rank {
        let (groups, name): (Vec<usize>, Option<String>) = match to {
            Fallback::Upstream(upstream) => {
                let at = self.groups.iter().position(|one| one.name == *upstream);
                let Some(at) = at else {
                    return Rank::new();
                };
                let group = &self.groups[at];
                let has_it = (group.targets.iter()).any(|target| {
                    let found = group.find(name, &target.knowledge(), &self.aliases);
                    matches!(found, Match::Certain(_))
                });
                let there = group.models.first().cloned();
                let name = name.filter(|_| has_it).map(str::to_owned);
                (vec![at], name.or(there))
            }
            Fallback::Model(model) => ((0..self.groups.len()).collect(), Some(model.clone())),
        };
        let mut rank = Rank::new();
        for index in groups.into_iter().filter(|index| !seen.contains(index)) {
            let group = &self.groups[index];
            for target in &group.targets {
                let found = group.find(name.as_deref(), &target.knowledge(), &self.aliases);
                let is_named = matches!(to, Fallback::Upstream(_));
                match found {
                    Match::Certain(_) => {}
                    Match::Perhaps(_) if is_named => {}
                    Match::Perhaps(_) | Match::No => continue,
                }
                rank.push(Candidate {
                    target: target.clone(),
                    group: index,
                    name: name.clone(),
                });
            }
        }
        rank
    }
}

/// How soon a target is tried: the lower the sooner.
fn class(target: &Target) -> u8 {
    let is_here_always = !target.scales_to_zero();
    match target.state() {
        State::Starting | State::Down if is_here_always && target.claim_retry() => {
            balance::READY - 1
        }
        State::Ready if target.is_full() => 6,
        State::Ready if target.is_failing() => 5,
        State::Ready => balance::READY,
        State::Unknown if is_here_always => balance::READY,
        State::Starting => 3,
        State::Unknown | State::Cold if target.is_tried() => 3,
        State::Unknown | State::Cold => 4,
        State::Down => 7,
    }
}
