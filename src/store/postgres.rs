//! The few connections of this process to a Postgres server. One is kept only after its last
//! operation came to its end; any other is closed where it stands, for nothing is known of it.
//! sqlx's own pool would ask the server before and after each use, in tasks that nobody owns.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection as _, Executor as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::error::{Fault, StoreError};
use super::migrations;
use super::value::{Value, bind};
use crate::secret::Secret;

/// Connections at once.
const CONNECTIONS: usize = 4;
/// How long it may take to get one.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// A connection that was idle may be dead without a sign: its first answer must come in this time.
const PROOF_WAIT: Duration = Duration::from_millis(1_500);
/// Connections that nobody used for so long are closed: the server has few for all instances.
const IDLE_LIFE: Duration = Duration::from_mins(1);

/// Kept by the server too, so that a statement that was given up here ends there, and a process
/// that stands still in a transaction does not block the others.
const LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "4000"),
    ("lock_timeout", "3000"),
    ("idle_in_transaction_session_timeout", "5000"),
];
/// Others wait at the lock of who migrates.
const MIGRATION_LIMITS: [(&str, &str); 2] =
    [("statement_timeout", "25000"), ("lock_timeout", "25000")];

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Connections to one database, made as they are needed.
pub(super) struct Connections {
    options: PgConnectOptions,
    places: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

impl Connections {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub(super) fn new(url: &Secret<String>) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url
            .expose()
            .parse()
            .map_err(|cause| StoreError(Fault::Url(cause)))?;
        let options = options
            .application_name("tollgate")
            .disable_statement_logging();
        Ok(Self {
            options,
            places: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        })
    }

    /// Brings the tables up to date on a connection of its own, while others wait at a lock.
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = connect(&self.options.clone().options(MIGRATION_LIMITS)).await?;
        migrations::postgres()
            .run_direct(None, &mut connection, false)
            .await
            .map_err(sqlx::Error::from)?;
        // What matters was answered.
        let _ = connection.close().await;
        Ok(())
    }

    /// One that was used before if there is one, else a new one.
    pub(super) async fn take(&self) -> Result<Held<'_>, StoreError> {
        let late = || StoreError::late("all connections to the database are in use");
        let place = timeout(CONNECT_WAIT, self.places.acquire()).await;
        let place = place.map_err(|_| late())?.map_err(|_| late())?;
        let idle = {
            let mut idle = self.lock();
            idle.retain(|kept| kept.since.elapsed() < IDLE_LIFE);
            idle.pop()
        };
        let is_proven = idle.is_none();
        let connection = match idle {
            Some(idle) => idle.connection,
            None => connect(&self.options.clone().options(LIMITS)).await?,
        };
        Ok(Held {
            connection,
            is_proven,
            connections: self,
            _place: place,
        })
    }

    /// Says goodbye to the server on idle connections; those in use close where they stand.
    pub(super) async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *self.lock());
        for kept in idle {
            let _ = kept.connection.close().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match timeout(CONNECT_WAIT, options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(cause)) => Err(StoreError(Fault::Connect(cause))),
        Err(_) => Err(StoreError::late(
            "cannot connect to the database: it did not answer in time",
        )),
    }
}

/// A connection in use. Dropped without [`Held::keep`] it is closed at once: the server ends the
/// transaction that was open on it.
pub(super) struct Held<'c> {
    connection: PgConnection,
    /// It has answered since it was taken, or is new.
    is_proven: bool,
    connections: &'c Connections,
    _place: SemaphorePermit<'c>,
}

impl Held<'_> {
    /// A statement without parameters and rows.
    pub(super) async fn execute(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let limit = self.limit();
        let answer = timeout(limit, self.connection.execute(sql)).await;
        self.judge(answer).map(|_| ())
    }

    pub(super) async fn fetch(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        let limit = self.limit();
        let query = bind!(sql, values);
        let answer = timeout(limit, query.fetch_all(&mut self.connection)).await;
        self.judge(answer)
    }

    /// Keeps the connection for the next.
    pub(super) fn keep(self) {
        self.connections.lock().push(Idle {
            connection: self.connection,
            since: Instant::now(),
        });
    }

    /// The operation as a whole has a deadline.
    fn limit(&self) -> Duration {
        if self.is_proven {
            Duration::MAX
        } else {
            PROOF_WAIT
        }
    }

    fn judge<T>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, StoreError> {
        let was_proven = std::mem::replace(&mut self.is_proven, true);
        let answer = answer.unwrap_or_else(|_| {
            debug_assert!(!was_proven, "only a first answer is timed here");
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        });
        let answer = answer.map_err(StoreError::from);
        if answer.as_ref().is_err_and(StoreError::is_lost) {
            // What broke this one broke those, too.
            self.connections.lock().clear();
        }
        answer
    }
}
