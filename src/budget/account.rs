//! One owner's budget in this instance: the lease that calls are admitted on, former ones that still
//! have something to settle, and what is known of the whole. Pure: it decides, others wait and send.
//!
//! | what happens | tokens of the lease | told to the store |
//! | --- | --- | --- |
//! | admitted | free -> reserved | nothing |
//! | settled below the reservation | charge -> spent, rest -> free | spent, within a second |
//! | more used than reserved (a fault of the bound) | reservation -> spent | the excess as used without a lease |
//! | dropped without word | reserved -> spent | spent |
//! | withdrawn | reserved -> free | nothing |
//! | lease charged (it expired at the store) | as above, nothing more is admitted | what is free is credited |
//! | period over | as above, nothing more is admitted | in its own period |
//! | answer of an exchange lost | what it carried stays out | the same exchange again |
//! | process killed | gone | nothing: the store charges the whole lease when it expires |
//!
//! In each line the engine's use is at most spent + reserved, and that is at most what the store
//! counts as used or leased.

mod standing;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use super::clock::{Moment, Reading, Span};
use super::lease::{Ask, Ended, Lease, Party};
use super::{Allowance, Need, Period};
use crate::store::Exchange;

pub(in crate::budget) use self::telling::Tell;

/// How long an answer without tokens, or with the last ones, speaks for the store.
const REMEMBERED: Duration = Duration::from_millis(250);
/// A lease is of at most the fiftieth part of the limit, unless a call needs more.
const SLICES: u64 = 50;
/// In the last part of a period the store says which period it is.
const LAST_MS: i64 = 1_000;

#[derive(Debug)]
pub(super) struct Account {
    owner: Arc<str>,
    life: Duration,
    limit: Option<u64>,
    is_leasing: bool,
    current: Option<Lease>,
    former: Vec<Lease>,
    known: Option<Known>,
    /// Free tokens that the first of those who wait shall have.
    claimed: u64,
    /// Exchanges made so far.
    exchanges: u64,
    admitted: Option<Moment>,
    /// Since when there is something to tell.
    untold_since: Option<Moment>,
}

/// How the whole budget stood at the last answer.
#[derive(Clone, Copy, Debug)]
struct Known {
    span: Span,
    limit: Option<u64>,
    used: u64,
    leased: u64,
    now_ms: i64,
    /// When the answer came, and to which exchange.
    at: Moment,
    exchange: u64,
}

impl Known {
    /// Tokens that the store could lease.
    fn room(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.taken())
    }

    /// Used or leased.
    fn taken(&self) -> u64 {
        self.used.saturating_add(self.leased)
    }
}

/// What a call wants of a limited budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub need: Need,
    pub limit: u64,
    pub period: Period,
    /// The account's exchanges when the call came.
    pub after: u64,
}

/// How it stands for a call that wants tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// These can be had at once.
    Free(u64),
    /// The store must be asked.
    Ask,
    /// Settled use leaves no room.
    UsedUp { used: u64, start_ms: i64 },
    /// Reservations and leases stand in the way; the store is to be asked after this time.
    Wait(Duration),
}

/// Tokens held for a call.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub lease: Arc<str>,
    pub tokens: u64,
    /// Of the lease; else the tokens are only counted.
    pub is_leased: bool,
    pub day_ms: i64,
}

/// An exchange to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub exchange: Arc<Exchange>,
    /// Which of the account's.
    count: u64,
}

impl Account {
    pub fn new(owner: Arc<str>, life: Duration) -> Self {
        Self {
            owner,
            life,
            limit: None,
            is_leasing: false,
            current: None,
            former: Vec::new(),
            known: None,
            claimed: 0,
            exchanges: 0,
            admitted: None,
            untold_since: None,
        }
    }

    /// A call comes, with what is allowed now.
    pub fn adopt(&mut self, allowance: &Allowance) {
        self.limit = allowance.limit;
        self.is_leasing = allowance.limit.is_some() && !allowance.dry_run;
    }

    /// Whether a limit is only watched.
    pub fn is_dry(&self) -> bool {
        self.limit.is_some() && !self.is_leasing
    }

    /// Leases with something left of them.
    pub fn count_leases(&self) -> usize {
        self.leases().count()
    }

    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Whether the first who waits must be served before others.
    pub fn is_claimed(&self) -> bool {
        self.claimed > 0
    }

    pub fn claim(&mut self, tokens: u64) {
        self.claimed = tokens;
    }

    /// Takes all that a call wants from what is in hand and not claimed by one that waits.
    pub fn take(&mut self, want: &Want, now: &Reading) -> Option<Hold> {
        let free = self.usable_free(want, now)?.saturating_sub(self.claimed);
        (free >= want.need.most).then(|| self.hold(want.need.most, now))?
    }

    /// How it stands for the first who waits.
    pub fn look(&self, want: &Want, now: &Reading) -> Look {
        let usable = self.usable_free(want, now);
        let free = usable.unwrap_or(0);
        if usable.is_some() && free >= want.need.most {
            return Look::Free(want.need.most);
        }
        let span = now.span(want.period);
        let Some(known) = self.known.filter(|known| {
            known.span == span
                && known.limit == Some(want.limit)
                && now.at.since(&known.at) < REMEMBERED
        }) else {
            return Look::Ask;
        };
        let room = known.room(want.limit);
        if free >= want.need.least && room < slice(want.limit) {
            return Look::Free(free);
        }
        let used = known.used.saturating_add(self.uncounted(span));
        if want.limit.saturating_sub(used) < want.need.least {
            let start_ms = span.start_ms;
            return Look::UsedUp { used, start_ms };
        }
        if room.saturating_add(self.free_in(span)) >= want.need.least {
            return Look::Ask;
        }
        Look::Wait(REMEMBERED.saturating_sub(now.at.since(&known.at)))
    }

