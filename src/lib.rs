//! Tollgate: a gateway in front of vLLM. See ARCHITECTURE.md for the map.

pub mod app;
pub mod auth;
pub mod config;
pub mod error;
pub mod http;
pub mod secret;
pub mod server;
pub mod telemetry;
pub mod usage;
pub mod upstream;
