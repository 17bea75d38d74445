//! Usage rows: what a settled call leaves behind, and how it reaches the sink.

mod ledger;
mod record;

pub use ledger::Ledger;
pub use record::{CountedBy, Outcome, UsageRecord};
