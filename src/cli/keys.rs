//! `tollgate keys`: service keys in the keys file or in Secret Manager. A new key is printed once,
//! alone, on standard output; the key set holds its hash. Knows entries as JSON and leaves their
//! checking to `auth`.

mod args;
mod file;
mod list;
mod place;
mod secret;

#[cfg(test)]
mod tests;

pub use args::KeysArgs;

use std::io::{self, Write};

use anyhow::{Context as _, anyhow, bail};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::refuse;
use crate::auth::{ApiKey, KeyHash, Rejected};
use crate::config::{Database, Paths};
use args::{AddArgs, LimitArgs, Verb};
use place::{Content, Place};

/// Runs the verb on what the flags name, else on what the gateway uses.
///
/// # Errors
/// What keeps it from doing so, in words; a `clap::Error` for flags that do not fit together and
/// for what this version does not have.
pub async fn run(args: KeysArgs, paths: Paths) -> anyhow::Result<()> {
    execute(args, &paths, &mut io::stdout(), &mut io::stderr()).await
}

async fn execute(
    args: KeysArgs,
    paths: &Paths,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let place = args.place(paths).await?;
    let is_gateways = args.names_no_place();
    let left_out = match args.verb {
        Verb::Add(new) => {
            let left_out = add(&place, &new, out, notes).await?;
            if is_gateways
                && new.limits.token_limit.is_some()
                && matches!(paths.database, Database::None)
            {
                writeln!(
                    notes,
                    "note: DATABASE_URL is none here; a gateway that is configured so leaves this entry out, for nothing holds its token limit"
                )?;
            }
            left_out
        }
        Verb::List { json } => {
            let set = place.read().await?;
            let text = if json {
                list::json(&set)?
            } else {
                list::table(&set)
            };
            out.write_all(text.as_bytes())?;
            set.rejected
        }
        Verb::Rotate { name, grace } => rotate(&place, &name, grace, out, notes).await?,
        Verb::Revoke { name } => revoke(&place, &name, notes).await?,
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
    place: &Place,
    new: &AddArgs,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<Vec<Rejected>> {
    let key = ApiKey::generate();
    let entry = to_raw_value(&new.entry(key.hash())?)?;
    let change = |content: &mut Content| {
        let name = &new.name;
        let mut entries = content.payload.entries.iter();
        match entries.find(|(other, _)| other == name) {
            // Written by an earlier attempt of ours whose answer was lost.
            Some((_, ours)) if ours.get() == entry.get() => {}
            Some(_) => bail!(
                "there is a key named {name} already; `tollgate keys rotate {name}` gives it a new one"
            ),
            None => content.payload.entries.push((name.clone(), entry.clone())),
        }
        Ok(())
    };
    let left_out = place.edit(notes, change).await?;
    show(&key, out)?;
    writeln!(
        notes,
        "key {} added to {place}; it is shown this once, only its hash is kept; running gateways take it within 10 s",
        new.name,
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
        self.limits.write(&mut entry);
        Ok(entry)
    }
}

impl LimitArgs {
    /// Adds the fields of an entry.
    fn write(&self, entry: &mut Map<String, Value>) {
        if let Some(maximum) = self.max_concurrent {
            entry.insert("max_concurrent".to_owned(), maximum.into());
        }
        for (field, limit) in [
            ("token_limit", self.token_limit),
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
        ] {
            if let Some(limit) = limit {
                entry.insert(field.to_owned(), limit.into());
            }
        }
        if let Some(period) = self.period {
            entry.insert("period".to_owned(), period.as_str().into());
        }
        if self.no_wake {
            entry.insert("wake".to_owned(), false.into());
        }
        if self.dry_run {
            entry.insert("dry_run".to_owned(), true.into());
        }
    }
}

async fn rotate(
    place: &Place,
    name: &str,
    grace: Duration,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<Vec<Rejected>> {
    let key = ApiKey::generate();
    let now = OffsetDateTime::now_utc();
    let ends_at = now.checked_add(grace).context("--grace is too long")?;
    let change = |content: &mut Content| {
        if let Some(fault) = content.set.rejected.iter().find(|entry| entry.name == name) {
            bail!(
                "the gateway leaves out the entry {name}: {}; mend that first",
                fault.reason
            );
        }
        let mut entries = content.payload.entries.iter_mut();
        let entry = entries.find(|(other, _)| other == name);
        let (_, value) = entry.ok_or_else(|| no_such_name(name))?;
        *value = renewed(value, key.hash(), now, ends_at)?;
        Ok(())
    };
    let left_out = place.edit(notes, change).await?;
    show(&key, out)?;
    if grace.is_zero() {
        writeln!(
            notes,
            "key {name} rotated; running gateways take the new key within 10 s and refuse the old one within KEY_REFRESH_SECONDS, at once after a reload"
        )?;
    } else {
        writeln!(
            notes,
            "key {name} rotated; running gateways take the new key within 10 s, the old one works until {}",
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
    if old == hash {
        // Written by an earlier attempt of ours whose answer was lost.
        return Ok(value.to_owned());
    }
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

async fn revoke(
    place: &Place,
    name: &str,
    notes: &mut impl Write,
) -> anyhow::Result<Vec<Rejected>> {
    let change = |content: &mut Content| {
        let before = content.payload.entries.len();
        content.payload.entries.retain(|(other, _)| other != name);
        if content.payload.entries.len() == before {
            Err(no_such_name(name))
        } else {
            Ok(())
        }
    };
    let left_out = place.edit(notes, change).await?;
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

fn time_text(time: OffsetDateTime) -> anyhow::Result<String> {
    let seconds = time.replace_nanosecond(0).context("no such time")?;
    seconds
        .format(&Rfc3339)
        .context("the time lies too far ahead")
}
