//! Token budgets and limits per minute: what a principal may use, and what it has in hand. Knows
//! nothing of HTTP, of upstreams, nor of who a principal is.

mod account;
mod allowance;
mod books;
mod charge;
mod clock;
mod entry;
mod lease;
mod ledger;
mod minute;
#[cfg(test)]
mod model;
mod reservation;

pub use allowance::{Allowance, Period};
pub use books::Silent;
pub use charge::{Ending, Known, Pace, charge};
pub use ledger::{Budgets, Need, Refused, Status};
pub use minute::{MinuteLimits, MinuteShare};
pub use reservation::{Reservation, Slip, Standing, Used};
