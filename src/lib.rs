//! Tollgate: a gateway in front of vLLM. See ARCHITECTURE.md for the map.

pub mod auth;
pub mod cli;
pub mod config;
pub mod error;
pub mod secret;
pub mod telemetry;
pub mod usage;
