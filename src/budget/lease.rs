//! One lease in memory: how many tokens it holds, what of them is reserved and spent, and what the
//! store was told. Pure; knows neither budgets nor why somebody wants tokens.
//!
//! Always: spent + reserved <= tokens. What an exchange carries has left the lease when the exchange
//! is made, and the exchange is kept until it is answered: a lost answer is asked for again with
//! the same number and the same figures.

use std::sync::Arc;
use std::time::Duration;

use super::clock::{Moment, Span};
use crate::store::{DayUse, Exchange, Exchanged};

/// This long before its end nothing is admitted on a lease any more.
const LAST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Lease {
    pub id: Arc<str>,
    /// The store's name for it: its id, unless it was forsaken.
    name: Arc<str>,
    pub span: Span,
    /// Of the last exchange, from 1.
    number: i64,
    /// Leased and not yet told to be spent or returned.
    tokens: u64,
    reserved: u64,
    spent: u64,
    /// Used beside the lease.
    unleased: u64,
    days: Vec<DayUse>,
    /// Calls that have not settled.
    calls: u64,
    /// Calls that were given a number, as they hold leased tokens.
    numbered: u64,
    /// When the last answered exchange was sent.
    renewed: Option<Moment>,
    is_charged: bool,
    /// The store does not know it as we do: what its calls use is told beside it.
    is_forsaken: bool,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    exchange: Arc<Exchange>,
    /// For the first time.
    sent: Moment,
}

/// An ended call, as a lease counts it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What it had reserved of the lease.
    pub reserved: u64,
    /// Spent of that.
    pub spent: u64,
    /// Used beside the lease.
    pub unleased: u64,
    pub day: DayUse,
}

/// What an exchange is to ask for, beside telling all there is to tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ask {
    pub returned: u64,
    pub least: u64,
    pub most: u64,
}

impl Lease {
    pub fn new(span: Span) -> Self {
        let id = new_name();
        Self {
            name: id.clone(),
            id,
            span,
            number: 0,
            tokens: 0,
            reserved: 0,
            spent: 0,
            unleased: 0,
            days: Vec::new(),
            calls: 0,
            numbered: 0,
            renewed: None,
            is_charged: false,
            is_forsaken: false,
            under_way: None,
        }
    }

    pub fn free(&self) -> u64 {
        self.tokens.saturating_sub(self.reserved + self.spent)
    }

    /// Tokens that the store counts as leased to us, as far as we know.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Tokens used and not yet known to be told.
    pub fn untold(&self) -> u64 {
        let carried = self.under_way.as_ref().map_or(0, |under_way| {
            let exchange = &under_way.exchange;
            exchange.spent.saturating_add(exchange.unleased)
        });
        self.spent
            .saturating_add(self.unleased)
            .saturating_add(carried)
    }

    /// Use that the store's count lacks for certain.
    pub fn uncounted(&self) -> u64 {
        let spent = if self.is_charged { 0 } else { self.spent };
        spent.saturating_add(self.unleased)
    }

