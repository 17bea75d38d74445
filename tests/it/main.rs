//! Integration tests: real programs on real sockets.
#![cfg(test)]

mod fakes;
