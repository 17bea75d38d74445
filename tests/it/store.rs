//! The store through its public face. Each promise is checked on both kinds of databases: on an
//! embedded file, and on a real Postgres server where one is installed.

mod bench;
mod users;
