//! Usage rows: what a settled call leaves behind, and how it reaches the sink. Knows nothing of HTTP.

mod ledger;
mod record;
mod row;
mod table;

pub use ledger::{Attempts, Ledger, LedgerStats};
pub use record::{Charged, CountedBy, Outcome, UsageRecord};
pub use table::table;
