//! One entry of a key set: its JSON text becomes checked fields, or a reason in words. Pure; knows
//! nothing of other entries. No reason ever holds a part of the entry's values.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::key::{KeyHash, MIN_KEY_CHARS};
use super::payload::Pairs;
use crate::budget::Period;

const MAX_FIELDS: usize = 32;
const MAX_PREVIOUS: usize = 64;
const MAX_MODELS: usize = 1_000;
const MAX_MODEL_CHARS: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_LABEL_CHARS: usize = 63;
const MAX_CONCURRENT: u64 = 1_000_000;
/// Highest limit of tokens or requests: every JSON reader has it exactly, and sums do not overflow.
const MAX_LIMIT: u64 = 9_000_000_000_000_000;

/// What an entry says, checked.
pub(super) struct Fields {
    pub current: Option<KeyHash>,
    pub previous: Vec<(KeyHash, Option<SystemTime>)>,
    pub admin: bool,
    pub models: Option<Vec<String>>,
    pub labels: Vec<(String, String)>,
    pub expires_at: Option<SystemTime>,
    /// Tokens per `period`.
    pub token_limit: Option<u64>,
    pub period: Period,
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub max_concurrent: Option<usize>,
    /// May wake a cold upstream.
    pub wake: bool,
    /// Limits are watched, never held.
    pub dry_run: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            current: None,
            previous: Vec::new(),
            admin: false,
            models: None,
            labels: Vec::new(),
            expires_at: None,
            token_limit: None,
            period: Period::Total,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_concurrent: None,
            wake: true,
            dry_run: false,
        }
    }
}

/// An entry after reading: good or not, the keys that it claims are known, so that a key which
/// stands under two names is found even if one of the two has another fault.
pub(super) struct Draft {
    pub claims: Vec<KeyHash>,
    pub outcome: Result<Fields, String>,
}

type Checked<T> = Result<T, String>;

/// Reads one entry.
pub(super) fn read_entry(raw: &RawValue) -> Draft {
    let mut fields = Fields::default();
    let outcome = match raw.get().as_bytes().first() {
        Some(b'"') => read_key(raw).map(|hash| fields.current = Some(hash)),
        Some(b'{') => read_object(raw, &mut fields),
        Some(b'n') => Err("is null".to_owned()),
        _ => Err("is neither a string nor an object".to_owned()),
    };
    let claims = fields
        .current
        .iter()
        .copied()
        .chain(fields.previous.iter().map(|(hash, _)| *hash))
        .collect();
    Draft {
        claims,
        outcome: outcome.map(|()| fields),
    }
}

/// Reads on after a fault, so that all claims are collected; the first fault is the reason.
fn read_object(raw: &RawValue, fields: &mut Fields) -> Checked<()> {
    let Pairs(members) = read::<Pairs<Box<RawValue>>>(raw, "it must be an object")?;
    if members.len() > MAX_FIELDS {
        return Err("has more fields than there are".to_owned());
    }
    let mut outcome = Ok(());
    for (place, (name, value)) in members.iter().enumerate() {
        let twice = members[..place].iter().any(|(earlier, _)| earlier == name);
        let step = if twice {
            Err(format!("{} stands twice", field_words(name)))
        } else {
            fields.set(name, value)
        };
        outcome = outcome.and(step);
    }
    outcome?;
    if fields.current.is_none() {
        return Err("has neither `key` nor `sha256`".to_owned());
    }
    Ok(())
}

impl Fields {
    fn set(&mut self, name: &str, value: &RawValue) -> Checked<()> {
        match name {
            "key" => self.set_current(read_key(value)?)?,
            "sha256" => self.set_current(read_sha256(value)?)?,
            "previous" => self.set_previous(value)?,
            "admin" => self.admin = read(value, "`admin` must be true or false")?,
            "models" => self.models = read_models(value)?,
            "labels" => self.labels = read_labels(value)?,
            "expires_at" => self.expires_at = Some(read_time(value)?),
            "token_limit" => self.token_limit = Some(read_limit(name, value)?),
            "period" => self.period = read_period(value)?,
            "requests_per_minute" => self.requests_per_minute = Some(read_limit(name, value)?),
            "tokens_per_minute" => self.tokens_per_minute = Some(read_limit(name, value)?),
            "max_concurrent" => self.max_concurrent = Some(read_max_concurrent(value)?),
            "wake" => self.wake = read(value, "`wake` must be true or false")?,
            "dry_run" => self.dry_run = read(value, "`dry_run` must be true or false")?,
            _ => return Err(format!("has an unknown field: {}", field_words(name))),
        }
        Ok(())
    }

    fn set_current(&mut self, hash: KeyHash) -> Checked<()> {
        if self.current.is_some() {
            return Err("has both `key` and `sha256`".to_owned());
        }
        self.current = Some(hash);
        Ok(())
    }

