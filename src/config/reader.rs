//! Looks variables up in their sources, collects every fault, and remembers what was shown for
//! `check`. Knows how values are found and masked, not what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use super::vars;
use super::{ConfigError, Origin, Setting, Sources, dotenv};
use crate::secret::Secret;

/// Longest file that holds a secret, in bytes.
const SECRET_FILE_BYTES: u64 = 64 * 1024;
/// Longest part of a wrong value that is repeated in a fault, in characters.
const ECHO_CHARS: usize = 60;

/// One reading of all variables.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    dotenv: BTreeMap<String, String>,
    faults: Vec<String>,
    warnings: Vec<String>,
    settings: Vec<Setting>,
}

/// What a reading leaves behind.
pub(super) struct Reading {
    pub faults: Vec<String>,
    pub warnings: Vec<String>,
    pub settings: Vec<Setting>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let mut faults = sources.faults.clone();
        let dotenv = match dotenv::parse(&sources.dotenv) {
            Ok(values) => values,
            Err(lines) => {
                faults.extend(lines);
                BTreeMap::new()
            }
        };
        Self {
            sources,
            dotenv,
            faults,
            warnings: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Faults and warnings sorted by variable, each once; settings in the order of the table.
    pub(super) fn finish(mut self) -> Reading {
        sort(&mut self.faults);
        sort(&mut self.warnings);
        self.settings
            .sort_by_key(|setting| vars::VARS.iter().position(|var| var.name == setting.name));
        Reading {
            faults: self.faults,
            warnings: self.warnings,
            settings: self.settings,
        }
    }

    /// Says what is right for a variable. The value is not repeated; see [`Reader::parsed`].
    pub(super) fn fault(&mut self, name: &str, right: impl Display) {
        self.faults.push(format!("{name}: {right}"));
    }

    pub(super) fn warn(&mut self, name: &str, text: impl Display) {
        self.warnings.push(format!("{name}: {text}"));
    }

    /// Remembers an effective value for `check`.
    pub(super) fn show(&mut self, name: &'static str, value: impl Display, origin: Origin) {
        self.settings.push(Setting {
            name,
            value: mask_urls(&value.to_string()),
            origin,
        });
    }

    /// The value with where it is from: flag, environment, `.env`, in this order. Empty is unset.
    pub(super) fn find(&self, name: &str) -> Option<(String, Origin)> {
        let places = [
            (&self.sources.flags, Origin::Flag),
            (&self.sources.environment, Origin::Environment),
            (&self.dotenv, Origin::Dotenv),
        ];
        places.into_iter().find_map(|(values, origin)| {
            let value = values.get(name)?.trim();
            (!value.is_empty()).then(|| (value.to_owned(), origin))
        })
    }

    /// A value of any type. A wrong one is a fault, which repeats it, and the default stands in.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        default: T,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let (value, origin) = match self.find(name) {
            None => (default, Origin::Default),
            Some((text, origin)) => match parse(&text) {
                Ok(value) => (value, origin),
                Err(right) => {
                    self.fault(name, format_args!("`{}` {right}", echo(&text)));
                    self.show(name, &text, origin);
                    return default;
                }
            },
        };
        self.show(name, show(&value), origin);
        value
    }

    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        self.parsed(name, default, bool::to_string, |text| {
            match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err("is neither `true` nor `false`".to_owned()),
            }
        })
    }

    pub(super) fn number(
        &mut self,
        name: &'static str,
        default: u64,
        least: u64,
        most: u64,
    ) -> u64 {
        self.parsed(name, default, u64::to_string, |text| {
            in_range(text, least, most)
        })
    }

    /// Whole seconds, from 1 to `most`.
    pub(super) fn seconds(&mut self, name: &'static str, default: u64, most: u64) -> Duration {
        Duration::from_secs(self.number(name, default, 1, most))
    }

    /// Whole seconds, from none at all to `most`.
    pub(super) fn seconds_or_none(
        &mut self,
        name: &'static str,
        default: u64,
        most: u64,
    ) -> Duration {
        Duration::from_secs(self.number(name, default, 0, most))
    }

    /// A count of bytes that memory can hold.
    pub(super) fn bytes(&mut self, name: &'static str, default: usize, most: u64) -> usize {
        let read = self.number(name, u64::try_from(default).unwrap_or(most), 1, most);
        usize::try_from(read).unwrap_or(default)
    }

    /// A secret, or the content of the file that `NAME_FILE` names. `show` says what `check` prints.
    pub(super) fn secret(
        &mut self,
        name: &'static str,
        show: fn(&str) -> String,
    ) -> Option<Secret<String>> {
        match self.find_secret(name) {
            Ok(None) => {
                self.show(name, unset(), Origin::Default);
                None
            }
            Ok(Some((value, origin))) => {
                self.show(name, show(value.expose()), origin);
                Some(value)
            }
            Err(fault) => {
                self.faults.push(fault);
                self.show(name, "***", Origin::File);
                None
            }
        }
    }

    /// A secret as above, of any name; the error is a whole fault.
    pub(super) fn find_secret(
        &self,
        name: &str,
    ) -> Result<Option<(Secret<String>, Origin)>, String> {
        let found = match (self.find(name), self.find(&format!("{name}_FILE"))) {
            (Some(_), Some(_)) => {
                return Err(format!(
                    "{name}: set either {name} or {name}_FILE, not both"
                ));
            }
            (None, Some((path, _))) => {
                let value = read_secret(&path).map_err(|wrong| format!("{name}_FILE: {wrong}"))?;
                Some((value, Origin::File))
            }
            (found, None) => found,
        };
        Ok(found.map(|(value, origin)| (Secret::new(value), origin)))
    }

    /// A variable that another one takes the place of; it is not judged.
    pub(super) fn set_aside(&mut self, name: &'static str, why: &str) {
        if let Some((value, origin)) = self.find(name) {
            self.warn(name, format_args!("is not used, {why}"));
            self.show(name, value, origin);
        } else {
            self.show(name, unset(), Origin::Default);
        }
    }
}

