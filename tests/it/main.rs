//! The integration tests: one binary, one module per promise.
#![cfg(test)]

mod check;
mod tidy;
