//! The store through its public face. Each promise is checked on both kinds of databases: on an
//! embedded file, and on a real Postgres server where one is installed.

pub mod bench;
mod budgets;
mod charged;
mod cuts;
mod opening;
mod outages;
mod proxy;
mod random;
mod serving;
mod sums;
mod users;
