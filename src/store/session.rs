//! One operation's use of a connection, to either database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqlitePool};
use sqlx::{SqliteConnection, Transaction};

use super::postgres::{self, Connections, Held};
use super::value::{Row, Value, bind};
use super::{StoreError, sqlite};

/// Which database it is.
pub(super) enum Place {
    Sqlite(SqlitePool, PathBuf),
    Postgres(Box<Connections>),
}

/// A connection until [`Session::end`]. Dropped before, what was written in it is undone.
pub(super) struct Session<'s> {
    link: Link<'s>,
    sent: &'s AtomicU64,
}

enum Link<'s> {
    /// Each statement is on its own.
    Sqlite(PoolConnection<Sqlite>),
    SqliteTransaction(Transaction<'static, Sqlite>),
    Postgres {
        held: Held<'s>,
        is_transaction: bool,
    },
}

impl<'s> Session<'s> {
    /// For one statement.
    pub(super) async fn single(place: &'s Place, sent: &'s AtomicU64) -> Result<Self, StoreError> {
        let link = match place {
            Place::Sqlite(pool, _) => Link::Sqlite(pool.acquire().await?),
            Place::Postgres(connections) => Link::Postgres {
                held: connections.take().await?,
                is_transaction: false,
            },
        };
        Ok(Self { link, sent })
    }

    /// For statements that take effect together.
    pub(super) async fn begin(place: &'s Place, sent: &'s AtomicU64) -> Result<Self, StoreError> {
        count(sent);
        let link = match place {
            Place::Sqlite(pool, _) => {
                Link::SqliteTransaction(pool.begin_with(sqlite::BEGIN).await?)
            }
            Place::Postgres(connections) => {
                let mut held = connections.take().await?;
                held.execute(postgres::BEGIN).await?;
                Link::Postgres {
                    held,
                    is_transaction: true,
                }
            }
        };
        Ok(Self { link, sent })
    }

    /// Runs a statement for its rows.
    pub(super) async fn fetch(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        count(self.sent);
        let connection: &mut SqliteConnection = match &mut self.link {
            Link::Sqlite(connection) => connection,
            Link::SqliteTransaction(transaction) => transaction,
            Link::Postgres { held, .. } => {
                let rows = held.fetch(sql, values).await?;
                return Ok(rows.into_iter().map(Row::Postgres).collect());
            }
        };
        let rows = bind!(sql, values).fetch_all(connection).await?;
        Ok(rows.into_iter().map(Row::Sqlite).collect())
    }

    /// As [`Session::fetch`], of statements that give one row at most.
    pub(super) async fn fetch_one(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(sql, values).await?.pop())
    }

    /// Makes what was written last.
    pub(super) async fn end(self) -> Result<(), StoreError> {
        match self.link {
            Link::Sqlite(_) => Ok(()),
            Link::SqliteTransaction(transaction) => {
                count(self.sent);
                Ok(transaction.commit().await?)
            }
            Link::Postgres {
                mut held,
                is_transaction,
            } => {
                if is_transaction {
                    count(self.sent);
                    held.execute("COMMIT").await?;
                }
                held.keep();
                Ok(())
            }
        }
    }
}

fn count(sent: &AtomicU64) {
    sent.fetch_add(1, Ordering::Relaxed);
}
