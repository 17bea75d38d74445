//! Token budgets and limits per minute: what a principal may use, and what it has in hand. Knows
//! nothing of HTTP, of upstreams, nor of who a principal is.

mod allowance;
mod charge;
mod ledger;
mod minute;

pub use allowance::{Allowance, Period};
pub use charge::{Ending, Known, charge};
pub use ledger::{Budgets, Need, Refused, Reservation, Slip, Standing, Used};
pub use minute::{MinuteLimits, MinuteShare};
