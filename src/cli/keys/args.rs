//! The flags of `tollgate keys`, and the place that they lead to.

use std::path::PathBuf;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::super::refuse;
use super::place::Place;
use super::secret::KeySecret;
use crate::budget::Period;
use crate::config::{KeysSource, Paths, SecretRef};

/// Arguments of `keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub(super) verb: Verb,
    /// The keys file; by default the one that the gateway uses
    #[arg(long, global = true, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Google project of the secret; by default `GCP_PROJECT` or the project of this machine
    #[arg(long, global = true, value_name = "PROJECT")]
    project: Option<String>,
    /// Secret in Secret Manager that holds the keys
    #[arg(long, global = true, value_name = "SECRET")]
    secret: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Make a key; it is printed once, only its hash is kept
    Add(AddArgs),
    /// List the keys: names, ids, expiry; never a key
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new key for a name; the old one works on for a while
    Rotate {
        name: String,
        /// How long the old key works on: 24h, 7d; with 0 only the new key works from now on
        #[arg(long, default_value = "24h", value_parser = parse_span)]
        grace: Duration,
    },
    /// Remove a name and all its keys
    Revoke { name: String },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    pub name: String,
    /// Make the secret if it is not there
    #[arg(long)]
    pub create: bool,
    /// The key may use the admin routes
    #[arg(long)]
    pub admin: bool,
    /// Model ids or aliases that the key may call, separated by commas; all by default
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub models: Vec<String>,
    /// A label of the key's usage rows; may be given several times
    #[arg(long = "label", value_parser = parse_label, value_name = "K=V")]
    pub labels: Vec<(String, String)>,
    /// When the key ends: a time like 2027-01-01T00:00:00Z, or from now: 30d, 12h
    #[arg(long, value_parser = parse_end, value_name = "TIME")]
    pub expires: Option<OffsetDateTime>,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// What a key may use.
#[derive(Debug, clap::Args)]
pub(super) struct LimitArgs {
    /// Token budget, prompt and completion together; all instances share it
    #[arg(long, value_name = "N")]
    pub token_limit: Option<u64>,
    /// When the token budget begins anew: day or month (UTC), or total for never
    #[arg(long, value_parser = parse_period, requires = "token_limit", value_name = "PERIOD")]
    pub period: Option<Period>,
    /// Calls within a minute, in each instance
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<u64>,
    /// Tokens within a minute, in each instance
    #[arg(long, value_name = "N")]
    pub tokens_per_minute: Option<u64>,
    /// Calls in flight at once, in each instance
    #[arg(long, value_name = "N")]
    pub max_concurrent: Option<usize>,
    /// The key may not wake a model server that scales to zero
    #[arg(long)]
    pub no_wake: bool,
    /// Count and log what goes beyond the limits, and refuse nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl KeysArgs {
    /// Whether the place is the one that a gateway uses which is started like this program.
    pub(super) fn names_no_place(&self) -> bool {
        self.file.is_none() && self.secret.is_none()
    }

    /// What the flags name, else what the gateway uses.
    pub(super) async fn place(&self, paths: &Paths) -> anyhow::Result<Place> {
        let may_create = matches!(&self.verb, Verb::Add(new) if new.create);
        let secret = match (&self.secret, &self.project, &self.file) {
            (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                return Err(refuse(
                    "--file names another place than --project and --secret; give only one",
                ));
            }
            (None, Some(_), None) => return Err(refuse("--project needs --secret")),
            (Some(secret), None, None) => Some(secret.clone()),
            (Some(secret), Some(project), None) => {
                Some(format!("projects/{project}/secrets/{secret}"))
            }
            (None, None, _) => None,
        };
        let secret = match (secret, &self.file, &paths.keys) {
            (Some(name), ..) => {
                let secret: SecretRef = name
                    .parse()
                    .map_err(|wrong| refuse(&format!("--secret {name} {wrong}")))?;
                if secret.version.is_some() {
                    return Err(refuse(
                        "--secret takes the name of a secret, without a version",
                    ));
                }
                secret
            }
            (None, None, KeysSource::Secret(secret)) => secret.clone(),
            (None, Some(path), _) | (None, None, KeysSource::File { path, .. }) => {
                if may_create {
                    return Err(refuse("--create makes a secret, so it needs --secret"));
                }
                return Ok(Place::File(path.clone()));
            }
        };
        let secret = KeySecret::open(secret, &paths.google, may_create).await?;
        Ok(Place::Secret(secret))
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("a label has the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_period(text: &str) -> Result<Period, String> {
    Period::from_word(text).ok_or_else(|| "use total, day or month".to_owned())
}

fn parse_end(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time);
    }
    let span = parse_span(text)
        .map_err(|_| "neither a time like 2027-01-01T00:00:00Z nor a span like 30d")?;
    OffsetDateTime::now_utc()
        .checked_add(span)
        .ok_or_else(|| "too far ahead".to_owned())
}

/// A number and its unit: seconds, minutes, hours, days or weeks. Nothing needs no unit.
fn parse_span(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "a span is a number and s, m, h, d or w, such as 24h";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.chars().next_back().ok_or(WANTED)?;
    let count = text
        .strip_suffix(unit)
        .and_then(|count| count.parse::<u32>().ok());
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(WANTED.to_owned()),
    };
    Ok(Duration::seconds(seconds * i64::from(count.ok_or(WANTED)?)))
}
