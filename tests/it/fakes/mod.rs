//! Servers that stand in for what the gateway talks to, and the data they answer from.

pub mod engine;
pub mod golden;
pub mod google;
pub mod link;
pub mod model_server;
pub mod postgres;
pub mod raw;
mod tests;
pub mod wire;
