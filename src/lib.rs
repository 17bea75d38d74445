//! Tollgate: a gateway in front of vLLM. See ARCHITECTURE.md for the map.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod secret;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod usage;