impl Reading {
    /// The value, if nothing was wrong.
    pub(super) fn judge<T>(self, value: T) -> Result<T, ConfigError> {
        let Self {
            faults,
            warnings,
            settings,
        } = self;
        if faults.is_empty() {
            Ok(value)
        } else {
            Err(ConfigError {
                faults,
                warnings,
                settings,
            })
        }
    }
}

/// By variable, each once; what is said of one variable keeps its order.
fn sort(lines: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines.sort_by(|one, other| variable(one).cmp(variable(other)));
}

/// What stands before the first colon.
fn variable(line: &str) -> &str {
    line.split_once(':').map_or(line, |(variable, _)| variable)
}

/// How an absent value is shown.
pub(super) fn unset() -> String {
    "none".to_owned()
}

/// A whole number within bounds, both included.
pub(super) fn in_range(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("is not a whole number from {least} to {most}")),
    }
}

/// How a secret is shown.
pub(super) fn stars(_secret: &str) -> String {
    "***".to_owned()
}

/// The pieces of a comma list, trimmed, without empty ones.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
}

fn read_secret(path: &str) -> Result<String, String> {
    let size = std::fs::metadata(path)
        .map_err(|e| format!("`{path}` cannot be read: {e}"))?
        .len();
    if size > SECRET_FILE_BYTES {
        return Err(format!("`{path}` is longer than {SECRET_FILE_BYTES} bytes"));
    }
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("`{path}` cannot be read: {e}"))?;
    match text.trim() {
        "" => Err(format!("`{path}` is empty")),
        value => Ok(value.to_owned()),
    }
}

/// A wrong value as a fault may repeat it: short, without credentials or control characters.
pub(super) fn echo(text: &str) -> String {
    let masked = mask_urls(text);
    let mut short: String = masked
        .chars()
        .take(ECHO_CHARS)
        .filter(|c| !c.is_control())
        .collect();
    if masked.chars().count() > ECHO_CHARS {
        short.push('…');
    }
    short
}

/// Puts stars for what stands between `://` and the last `@` of the authority, and for all behind
/// a `?`, in each piece of a comma list.
fn mask_urls(text: &str) -> String {
    if !text.contains("://") {
        // A URL whose scheme was forgotten hides its credentials all the same.
        let credentials = text.rfind('@').filter(|at| text[..*at].contains(':'));
        return credentials.map_or_else(|| text.to_owned(), |at| format!("***{}", &text[at..]));
    }
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (scheme, tail) = rest.split_at(at + 3);
        masked.push_str(scheme);
        // A password may hold any character, a slash or a comma too, so the last `@` decides.
        let next = tail.find("://").unwrap_or(tail.len());
        let tail = tail[..next].rfind('@').map_or(tail, |sign| {
            masked.push_str("***");
            &tail[sign..]
        });
        let end = tail.find(',').unwrap_or(tail.len());
        let (url, after) = tail.split_at(end);
        match url.split_once('?') {
            Some((url, _)) => masked.extend([url, "?***"]),
            None => masked.push_str(url),
        }
        rest = after;
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_become_stars() {
        for (text, expected) in [
            ("http://h:1/v1", "http://h:1/v1"),
            ("http://u:p@h:1", "http://***@h:1"),
            ("http://u:p@/x@h:1/y", "http://***@h:1/y"),
            ("postgres://u:p@h/db?password=x", "postgres://***@h/db?***"),
            ("http://a:b@h,https://c:d@i", "http://***@h,https://***@i"),
            ("http://h,https://c:d@i", "http://h,https://***@i"),
            ("u:p@h:1", "***@h:1"),
            ("no url, a@b", "no url, a@b"),
        ] {
            assert_eq!(mask_urls(text), expected);
        }
    }
}
