//! Tollgate: a gateway in front of vLLM. See ARCHITECTURE.md for the map.

#![cfg_attr(
    test,
    expect(
        clippy::disallowed_methods,
        clippy::too_many_lines,
        reason = "tests end with their runtime, and a table of cases may be long"
    )
)]

pub mod app;
pub mod auth;
pub mod budget;
pub mod cli;
pub mod config;
pub mod error;
pub mod google;
pub mod http;
pub mod secret;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod usage;
