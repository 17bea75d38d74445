//! The integration tests: one binary, one module per promise, real programs on real sockets.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests end with their runtime")]

mod answers;
mod bad_input;
mod bad_wire;
mod check;
mod codes;
mod expect;
mod fakes;
mod harness;
mod noise;
mod raw;
mod tidy;
mod walk;
