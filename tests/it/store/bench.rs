//! Databases of either kind, and stores on them.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::config::Database;
use tollgate::secret::Secret;
use tollgate::store::Store;

use crate::fakes::postgres;

/// A fresh database that goes with this.
pub struct Place {
    pub database: Database,
    _folder: Option<TempDir>,
    _server: Option<postgres::Database>,
}

impl Place {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            database: Database::Sqlite(folder.path().join("data/tollgate.db")),
            _folder: Some(folder),
            _server: None,
        }
    }

    /// `None` where Postgres is not installed.
    pub async fn postgres() -> Option<Self> {
        let server = postgres::database().await?;
        Some(Self {
            database: at(&server.url),
            _folder: None,
            _server: Some(server),
        })
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.database, Database::Postgres(_))
    }

    /// One more instance.
    pub async fn store(&self) -> Arc<Store> {
        open(&self.database).await
    }

    /// Runs statements beside the stores.
    pub async fn run(&self, sql: &str) {
        match &self.database {
            Database::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let pool = sqlx::SqlitePool::connect(&url).await.expect("the file");
                let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
                sql.execute(&pool).await.expect("the statements are taken");
                pool.close().await;
            }
            Database::Postgres(url) => postgres::run(url.expose(), sql).await,
            Database::None => unreachable!("places are databases"),
        }
    }
}

/// A database on a server.
pub fn at(url: &str) -> Database {
    Database::Postgres(Secret::new(url.to_owned()))
}

/// A store that is there.
pub async fn open(database: &Database) -> Arc<Store> {
    let store = Store::open(database).await.expect("the store opens");
    Arc::new(store.expect("a store"))
}

/// An error with its causes.
pub fn in_words(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// Waits for something to become so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(in_time.is_ok(), "never: {what}");
}

/// Runs a check on a fresh database of each kind.
macro_rules! on_both {
    ($($name:ident;)+) => {$(
        mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                super::$name($crate::store::bench::Place::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                if let Some(place) = $crate::store::bench::Place::postgres().await {
                    super::$name(place).await;
                }
            }
        }
    )+};
}
pub(super) use on_both;
