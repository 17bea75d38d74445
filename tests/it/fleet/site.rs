//! Gateways that share one database and one engine, and budgets to be used up there.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use sqlx::{PgPool, Row as _, SqlitePool};

use crate::fakes::engine::Engine;
use crate::fakes::link::{Link, Target};
use crate::fakes::postgres::Postgres;
use crate::harness::{ADMIN, Gate, KEY};

/// With any value here the tests take all the time that they would like to have.
pub const AT_LENGTH: &str = "PROVE_BUDGETS_AT_LENGTH";
/// A key with a budget of its own, as large as that of the plain key.
pub const OTHER: &str = "sk-other-0123456789abcdef";
/// A key without limits.
pub const FREE: &str = "sk-free-0123456789abcdef";
/// How long leases may take to come back after the last call.
const QUIET: Duration = Duration::from_secs(40);
const STANDING: &str = "SELECT used, leased FROM budgets WHERE owner = $1";
const JWT_SECRET: &str = "a secret of the fleet that only its own gateways know";

/// Where the budgets are.
enum Place {
    /// A server, and the URL of a database there.
    Postgres(Postgres, String),
    /// In the folder of the one gateway.
    Sqlite,
}

/// A fleet at work.
pub struct Site {
    pub engine: Engine,
    pub gates: Vec<Gate>,
    /// Tokens of each budget.
    pub limit: u64,
    lease: Duration,
    place: Place,
}

/// A budget as the database has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub used: u64,
    pub leased: u64,
}

impl Site {
    /// So many gateways on one Postgres; `None` where there is none to start.
    pub async fn on_postgres(
        gates: usize,
        (limit, lease): (u64, Duration),
        engine: Engine,
    ) -> Option<Self> {
        let postgres = Postgres::start().await?;
        let url = postgres.database().await;
        let place = Place::Postgres(postgres, url.clone());
        let mut site = Self::empty((limit, lease), engine, place);
        for _ in 0..gates {
            site.join(&url).await;
        }
        Some(site)
    }

    /// The same with a network between the gateways and Postgres.
    pub async fn through_a_link(
        gates: usize,
        (limit, lease): (u64, Duration),
        engine: Engine,
    ) -> Option<(Self, Link)> {
        let postgres = Postgres::start().await?;
        let link = Link::to(Target::Socket(postgres.socket())).await;
        let url = postgres.database().await;
        let (begin, _) = url.split_once('?').expect("a URL with its socket");
        let linked = begin.replace("@localhost/", &format!("@{}/", link.addr()));
        let place = Place::Postgres(postgres, url);
        let mut site = Self::empty((limit, lease), engine, place);
        for _ in 0..gates {
            site.join(&linked).await;
        }
        Some((site, link))
    }

    /// One gateway with its own file.
    pub async fn on_sqlite((limit, lease): (u64, Duration), engine: Engine) -> Self {
        let mut site = Self::empty((limit, lease), engine, Place::Sqlite);
        site.join("sqlite://data/tollgate.db").await;
        site
    }

    fn empty((limit, lease): (u64, Duration), engine: Engine, place: Place) -> Self {
        Self {
            engine,
            gates: Vec::new(),
            limit,
            lease,
            place,
        }
    }

    /// One more gateway, which reaches the database at this URL.
    async fn join(&mut self, database: &str) {
        let keys = json!({
            "test": {"key": KEY, "token_limit": self.limit},
            "other": {"key": OTHER, "token_limit": self.limit},
            "free": FREE,
            "ops": {"key": ADMIN, "admin": true},
        });
        let lease = self.lease.as_secs().to_string();
        let settings = [
            ("DATABASE_URL", database),
            ("JWT_SECRET_KEY", JWT_SECRET),
            ("LEASE_SECONDS", &lease),
        ];
        let gate = Gate::with_keys(&self.engine.url(), &settings, &keys).await;
        self.gates.push(gate);
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.gates.iter().map(|gate| gate.addr).collect()
    }

    /// The server that the budgets are in.
    pub fn postgres(&mut self) -> &mut Postgres {
        match &mut self.place {
            Place::Postgres(postgres, _) => postgres,
            Place::Sqlite => panic!("there is no Postgres here"),
        }
    }

    /// How the budget of a key stands in the database.
    pub async fn standing(&self, key_name: &str) -> Standing {
        let owner = format!("service:{key_name}");
        let row: Option<(i64, i64)> = match &self.place {
            Place::Postgres(_, url) => {
                let pool = PgPool::connect(url).await.expect("Postgres");
                let row = sqlx::query(STANDING)
                    .bind(owner)
                    .fetch_optional(&pool)
                    .await;
                row.expect("an answer").map(|row| (row.get(0), row.get(1)))
            }
            Place::Sqlite => {
                let path = self.gates[0].folder.path().join("data/tollgate.db");
                let pool = SqlitePool::connect(&format!("sqlite://{}", path.display())).await;
                let pool = pool.expect("the file");
                let row = sqlx::query(STANDING)
                    .bind(owner)
                    .fetch_optional(&pool)
                    .await;
                row.expect("an answer").map(|row| (row.get(0), row.get(1)))
            }
        };
        row.map_or_else(Standing::default, |(used, leased)| Standing {
            used: used.try_into().expect("a count"),
            leased: leased.try_into().expect("a count"),
        })
    }

    /// Waits until nothing of the plain key's budget is leased any more, as it must be once all
    /// calls have ended.
    pub async fn quiet(&self) -> Standing {
        self.until("test", |standing| standing.leased == 0).await
    }

    /// Waits until exactly what the log tells is charged, and nothing is leased.
    pub async fn settled(&self, key_name: &str) -> u64 {
        let wished =
            |standing: &Standing| standing.leased == 0 && standing.used == self.told(key_name);
        self.until(key_name, wished).await.used
    }

    /// Tokens of a key's calls by the gateways' logs: what was charged, where there is a budget.
    pub fn told(&self, key_name: &str) -> u64 {
        let lines = self.gates.iter().flat_map(Gate::log);
        let rows = lines
            .filter(|line| line["message"] == "usage" && line["usage"]["key_name"] == key_name);
        let tokens = |line: serde_json::Value| {
            let charged = line["budget"]["charged"].as_u64();
            charged.or_else(|| line["usage"]["total_tokens"].as_u64())
        };
        rows.filter_map(tokens).sum()
    }

    async fn until(&self, key_name: &str, wished: impl Fn(&Standing) -> bool) -> Standing {
        let mut last = Standing::default();
        let wait = async {
            loop {
                last = self.standing(key_name).await;
                if wished(&last) {
                    return last;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let done = tokio::time::timeout(QUIET, wait).await;
        done.unwrap_or_else(|_| {
            let told = self.told(key_name);
            panic!("{key_name}: {last:?} in the store, {told} in the logs")
        })
    }
}