    /// Holds free tokens of the current lease for a call.
    pub fn hold(&mut self, tokens: u64, now: &Reading) -> Option<Hold> {
        let lease = self.current.as_mut()?;
        self.admitted = Some(now.at);
        lease.hold(tokens);
        Some(Hold {
            lease: lease.id.clone(),
            tokens,
            is_leased: true,
            day_ms: now.day_ms(),
        })
    }

    /// Begins a call whose use is only counted.
    pub fn count(&mut self, tokens: u64, period: Period, now: &Reading) -> Hold {
        self.admitted = Some(now.at);
        let lease = self.lease_of(now.span(period));
        lease.begin_unleased();
        Hold {
            lease: lease.id.clone(),
            tokens,
            is_leased: false,
            day_ms: now.day_ms(),
        }
    }

    /// Gives a call on leased tokens its number.
    pub fn number(&mut self, hold: &Hold) -> Option<u64> {
        let lease = self.find(&hold.lease).filter(|_| hold.is_leased)?;
        Some(lease.number_call())
    }

    /// A call was none.
    pub fn release(&mut self, hold: &Hold, now: Moment) {
        let reserved = if hold.is_leased { hold.tokens } else { 0 };
        if let Some(lease) = self.find(&hold.lease) {
            lease.release(reserved);
        }
        self.untold_since.get_or_insert(now);
    }

    /// A call has ended.
    pub fn end(&mut self, lease: &str, ended: &Ended, now: Moment) {
        if let Some(lease) = self.find(lease) {
            lease.end(ended);
        }
        self.untold_since.get_or_insert(now);
    }

    /// The exchange that gets a call what it wants.
    pub fn ask(&mut self, want: &Want, now: &Reading) -> Option<Outgoing> {
        let span = now.span(want.period);
        let is_scarce = self.is_scarce(span, want.limit, 1);
        let Need { least, most } = want.need;
        let lease = self.lease_of(span);
        let free = lease.free();
        let ask = if is_scarce {
            // Nobody hoards: what is in hand goes back, and comes again if it is enough.
            let returned = free;
            Ask {
                returned,
                least,
                most,
            }
        } else if free >= most {
            Ask::default()
        } else {
            Ask {
                returned: 0,
                least: least.saturating_sub(free).max(1),
                most: (most - free).max(slice(want.limit)),
            }
        };
        let id = lease.id.clone();
        self.send(&id, ask, Some(want.limit), now.at)
    }

    /// Free tokens that calls may be admitted on now; `None` if none may be.
    fn usable_free(&self, want: &Want, now: &Reading) -> Option<u64> {
        let span = now.span(want.period);
        let lease = self.current.as_ref()?;
        let known = self.known?;
        let is_certain = span
            .end_ms
            .is_none_or(|end_ms| now.latest_ms < end_ms - LAST_MS)
            || (known.exchange > want.after && span.holds(known.now_ms));
        let may = lease.span == span
            && known.span == span
            && known.limit == Some(want.limit)
            // Else the limit was lowered: what is in hand goes back first.
            && known.taken() <= want.limit
            && is_certain
            && lease.is_usable(&now.at, self.life);
        may.then(|| lease.free())
    }

    fn free_in(&self, span: Span) -> u64 {
        let current = self.current.as_ref().filter(|lease| lease.span == span);
        current.map_or(0, Lease::free)
    }

    fn uncounted(&self, span: Span) -> u64 {
        let leases = self.leases().filter(|lease| lease.span == span);
        leases.map(Lease::uncounted).fold(0, u64::saturating_add)
    }

    /// The store has less to lease than so many slices.
    fn is_scarce(&self, span: Span, limit: u64, slices: u64) -> bool {
        let known = self.known.filter(|known| known.span == span);
        known.is_some_and(|known| known.room(limit) < slice(limit).saturating_mul(slices))
    }

    /// The lease for calls of this period, without tokens if it is new.
    fn lease_of(&mut self, span: Span) -> &mut Lease {
        if self
            .current
            .as_ref()
            .is_some_and(|lease| lease.span != span)
        {
            self.former.extend(self.current.take());
        }
        self.current.get_or_insert_with(|| Lease::new(span))
    }

    /// The former ones first.
    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.former.iter().chain(&self.current)
    }

    fn find(&mut self, id: &str) -> Option<&mut Lease> {
        let mut leases = self.former.iter_mut().chain(&mut self.current);
        leases.find(|lease| *lease.id == *id)
    }

    fn send(&mut self, id: &str, ask: Ask, limit: Option<u64>, now: Moment) -> Option<Outgoing> {
        self.exchanges += 1;
        self.untold_since.get_or_insert(now);
        let count = self.exchanges;
        let owner = self.owner.clone();
        let party = Party {
            owner: &owner,
            limit,
            life: self.life,
        };
        let exchange = self.find(id)?.exchange(&party, ask, now);
        Some(Outgoing { exchange, count })
    }
}

/// The most that is leased beyond what calls need.
fn slice(limit: u64) -> u64 {
    (limit / SLICES).max(1)
}

#[cfg(test)]
mod tests;
