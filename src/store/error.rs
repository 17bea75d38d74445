//! Why the database could not be used, and what that says of another try.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

/// Why the database could not be used, in words. Holds paths, never a row, a key or a password.
#[derive(Debug)]
pub struct StoreError(pub(super) Fault);

#[derive(Debug)]
pub(super) enum Fault {
    Directory(PathBuf, io::Error),
    File(PathBuf, io::Error),
    Missing(PathBuf),
    Open(PathBuf, sqlx::Error),
    /// The URL or a file that it names cannot be used.
    Url(sqlx::Error),
    Connect(sqlx::Error),
    Statement(sqlx::Error),
    /// No answer in time.
    Late(&'static str),
    /// An exchange that is not the next of its lease, nor the last one again.
    OutOfOrder,
}

/// `SQLSTATE`s of a server that is not itself at the moment: it starts, stops, is full, lost a
/// connection, or is the one that only reads while another takes over.
const PASSING: [&str; 7] = ["08", "40", "53", "55P03", "57", "58", "25006"];
/// Those of a connection that is gone.
const GONE: [&str; 2] = ["08", "57P"];
/// Two transactions hindered one another; one was undone.
const CONFLICTS: [&str; 2] = ["40001", "40P01"];

impl StoreError {
    /// There is no database file yet.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.0, Fault::Missing(_))
    }

    /// Somebody must change something first: a password, a right, a name. False for a server that
    /// is away or full.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match &self.0 {
            Fault::Directory(..)
            | Fault::File(..)
            | Fault::Missing(_)
            | Fault::Open(..)
            | Fault::Url(_)
            | Fault::OutOfOrder => true,
            Fault::Late(_) => false,
            Fault::Connect(cause) | Fault::Statement(cause) => is_permanent(cause),
        }
    }

    /// The exchange neither follows the last one of its lease nor is that one: the database has gone
    /// back in time, and will not take it ever.
    #[must_use]
    pub fn is_out_of_order(&self) -> bool {
        matches!(self.0, Fault::OutOfOrder)
    }

    /// The database is away: the next call may find it.
    pub(super) fn is_outage(&self) -> bool {
        match &self.0 {
            Fault::Connect(_) | Fault::Late(_) => true,
            Fault::Statement(cause) => !is_permanent(cause) && !has_state(cause, &CONFLICTS),
            _ => false,
        }
    }

    /// The connection is gone; on a new one it may be better.
    pub(super) fn is_lost(&self) -> bool {
        match &self.0 {
            Fault::Statement(cause) => is_lost(cause),
            _ => false,
        }
    }

    /// Undone because of another transaction: it may be sent again at once.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(&self.0, Fault::Statement(cause) if has_state(cause, &CONFLICTS))
    }

    pub(super) fn late(what: &'static str) -> Self {
        Self(Fault::Late(what))
    }

    pub(super) fn out_of_order() -> Self {
        Self(Fault::OutOfOrder)
    }

    pub(super) fn open(path: &Path, cause: sqlx::Error) -> Self {
        Self(Fault::Open(path.to_owned(), cause))
    }
}

fn is_lost(cause: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, Protocol, WorkerCrashed};
    matches!(cause, Io(_) | Protocol(_) | WorkerCrashed) || has_state(cause, &GONE)
}

fn is_permanent(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::Migrate(fault) => match &**fault {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
                is_permanent(cause)
            }
            _ => true,
        },
        // `SQLite`'s numbers of a busy file are no `SQLSTATE`s; a file is opened or it is not.
        sqlx::Error::Database(_) => !has_state(cause, &PASSING) && !is_busy(cause),
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => false,
        _ => !is_lost(cause),
    }
}

/// `SQLITE_BUSY` and `SQLITE_LOCKED`, in their extended forms too.
fn is_busy(cause: &sqlx::Error) -> bool {
    let code = cause.as_database_error().and_then(DatabaseError::code);
    let number = code.and_then(|code| code.parse::<u32>().ok());
    // A `SQLSTATE` has five characters, and so have no codes of `SQLite`.
    number.is_some_and(|number| number < 10_000 && matches!(number & 0xff, 5 | 6))
}

fn has_state(cause: &sqlx::Error, prefixes: &[&str]) -> bool {
    let code = cause.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| {
        code.len() == 5 && prefixes.iter().any(|prefix| code.starts_with(prefix))
    })
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
            Fault::Url(_) => f.write_str("the URL of the database cannot be used"),
            Fault::Connect(_) => f.write_str("cannot connect to the database"),
            Fault::Statement(cause) if is_lost(cause) => {
                f.write_str("the connection to the database broke")
            }
            Fault::Statement(_) => f.write_str("the database refused a statement"),
            Fault::Late(what) => f.write_str(what),
            Fault::OutOfOrder => f.write_str("the exchange is not the next one of its lease"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Fault::Directory(_, cause) | Fault::File(_, cause) => Some(cause),
            Fault::Missing(_) | Fault::Late(_) | Fault::OutOfOrder => None,
            Fault::Open(_, cause)
            | Fault::Url(cause)
            | Fault::Connect(cause)
            | Fault::Statement(cause) => Some(match cause {
                // Their words, without the frame around them.
                sqlx::Error::Database(cause) => cause.as_error(),
                sqlx::Error::Io(cause) => cause,
                cause => cause,
            }),
        }
    }
}
