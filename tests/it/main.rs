//! The integration tests: one binary, one module per promise, real programs on real sockets.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "tests end with their runtime")]

mod answers;
mod bad_input;
mod bad_wire;
mod bq;
mod calls;
mod check;
mod cloud;
mod codes;
mod counts;
mod cuts;
mod end;
mod expect;
mod fakes;
mod fit;
mod frozen;
mod gcloud_project;
mod gcloud_run;
mod gcloud_secrets;
mod golden;
mod hangups;
mod harness;
mod instance;
mod key_limits;
mod keys_secret;
mod life;
mod limits;
mod metering;
mod models;
mod noise;
mod paths;
mod privacy;
mod private_upstream;
mod raw;
mod routes;
mod rows;
mod secret;
mod smoke;
mod starting;
mod store;
mod tidy;
mod usage;
mod usage_bigquery;
mod waiting;
mod walk;
