//! Users, budgets and the embedded usage table: `SQLite` in one file, or Postgres shared by all
//! instances. All SQL is here, in constants, the same text for both. Knows nothing of HTTP and
//! nothing of what a row means to a client.

mod budgets;
mod charged;
mod error;
mod lease;
mod locked;
mod migrations;
mod postgres;
mod refresh;
mod session;
mod sqlite;
mod standing;
mod usage_table;
mod users;
mod value;

pub use budgets::{BudgetUse, DayUse, Exchange, Exchanged};
pub use charged::ChargedLease;
pub use error::StoreError;
pub use refresh::{NewRefresh, Refreshed};
pub use standing::State;
pub use usage_table::{Grouping, Totals, UsageTable};
pub use users::{KeyRow, NewKey, NewUser, UserRow};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::postgres::Connections;
use self::session::{Place, Session};
use self::standing::Standing;
use self::value::{Row, Value};
use crate::config::Database;

/// Name of the database file in the data directory.
pub const FILE_NAME: &str = "tollgate.db";

/// How long an operation may take, with all its attempts.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long preparing the database may take: others may be at it.
const PREPARE_WAIT: Duration = Duration::from_secs(30);
/// How long a file may take to be closed, or a server to hear the goodbye.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Attempts after transactions that hindered one another, and after a connection that broke.
const CONFLICT_RETRIES: u32 = 3;
const LOST_RETRIES: u32 = 1;

const NOW: &str = "SELECT now_ms FROM clock";
const ADD_SETTING: &str =
    "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
const SETTING: &str = "SELECT value FROM settings WHERE name = $1";
const MAC_KEY: &str = "user_key_mac";

/// The database of users and budgets.
///
/// Every operation ends within five seconds, its attempts and the way to a connection included. One
/// that is given up takes no effect, unless it was its very last step whose answer got lost.
pub struct Store {
    place: Place,
    /// Set once the tables are up to date.
    mac_key: OnceCell<[u8; 32]>,
    standing: Standing,
    statements: AtomicU64,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Store {
    /// Opens the database and brings its tables up to date, under a lock; `None` where there is
    /// to be none. A server that is away is no error: each operation tries to reach it.
    ///
    /// # Errors
    /// When it cannot be opened, or belongs to something else.
    pub async fn open(database: &Database) -> Result<Option<Self>, StoreError> {
        let store = match database {
            Database::None => return Ok(None),
            Database::Sqlite(path) => {
                let pool = sqlite::open(path).await?;
                Self::new(Place::Sqlite(pool, path.clone()))
            }
            Database::Postgres(url) => {
                let connections = Connections::new(url)?;
                Self::new(Place::Postgres(Box::new(connections)))
            }
        };
        match store.prepare().await {
            Err(cause) if cause.is_permanent() => Err(cause),
            // What was not known is noted, and told of.
            _ => Ok(Some(store)),
        }
    }

    /// Whether a server lets this process in. Nothing is made or changed there, nor in a file.
    ///
    /// # Errors
    /// When it does not.
    pub async fn probe(database: &Database) -> Result<(), StoreError> {
        if let Database::Postgres(url) = database {
            let connections = Connections::new(url)?;
            connections.take().await?.keep();
            connections.close().await;
        }
        Ok(())
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            mac_key: OnceCell::new(),
            standing: Standing::default(),
            statements: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// What is known of the database, without asking.
    #[must_use]
    pub fn state(&self) -> State {
        self.standing.state()
    }

    /// Whether it has answered since the process started.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.mac_key.initialized()
    }

    /// Asks a database that did not answer, beside: at most once a second, and once at a time.
    pub fn ask_beside(self: &Arc<Self>) {
        if self.tasks.is_empty() && !self.tasks.is_closed() && self.standing.may_ask() {
            let store = self.clone();
            self.tasks.spawn(async move {
                let asking = async {
                    // The outcomes are noted.
                    if store.prepare().await.is_ok() {
                        let _ = store.read(NOW, &[]).await;
                    }
                };
                store.closing.run_until_cancelled(asking).await;
            });
        }
    }

    /// Statements sent so far, for the metrics.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// 32 random bytes, the same for everybody who uses this database: keys of users carry a MAC
    /// made with it. Asks the database until it answered once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mac_key(&self) -> Result<[u8; 32], StoreError> {
        match self.known_mac_key() {
            Some(key) => Ok(key),
            None => self.operate(|| self.read_mac_key()).await,
        }
    }

