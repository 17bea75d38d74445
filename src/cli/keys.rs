//! `tollgate keys`: service keys in the keys file. A new key is printed once, alone, on standard
//! output; the file holds its hash. Knows entries as JSON and leaves their checking to `auth`.

mod file;
mod list;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::error::ErrorKind;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::auth::{ApiKey, KeyHash, Rejected};
use crate::config::{KeysSource, Paths};

/// Arguments of `keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    verb: Verb,
    /// The keys file; by default the one that the gateway uses
    #[arg(long, global = true, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Google project of a secret (not in this version)
    #[arg(long, global = true, value_name = "PROJECT")]
    project: Option<String>,
    /// Name of a secret in Secret Manager (not in this version)
    #[arg(long, global = true, value_name = "SECRET")]
    secret: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a key; it is printed once, the file holds only its hash
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
struct AddArgs {
    name: String,
    /// The key may use the admin routes
    #[arg(long)]
    admin: bool,
    /// Model ids or aliases that the key may call, separated by commas; all by default
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    models: Vec<String>,
    /// A label of the key's usage rows; may be given several times
    #[arg(long = "label", value_parser = parse_label, value_name = "K=V")]
    labels: Vec<(String, String)>,
    /// When the key ends: a time like 2027-01-01T00:00:00Z, or from now: 30d, 12h
    #[arg(long, value_parser = parse_end, value_name = "TIME")]
    expires: Option<OffsetDateTime>,
    /// Calls in flight at once, in each instance
    #[arg(long, value_name = "N")]
    max_concurrent: Option<usize>,
    /// Token budget (not in this version)
    #[arg(long, value_name = "N")]
    token_limit: Option<u64>,
    /// Period of the token budget (not in this version)
    #[arg(long, value_name = "PERIOD")]
    period: Option<String>,
}

/// Runs the verb on what the flags name, else on what the gateway uses.
///
/// # Errors
/// What keeps it from doing so, in words; a `clap::Error` for what this version does not have.
pub async fn run(args: KeysArgs, paths: Paths) -> anyhow::Result<()> {
    let default_file = match paths.keys {
        KeysSource::File { path, .. } => path,
        KeysSource::Secret(_) => bail!("keys in Secret Manager cannot be changed from here yet"),
    };
    execute(args, &default_file, &mut io::stdout(), &mut io::stderr()).await
}

async fn execute(
    args: KeysArgs,
    default_file: &Path,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    if args.project.is_some() || args.secret.is_some() {
        return Err(refuse(
            "this version has no Secret Manager, so --project and --secret cannot be used; keys live in the keys file (--file)",
        ));
    }
    let path = args.file.as_deref().unwrap_or(default_file);
    let left_out = match args.verb {
        Verb::Add(new) => add(path, &new, out, notes).await?,
        Verb::List { json } => {
            let set = file::read(path)?.set;
            let text = if json {
                list::json(&set)?
            } else {
                list::table(&set)
            };
            out.write_all(text.as_bytes())?;
            set.rejected
        }
        Verb::Rotate { name, grace } => rotate(path, &name, grace, out, notes).await?,
        Verb::Revoke { name } => revoke(path, &name, notes).await?,
    };
    for entry in left_out {
        writeln!(
            notes,
            "note: the gateway leaves out the entry {}: {}",
            entry.name, entry.reason
        )?;
    }
    Ok(())
}

