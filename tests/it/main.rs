//! The integration tests: one binary, one module per promise, real programs on real sockets.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests end with their runtime")]

mod calls;
mod check;
mod counts;
mod cuts;
mod fakes;
mod fit;
mod golden;
mod hangups;
mod harness;
mod metering;
mod starting;
mod tidy;
mod usage;
mod waiting;
mod walk;