    pub fn is_in_use(&self) -> bool {
        self.calls > 0
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether there is use to tell.
    pub fn has_use(&self) -> bool {
        self.spent > 0 || self.unleased > 0 || !self.days.is_empty()
    }

    /// Nothing of it is left here nor at the store.
    pub fn is_over(&self) -> bool {
        self.calls == 0 && self.tokens == 0 && !self.has_use() && self.under_way.is_none()
    }

    /// Whether calls may be admitted on it.
    pub fn is_usable(&self, now: &Moment, life: Duration) -> bool {
        let in_time = |renewed: &Moment| now.since(renewed) + LAST < life;
        !self.is_charged && self.renewed.as_ref().is_some_and(in_time)
    }

    /// Whether it would end under its calls if nobody spoke for it.
    pub fn needs_renewal(&self, now: &Moment, life: Duration) -> bool {
        let aged = |renewed: &Moment| now.since(renewed) >= life / 3;
        let renewed = self.renewed.as_ref();
        !self.is_charged && self.calls > 0 && self.tokens > 0 && renewed.is_some_and(aged)
    }

    /// Holds free tokens for a call.
    pub fn hold(&mut self, tokens: u64) {
        self.reserved += tokens;
        self.calls += 1;
    }

    /// The next number for a call that holds tokens.
    pub fn number_call(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// A call begins whose use is only counted.
    pub fn begin_unleased(&mut self) {
        self.calls += 1;
    }

    /// A call was none.
    pub fn release(&mut self, reserved: u64) {
        self.calls = self.calls.saturating_sub(1);
        self.reserved = self.reserved.saturating_sub(reserved);
        if self.is_forsaken {
            self.tokens = self.reserved;
        }
    }

    pub fn end(&mut self, ended: &Ended) {
        self.release(ended.reserved);
        self.use_beside(ended.unleased);
        if self.is_forsaken {
            self.use_beside(ended.spent);
        } else {
            self.spent += ended.spent;
        }
        self.add_day(ended.day);
    }

    /// The store will take no more exchanges of it, and charges it whole when it ends. By then it may
    /// be another lease than ours, so use counts once more, under a new name.
    pub fn forsake(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            let exchange = &under_way.exchange;
            self.use_beside(exchange.spent);
            self.use_beside(exchange.unleased);
            for day in &exchange.days {
                self.add_day(*day);
            }
        }
        let spent = std::mem::take(&mut self.spent);
        self.use_beside(spent);
        self.tokens = self.reserved;
        self.name = new_name();
        self.number = 0;
        self.renewed = None;
        self.is_charged = true;
        self.is_forsaken = true;
    }

    pub fn is_named(&self, name: &str) -> bool {
        *self.name == *name
    }

    /// An upstream may count whatever it likes; a sum that would not fit stays at the highest number.
    fn use_beside(&mut self, tokens: u64) {
        self.unleased = self.unleased.saturating_add(tokens);
    }

    fn add_day(&mut self, day: DayUse) {
        match self.days.iter_mut().find(|sum| sum.day_ms == day.day_ms) {
            None => self.days.push(day),
            Some(sum) => {
                sum.requests += day.requests;
                sum.prompt_tokens = sum.prompt_tokens.saturating_add(day.prompt_tokens);
                sum.completion_tokens = sum.completion_tokens.saturating_add(day.completion_tokens);
            }
        }
    }

    /// The exchange to send now: the one whose answer is missing, or a new one. The returned tokens
    /// must be free.
    pub fn exchange(&mut self, party: &Party<'_>, ask: Ask, now: Moment) -> Arc<Exchange> {
        if let Some(under_way) = &self.under_way {
            return under_way.exchange.clone();
        }
        self.number += 1;
        let returned = ask.returned.min(self.free());
        let exchange = Arc::new(Exchange {
            owner: party.owner.to_owned(),
            period_start_ms: self.span.start_ms,
            period_end_ms: self.span.end_ms,
            limit: party.limit,
            lease: self.name.to_string(),
            number: self.number,
            spent: std::mem::take(&mut self.spent),
            returned,
            unleased: std::mem::take(&mut self.unleased),
            days: std::mem::take(&mut self.days),
            least: ask.least,
            most: ask.most,
            life_ms: i64::try_from(party.life.as_millis()).unwrap_or(i64::MAX),
        });
        self.tokens = self.tokens.saturating_sub(exchange.spent + returned);
        self.under_way = Some(UnderWay {
            exchange: exchange.clone(),
            sent: now,
        });
        exchange
    }

    /// What must always hold.
    #[cfg(test)]
    pub fn is_sound(&self) -> bool {
        self.spent + self.reserved <= self.tokens
    }

    /// The answer to the exchange under way.
    pub fn answered(&mut self, answer: &Exchanged) {
        if let Some(under_way) = self.under_way.take() {
            self.tokens += answer.granted;
            self.is_charged |= answer.is_charged;
            self.renewed = Some(under_way.sent);
        }
    }
}

fn new_name() -> Arc<str> {
    uuid::Uuid::now_v7().simple().to_string().into()
}

/// Whose exchanges these are.
pub(super) struct Party<'a> {
    pub owner: &'a str,
    pub limit: Option<u64>,
    pub life: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_beyond_all_numbers_stays_at_the_highest() {
        let mut lease = Lease::new(Span {
            start_ms: 0,
            end_ms: None,
        });
        for _ in 0..2 {
            lease.begin_unleased();
            lease.end(&Ended {
                reserved: 0,
                spent: 0,
                unleased: u64::MAX,
                day: DayUse {
                    day_ms: 0,
                    requests: 1,
                    prompt_tokens: u64::MAX,
                    completion_tokens: u64::MAX,
                },
            });
        }
        assert_eq!((lease.untold(), lease.uncounted()), (u64::MAX, u64::MAX));
        let [day] = lease.days[..] else {
            panic!("{:?}", lease.days)
        };
        assert_eq!((day.requests, day.prompt_tokens), (2, u64::MAX));
    }
}