    /// As [`Store::mac_key`], asking nobody; `None` until the database answered once.
    #[must_use]
    pub fn known_mac_key(&self) -> Option<[u8; 32]> {
        self.mac_key.get().copied()
    }

    /// Ends what is under way and closes the connections.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let closing = async {
            match &self.place {
                Place::Sqlite(pool, _) => pool.close().await,
                Place::Postgres(connections) => connections.close().await,
            }
        };
        // Late or not, nothing is lost.
        let _ = timeout(CLOSE_WAIT, closing).await;
    }
}

impl Store {
    /// Runs an operation with as many attempts as are worth it, within its deadline. All operations
    /// may be sent again: a second time changes nothing more.
    async fn operate<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let work = async {
            self.prepared().await?;
            let (mut conflicts, mut losses) = (0, 0);
            loop {
                match attempt().await {
                    Err(cause) if cause.is_conflict() && conflicts < CONFLICT_RETRIES => {
                        conflicts += 1;
                    }
                    Err(cause) if cause.is_lost() && losses < LOST_RETRIES => losses += 1,
                    outcome => return outcome,
                }
            }
        };
        let watch = self.standing.watch();
        let late = || Err(StoreError::late("the database did not answer in time"));
        let outcome = timeout(DEADLINE, Box::pin(work)).await;
        let outcome = outcome.unwrap_or_else(|_| late());
        watch.end(&outcome);
        outcome
    }

    /// One statement, for its rows.
    async fn read(&self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.operate(|| async {
            let mut session = self.single().await?;
            let rows = session.fetch(sql, values).await?;
            session.end().await?;
            Ok(rows)
        })
        .await
    }

    /// As [`Store::read`], of statements that give one row at most.
    async fn read_one(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.read(sql, values).await?.pop())
    }

    /// Statements that take effect one by one.
    async fn single(&self) -> Result<Session<'_>, StoreError> {
        Session::single(&self.place, &self.statements).await
    }

    /// A transaction: what is written until [`Session::end`] takes effect together.
    async fn begin(&self) -> Result<Session<'_>, StoreError> {
        Session::begin(&self.place, &self.statements).await
    }

    /// Prepares the database, with time to wait for others that do.
    async fn prepare(&self) -> Result<(), StoreError> {
        let watch = self.standing.watch();
        let late = || Err(StoreError::late("the database did not get ready in time"));
        let outcome = timeout(PREPARE_WAIT, Box::pin(self.prepared())).await;
        let outcome = outcome.unwrap_or_else(|_| late());
        watch.end(&outcome);
        outcome
    }

    /// Brings the tables up to date, unless that was done. One does it, the others wait.
    async fn prepared(&self) -> Result<(), StoreError> {
        let prepare = || async {
            if let Place::Postgres(connections) = &self.place {
                connections.migrate().await?;
            }
            let key = self.read_mac_key().await?;
            if let Err(cause) = self.sweep().await {
                tracing::warn!(%cause, "old rows of users and budgets could not be removed");
            }
            Ok(key)
        };
        self.mac_key.get_or_try_init(prepare).await.map(|_| ())
    }

    async fn read_mac_key(&self) -> Result<[u8; 32], StoreError> {
        let new: [u8; 32] = rand::random();
        let mut session = self.begin().await?;
        let values = [Value::Text(MAC_KEY), Value::Bytes(&new)];
        session.fetch(ADD_SETTING, &values).await?;
        let row = session.fetch_one(SETTING, &[Value::Text(MAC_KEY)]).await?;
        session.end().await?;
        let bytes = row.map_or_else(|| Ok(Vec::new()), |row| row.bytes("value"))?;
        bytes.try_into().map_err(|_| {
            let what = "the key of users' keys has not the length that it must have";
            sqlx::Error::Decode(what.into()).into()
        })
    }
}

#[cfg(test)]
mod tests;
