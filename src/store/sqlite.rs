//! The embedded database: one file, one connection. `SQLite` takes one writer at a time, and with
//! two connections each would wait for the other by looking again and again.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::error::{Fault, StoreError};
use super::migrations;

/// How long a statement waits for another process's write.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long a call waits for the connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// Processes that make the same new file hinder each other; a second look finds it made.
const OPEN_ATTEMPTS: u32 = 3;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Takes the one lock for writers at once. A transaction that begins by reading and goes on to write
/// would be refused if another process wrote in between.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// Opens the file for writing, makes it (and its directory) if missing, and brings its tables up
/// to date. A new file is readable by its owner alone.
pub(super) async fn open(path: &Path) -> Result<SqlitePool, StoreError> {
    create(path)?;
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let mut attempt = 1;
    loop {
        match connect_and_migrate(options.clone()).await {
            Ok(pool) => return Ok(pool),
            Err(_) if attempt < OPEN_ATTEMPTS => attempt += 1,
            Err(cause) => return Err(StoreError::open(path, cause)),
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

/// Opens the file for reading, beside a gateway that may be writing it.
pub(super) async fn open_read_only(path: &Path) -> Result<SqlitePool, StoreError> {
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(StoreError(Fault::Missing(path.to_owned()))),
        Err(cause) => return Err(StoreError(Fault::File(path.to_owned(), cause))),
    }
    let opened = connect(options(path).read_only(true)).await;
    opened.map_err(|cause| StoreError::open(path, cause))
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

async fn connect_and_migrate(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let pool = connect(options).await?;
    let migrated = async {
        // sqlx locks nothing here: without this two processes may apply the same migration.
        let mut lock = pool.begin_with(BEGIN).await?;
        migrations::sqlite()
            .run_direct(None, &mut *lock, false)
            .await?;
        lock.commit().await
    };
    match migrated.await {
        Ok(()) => Ok(pool),
        Err(cause) => {
            pool.close().await;
            Err(cause)
        }
    }
}
