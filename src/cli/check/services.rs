//! What `check` asks of the services that the gateway will need: whether they answer, and whether
//! they let it in. Changes nothing there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::auth::KeyRing;
use crate::config::{Config, Database, KeysSource, SinkKind, UpstreamAuth};
use crate::google::{Fault, Google};
use crate::store::{Store, StoreError};
use crate::upstream::Upstreams;
use crate::usage::table;

/// The longest that the ring takes to load, and a little more.
const KEYS_LIMIT: Duration = Duration::from_secs(12);

/// The longest that the database may take.
const DATABASE_LIMIT: Duration = Duration::from_secs(5);

/// The longest that BigQuery may take.
const TABLE_LIMIT: Duration = Duration::from_secs(12);

const TOKEN: &str = "UPSTREAM_AUTH";
const TABLE: &str = "BIGQUERY_DATASET";
const DATABASE: &str = "DATABASE_URL";

/// One thing that was asked.
pub(super) struct Check {
    /// The variable that decides about it.
    pub name: &'static str,
    pub outcome: Outcome,
}

/// What came of it.
pub(super) enum Outcome {
    Good(String),
    /// It will not work until somebody changes something.
    Faulty(String),
    /// Nobody answered: it may well work elsewhere, or later.
    Unknown(String),
    /// Nobody was asked.
    Skipped,
}

impl Outcome {
    /// The word of the report.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Good(_) => "ok",
            Self::Faulty(_) => "fault",
            Self::Unknown(_) => "unknown",
            Self::Skipped => "skipped",
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Good(text) | Self::Faulty(text) | Self::Unknown(text) => text,
            Self::Skipped => "not asked, because of --offline",
        }
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        if fault.permanent {
            Self::Faulty(fault.text)
        } else {
            Self::Unknown(fault.text)
        }
    }
}

/// Asks all at once. What deserves a warning beside the outcomes goes to `warnings`.
///
/// # Errors
/// When no client can be made at all.
pub(super) async fn ask(config: &Config, warnings: &mut Vec<String>) -> anyhow::Result<Vec<Check>> {
    let google = Arc::new(Google::new(&config.google));
    let (keys, tokens, table, database) = tokio::join!(
        ask_keys(config, &google, warnings),
        ask_tokens(config, &google),
        ask_table(config, &google),
        ask_database(config),
    );
    let mut checks = vec![keys];
    checks.extend(tokens?);
    checks.extend(table);
    checks.extend(database);
    Ok(checks)
}

/// What would be asked.
pub(super) fn skip(config: &Config) -> Vec<Check> {
    let table = matches!(config.usage.sink, SinkKind::BigQuery(_)).then_some(TABLE);
    let token = (config.upstreams.upstreams.iter())
        .any(|upstream| upstream.auth != UpstreamAuth::None)
        .then_some(TOKEN);
    let database = matches!(config.database, Database::Postgres(_)).then_some(DATABASE);
    let names = [Some(keys_variable(config)), token, table, database];
    let skipped = names.into_iter().flatten().map(|name| Check {
        name,
        outcome: Outcome::Skipped,
    });
    skipped.collect()
}

async fn ask_keys(config: &Config, google: &Arc<Google>, warnings: &mut Vec<String>) -> Check {
    let name = keys_variable(config);
    let holds_budgets = config.database.holds_budgets(config.instance.on_cloud_run);
    let ring = KeyRing::new(&config.keys, google, Vec::new(), holds_budgets);
    let loaded = timeout(KEYS_LIMIT, ring.load()).await;
    let status = ring.status();
    ring.close().await;
    let outcome = match (loaded, status.failure) {
        (Ok(Err(fault)), _) => Outcome::Faulty(format!("{fault:#}")),
        (Err(_elapsed), _) => Outcome::Unknown("the keys do not come".to_owned()),
        (Ok(Ok(())), Some(failure)) => Outcome::Unknown(failure),
        (Ok(Ok(())), None) => {
            let left_out = status.rejected.iter();
            warnings.extend(left_out.map(|entry| {
                format!(
                    "{name}: the entry `{}` is left out: {}",
                    entry.name, entry.reason
                )
            }));
            let (count, source) = (status.keys_loaded, status.source);
            Outcome::Good(format!("{count} keys from {source}"))
        }
    };
    Check { name, outcome }
}

fn keys_variable(config: &Config) -> &'static str {
    match config.keys.source {
        KeysSource::File { .. } => "API_KEYS_FILE",
        KeysSource::Secret(_) => "API_KEYS_SECRET_NAME",
    }
}

async fn ask_tokens(config: &Config, google: &Arc<Google>) -> anyhow::Result<Vec<Check>> {
    let on_cloud_run = config.instance.on_cloud_run;
    let upstream = Upstreams::new(&config.upstreams, &config.limits, google, on_cloud_run, &[])?;
    let proofs = upstream.prove_identity().await.into_iter().map(|proof| {
        let outcome = match proof.outcome {
            Ok(Some(account)) => {
                Outcome::Good(format!("an ID token of {account} for {}", proof.audience))
            }
            Ok(None) => Outcome::Good(format!(
                "no ID token for {}, for this is not Google Cloud",
                proof.audience
            )),
            Err(fault) => fault.into(),
        };
        Check {
            name: TOKEN,
            outcome,
        }
    });
    Ok(proofs.collect())
}

async fn ask_table(config: &Config, google: &Arc<Google>) -> Option<Check> {
    let SinkKind::BigQuery(name) = &config.usage.sink else {
        return None;
    };
    let table = table(google, name, &config.usage.labels);
    let outcome = match timeout(TABLE_LIMIT, table.probe()).await {
        Ok(Ok(notes)) => Outcome::Good(notes.join("; ")),
        Ok(Err(fault)) => fault.into(),
        Err(_elapsed) => Outcome::Unknown("BigQuery does not answer".to_owned()),
    };
    Some(Check {
        name: TABLE,
        outcome,
    })
}

async fn ask_database(config: &Config) -> Option<Check> {
    let Database::Postgres(_) = &config.database else {
        return None;
    };
    let outcome = match timeout(DATABASE_LIMIT, Store::probe(&config.database)).await {
        Ok(Ok(())) => Outcome::Good("the database lets us in".to_owned()),
        Ok(Err(fault)) if fault.is_permanent() => Outcome::Faulty(told(fault)),
        Ok(Err(fault)) => Outcome::Unknown(told(fault)),
        Err(_elapsed) => Outcome::Unknown("the database does not answer".to_owned()),
    };
    Some(Check {
        name: DATABASE,
        outcome,
    })
}

fn told(fault: StoreError) -> String {
    format!("{:#}", anyhow::Error::from(fault))
}
