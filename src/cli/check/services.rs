//! What `check` asks of the services that the gateway will need: whether they answer, and whether
//! they let it in. Changes nothing there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::auth::KeyRing;
use crate::config::{Config, KeysSource};
use crate::google::{Fault, Google};
use crate::upstream::Upstream;

/// The longest that the ring takes to load, and a little more.
const KEYS_LIMIT: Duration = Duration::from_secs(12);

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
    let google = Arc::new(Google::new(&config.google)?);
    let (keys, tokens) = tokio::join!(
        ask_keys(config, &google, warnings),
        ask_tokens(config, &google)
    );
    let mut checks = vec![keys];
    checks.extend(tokens?);
    Ok(checks)
}

/// What would be asked.
pub(super) fn skip(config: &Config) -> Vec<Check> {
    vec![Check {
        name: keys_variable(config),
        outcome: Outcome::Skipped,
    }]
}

async fn ask_keys(config: &Config, google: &Arc<Google>, warnings: &mut Vec<String>) -> Check {
    let name = keys_variable(config);
    let ring = KeyRing::new(&config.keys, google);
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
    let upstream = Upstream::new(&config.upstream, &config.limits, google, on_cloud_run)?;
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
            name: "UPSTREAM_AUTH",
            outcome,
        }
    });
    Ok(proofs.collect())
}
