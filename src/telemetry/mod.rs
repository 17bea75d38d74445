//! Log lines and metrics. Must not know where they are read, nor decide anything by them.

pub mod log;
pub mod metrics;
mod process;
