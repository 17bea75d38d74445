//! The integration tests: one binary, one module per promise, real programs on real sockets.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests end with their runtime")]

mod check;
mod fakes;
mod harness;
mod tidy;
mod walk;