async fn add(
    path: &Path,
    new: &AddArgs,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<Vec<Rejected>> {
    if new.token_limit.is_some() || new.period.is_some() {
        return Err(refuse(
            "this version has no token budgets, so --token-limit and --period cannot be used",
        ));
    }
    let key = ApiKey::generate();
    let entry = to_raw_value(&new.entry(key.hash())?)?;
    let ((), left_out) = file::edit(path, |content| {
        let name = &new.name;
        if content.payload.entries.iter().any(|(other, _)| other == name) {
            bail!("there is a key named {name} already; `tollgate keys rotate {name}` gives it a new one");
        }
        content.payload.entries.push((name.clone(), entry));
        Ok(())
    })
    .await?;
    show(&key, out)?;
    writeln!(
        notes,
        "key {} added to {}; it is shown this once, the file holds only its hash",
        new.name,
        path.display()
    )?;
    Ok(left_out)
}

impl AddArgs {
    fn entry(&self, hash: KeyHash) -> anyhow::Result<Map<String, Value>> {
        let mut entry = Map::new();
        entry.insert("sha256".to_owned(), hash.to_hex().into());
        if self.admin {
            entry.insert("admin".to_owned(), true.into());
        }
        if !self.models.is_empty() {
            entry.insert("models".to_owned(), json!(self.models));
        }
        if !self.labels.is_empty() {
            let mut labels = Map::new();
            for (name, value) in &self.labels {
                if labels.insert(name.clone(), value.as_str().into()).is_some() {
                    return Err(refuse(&format!("the label {name} is given twice")));
                }
            }
            entry.insert("labels".to_owned(), labels.into());
        }
        if let Some(end) = self.expires {
            entry.insert("expires_at".to_owned(), time_text(end)?.into());
        }
        if let Some(maximum) = self.max_concurrent {
            entry.insert("max_concurrent".to_owned(), maximum.into());
        }
        Ok(entry)
    }
}

async fn rotate(
    path: &Path,
    name: &str,
    grace: Duration,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<Vec<Rejected>> {
    let key = ApiKey::generate();
    let now = OffsetDateTime::now_utc();
    let ends_at = now.checked_add(grace).context("--grace is too long")?;
    let ((), left_out) = file::edit(path, |content| {
        if let Some(fault) = content.set.rejected.iter().find(|entry| entry.name == name) {
            bail!(
                "the gateway leaves out the entry {name}: {}; mend that first",
                fault.reason
            );
        }
        let entry = content
            .payload
            .entries
            .iter_mut()
            .find(|(other, _)| other == name);
        let (_, value) = entry.ok_or_else(|| no_such_name(name))?;
        *value = renewed(value, key.hash(), now, ends_at)?;
        Ok(())
    })
    .await?;
    show(&key, out)?;
    if grace.is_zero() {
        writeln!(
            notes,
            "key {name} rotated; from now on only the new key works"
        )?;
    } else {
        writeln!(
            notes,
            "key {name} rotated; the old key works until {}",
            time_text(ends_at)?
        )?;
    }
    Ok(left_out)
}

/// The entry with a new current key. The old one moves to `previous`; a grace of nothing leaves no
/// previous key at all, because then somebody wants to be rid of what may have leaked.
fn renewed(
    value: &RawValue,
    hash: KeyHash,
    now: OffsetDateTime,
    ends_at: OffsetDateTime,
) -> anyhow::Result<Box<RawValue>> {
    let (old, fields) = match serde_json::from_str(value.get())? {
        Value::String(key) => (KeyHash::of(&key), Map::new()),
        Value::Object(fields) => (
            current_hash(&fields).context("the entry has no key")?,
            fields,
        ),
        _ => bail!("the entry is neither a string nor an object"),
    };
    let mut previous = match fields.get("previous") {
        Some(Value::Array(list)) if ends_at > now => list.clone(),
        _ => Vec::new(),
    };
    previous.retain(|key| !is_over(key, now));
    if ends_at > now {
        previous.push(json!({"sha256": old.to_hex(), "expires_at": time_text(ends_at)?}));
    }
    let mut entry = Map::new();
    entry.insert("sha256".to_owned(), hash.to_hex().into());
    let kept = fields
        .into_iter()
        .filter(|(field, _)| !matches!(field.as_str(), "key" | "sha256" | "previous"));
    entry.extend(kept);
    if !previous.is_empty() {
        entry.insert("previous".to_owned(), previous.into());
    }
    Ok(to_raw_value(&entry)?)
}

fn current_hash(fields: &Map<String, Value>) -> Option<KeyHash> {
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    text("key")
        .map(KeyHash::of)
        .or_else(|| text("sha256").and_then(KeyHash::from_hex))
}

fn is_over(previous: &Value, now: OffsetDateTime) -> bool {
    let end = previous.get("expires_at").and_then(Value::as_str);
    end.and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok())
        .is_some_and(|end| end <= now)
}

async fn revoke(path: &Path, name: &str, notes: &mut impl Write) -> anyhow::Result<Vec<Rejected>> {
    let ((), left_out) = file::edit(path, |content| {
        let before = content.payload.entries.len();
        content.payload.entries.retain(|(other, _)| other != name);
        if content.payload.entries.len() == before {
            Err(no_such_name(name))
        } else {
            Ok(())
        }
    })
    .await?;
    writeln!(
        notes,
        "key {name} revoked; a running gateway refuses it within KEY_REFRESH_SECONDS, at once after a reload"
    )?;
    Ok(left_out)
}

/// Prints the key: the one moment it is seen.
fn show(key: &ApiKey, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}", key.expose())
        .and_then(|()| out.flush())
        .context("the key was made but could not be printed; revoke it and make another")
}

fn no_such_name(name: &str) -> anyhow::Error {
    anyhow!("there is no key named {name}; `tollgate keys list` shows all")
}

/// An error that ends the program as wrong flags do.
fn refuse(words: &str) -> anyhow::Error {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{words}\n")).into()
}

fn time_text(time: OffsetDateTime) -> anyhow::Result<String> {
    let seconds = time.replace_nanosecond(0).context("no such time")?;
    seconds
        .format(&Rfc3339)
        .context("the time lies too far ahead")
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("a label has the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
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
