//! What an account tells the store, when, and what it learns from the answers.

use std::time::Duration;

use super::super::clock::{Moment, Reading};
use super::super::lease::{Ask, Lease};
use super::{Account, Known, Outgoing, slice};
use crate::store::Exchanged;

/// Without a new call for so long, free tokens go back.
const IDLE: Duration = Duration::from_secs(2);
/// With fewer slices left nobody keeps one that no call has asked for lately.
const SHARED: u64 = 10;
/// Settlements of this time reach the store together.
const GATHERED: Duration = Duration::from_millis(400);

/// What is to be told to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::budget) enum Tell {
    /// What is due.
    Due,
    /// All use.
    Use,
    /// Everything, and free tokens go back.
    All,
}

impl Account {
    /// The next exchange that tells the store something; `None` when there is nothing to tell.
    pub fn tell(&mut self, what: Tell, now: &Reading) -> Option<Outgoing> {
        let lease = self
            .leases()
            .find(|lease| self.is_to_tell(lease, what, &now.at))?;
        let ask = Ask {
            returned: self.spare(lease, what, &now.at),
            ..Ask::default()
        };
        let id = lease.id.clone();
        self.send(&id, ask, self.limit, now.at)
    }

    /// Whether there is something to tell.
    pub fn has_more(&self, what: Tell, now: &Moment) -> bool {
        self.leases().any(|lease| self.is_to_tell(lease, what, now))
    }

    /// Whether what is to be told should be told now: the rest may gather for a moment.
    pub fn is_due(&self, now: &Moment) -> bool {
        let is_urgent = |lease: &Lease| {
            let spare = self.spare(lease, Tell::Due, now);
            lease.needs_renewal(now, self.life) || (spare > 0 && spare == lease.free())
        };
        let gathered = |since: Moment| now.since(&since) >= GATHERED;
        self.untold_since.is_some_and(gathered) || self.leases().any(is_urgent)
    }

    /// The answer to an exchange.
    pub fn answered(&mut self, outgoing: &Outgoing, answer: &Exchanged, now: &Reading) {
        let exchange = &outgoing.exchange;
        let is_its = |lease: &Lease| lease.is_named(&exchange.lease);
        let is_current = self.current.as_ref().is_some_and(is_its);
        let mut leases = self.former.iter_mut().chain(&mut self.current);
        let Some(lease) = leases.find(|lease| is_its(lease)) else {
            return;
        };
        lease.answered(answer);
        let span = lease.span;
        if is_current || self.known.is_some_and(|known| known.span == span) {
            self.known = Some(Known {
                span,
                limit: exchange.limit,
                used: answer.used,
                leased: answer.leased,
                now_ms: answer.now_ms,
                at: now.at,
                exchange: outgoing.count,
            });
        }
        if is_current && answer.is_charged {
            self.former.extend(self.current.take());
        }
        self.tidy(now.at);
    }

    /// The store will never take this exchange, nor another of its lease.
    pub fn forsake(&mut self, outgoing: &Outgoing) {
        let is_its = |lease: &Lease| lease.is_named(&outgoing.exchange.lease);
        let current = self.current.take_if(|current| is_its(current));
        self.former.extend(current);
        if let Some(lease) = self.former.iter_mut().find(|lease| is_its(lease)) {
            lease.forsake();
        }
    }

    /// Forgets leases that are over; true if nothing is left of the account.
    pub fn tidy(&mut self, now: Moment) -> bool {
        self.former.retain(|lease| !lease.is_over());
        let is_idle = self.is_idle(&now);
        self.current.take_if(|current| is_idle && current.is_over());
        if self.has_more(Tell::Due, &now) {
            self.untold_since.get_or_insert(now);
        } else {
            self.untold_since = None;
        }
        is_idle && self.former.is_empty() && self.current.is_none()
    }

    fn is_idle(&self, now: &Moment) -> bool {
        self.admitted
            .is_none_or(|admitted| now.since(&admitted) >= IDLE)
    }

    /// No call has come for a while, and none is in flight or others may soon want for tokens.
    fn is_unneeded(&self, lease: &Lease, limit: u64, now: &Moment) -> bool {
        let may_stay = lease.is_in_use() && !self.is_scarce(lease.span, limit, SHARED);
        self.is_idle(now) && !may_stay
    }

    fn is_to_tell(&self, lease: &Lease, what: Tell, now: &Moment) -> bool {
        lease.is_under_way()
            || lease.has_use()
            || self.spare(lease, what, now) > 0
            || (what == Tell::Due && lease.needs_renewal(now, self.life))
    }

    /// Free tokens of a lease that are to go back.
    fn spare(&self, lease: &Lease, what: Tell, now: &Moment) -> u64 {
        let is_current = self
            .current
            .as_ref()
            .is_some_and(|current| current.id == lease.id);
        let limit = self.limit.unwrap_or(0);
        let kept = if what == Tell::All || !is_current || !self.is_leasing {
            0
        } else if self.is_scarce(lease.span, limit, 1) || self.is_unneeded(lease, limit, now) {
            self.claimed
        } else {
            slice(limit).max(self.claimed)
        };
        lease.free().saturating_sub(kept)
    }
}