    fn set_previous(&mut self, value: &RawValue) -> Checked<()> {
        const WANTED: &str =
            "`previous` must be a list of objects with `sha256` or `key`, and `expires_at`";
        let list: Vec<Pairs<Box<RawValue>>> = read(value, WANTED)?;
        if list.len() > MAX_PREVIOUS {
            return Err("has too many previous keys".to_owned());
        }
        for Pairs(members) in list {
            let (mut hash, mut expires_at) = (None, None);
            for (name, value) in &members {
                let twice = match name.as_str() {
                    "sha256" => hash.replace(read_sha256(value)?).is_some(),
                    "key" => hash.replace(read_key(value)?).is_some(),
                    "expires_at" => expires_at.replace(read_time(value)?).is_some(),
                    _ => return Err(WANTED.to_owned()),
                };
                if twice {
                    return Err(WANTED.to_owned());
                }
            }
            self.previous.push((hash.ok_or(WANTED)?, expires_at));
        }
        Ok(())
    }
}

/// Reads a value; the parser's own text is dropped because it may quote the value.
fn read<'a, T: Deserialize<'a>>(value: &'a RawValue, wanted: &str) -> Checked<T> {
    serde_json::from_str(value.get()).map_err(|_| wanted.to_owned())
}

fn read_key(value: &RawValue) -> Checked<KeyHash> {
    let key: String = read(value, "its key must be a string")?;
    if key.chars().count() < MIN_KEY_CHARS {
        return Err("its key is shorter than sixteen characters".to_owned());
    }
    if key.trim() != key || key.contains(char::is_control) {
        return Err(
            "its key cannot be sent in a header: white space at an end, or a control character"
                .to_owned(),
        );
    }
    Ok(KeyHash::of(&key))
}

fn read_sha256(value: &RawValue) -> Checked<KeyHash> {
    const WANTED: &str = "`sha256` must be sixty-four hex digits";
    KeyHash::from_hex(&read::<String>(value, WANTED)?).ok_or_else(|| WANTED.to_owned())
}

fn read_time(value: &RawValue) -> Checked<SystemTime> {
    const WANTED: &str = "`expires_at` must be a time such as 2027-01-01T00:00:00Z";
    let text: String = read(value, WANTED)?;
    let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| WANTED.to_owned())?;
    Ok(time.into())
}

fn read_models(value: &RawValue) -> Checked<Option<Vec<String>>> {
    const WANTED: &str = "`models` must be a list of model ids, or [\"*\"] for all";
    let models: Vec<String> = read(value, WANTED)?;
    if models.len() > MAX_MODELS || models.iter().any(|model| !is_plain(model, MAX_MODEL_CHARS)) {
        return Err(WANTED.to_owned());
    }
    let all = models.iter().any(|model| model == "*");
    Ok((!all).then_some(models))
}

fn read_labels(value: &RawValue) -> Checked<Vec<(String, String)>> {
    const WANTED: &str = "`labels` must be an object of short strings, no name twice";
    let Pairs(labels) = read::<Pairs<String>>(value, WANTED)?;
    let good = |(place, (name, text)): (usize, &(String, String))| {
        is_plain(name, MAX_LABEL_CHARS)
            && (text.is_empty() || is_plain(text, MAX_LABEL_CHARS))
            && labels
                .iter()
                .take(place)
                .all(|(earlier, _)| earlier != name)
    };
    if labels.len() > MAX_LABELS || !labels.iter().enumerate().all(good) {
        return Err(WANTED.to_owned());
    }
    Ok(labels)
}

fn read_max_concurrent(value: &RawValue) -> Checked<usize> {
    let wanted = "`max_concurrent` must be a whole number from one to a million";
    let maximum = read_count("max_concurrent", value, wanted, MAX_CONCURRENT)?;
    usize::try_from(maximum).map_err(|_| wanted.to_owned())
}

/// A limit of tokens or requests.
fn read_limit(name: &str, value: &RawValue) -> Checked<u64> {
    let wanted = format!("`{name}` must be a whole number from one to nine quadrillion");
    read_count(name, value, &wanted, MAX_LIMIT)
}

fn read_count(name: &str, value: &RawValue, wanted: &str, most: u64) -> Checked<u64> {
    match read(value, wanted)? {
        0 => Err(format!(
            "`{name}` is zero; to shut a key out, take its entry away"
        )),
        count if count <= most => Ok(count),
        _ => Err(wanted.to_owned()),
    }
}

fn read_period(value: &RawValue) -> Checked<Period> {
    const WANTED: &str = "`period` must be total, day or month";
    Period::from_word(&read::<String>(value, WANTED)?).ok_or_else(|| WANTED.to_owned())
}

/// Whether a text has one to `most` characters and no control character.
pub(super) fn is_plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// Names a field only if it reads like one: a key may stand there by mistake.
fn field_words(name: &str) -> String {
    const LONGEST_FIELD: usize = 24;
    let short =
        name.len() < MIN_KEY_CHARS && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let worded =
        name.len() <= LONGEST_FIELD && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if short || worded {
        format!("`{name}`")
    } else {
        "one with an odd name".to_owned()
    }
}

#[cfg(test)]
mod tests;
