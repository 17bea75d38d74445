//! The fields of one `[[upstream]]` by name and type. Knows which fields there are, not what they
//! mean.

use std::fmt::Display;

use toml::de::{DeTable, DeValue};

use super::super::reader::echo;
use super::sheet::{Sheet, Told};

/// All that an upstream may say.
pub(super) const FIELDS: [&str; 11] = [
    "name",
    "urls",
    "models",
    "aliases",
    "auth",
    "api_key_env",
    "max_model_len",
    "scale_to_zero",
    "max_concurrent",
    "idle_seconds",
    "fallback",
];

/// One table, and whose it is.
pub(super) struct Fields<'s, 't, 'i> {
    sheet: &'s mut Sheet<'i>,
    table: &'t DeTable<'i>,
    /// What faults call the upstream.
    pub owner: String,
    /// Where it begins, a byte offset.
    pub at: usize,
}

impl<'s, 't, 'i> Fields<'s, 't, 'i> {
    pub(super) fn new(
        sheet: &'s mut Sheet<'i>,
        table: &'t DeTable<'i>,
        owner: String,
        at: usize,
    ) -> Self {
        Self {
            sheet,
            table,
            owner,
            at,
        }
    }

    pub(super) fn fault(&mut self, at: usize, text: impl Display) {
        self.sheet.fault(at, format_args!("{}: {text}", self.owner));
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    /// The names that no field has; their values are not repeated.
    pub(super) fn refuse_unknown(&mut self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if FIELDS.contains(&name) {
                continue;
            }
            let shown = echo(name);
            let instead = if name.starts_with("api_key") || name == "key" {
                "name the variable that holds the key in `api_key_env`".to_owned()
            } else if let Some(nearest) = nearest(name, FIELDS) {
                format!("did you mean `{nearest}`?")
            } else {
                format!("the fields are {}", FIELDS.join(", "))
            };
            self.fault(
                key.span().start,
                format_args!("`{shown}` is no field; {instead}"),
            );
        }
    }

    pub(super) fn text(&mut self, field: &str) -> Option<Told> {
        let (at, value) = self.find(field)?;
        let DeValue::String(text) = value else {
            self.fault(at, format_args!("`{field}` is not a text in quotes"));
            return None;
        };
        let text = text.clone().into_owned();
        Some(Told { at, text })
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, field: &str) -> Option<Vec<Told>> {
        let (at, value) = self.find(field)?;
        let items = value.as_array().map(|items| {
            let texts = items.iter().map(|item| {
                let text = item.get_ref().as_str()?.to_owned();
                let at = item.span().start;
                Some(Told { at, text })
            });
            texts.collect::<Option<Vec<_>>>()
        });
        let texts = items.flatten();
        if texts.is_none() {
            let right = "is not a list of texts, such as [\"one\", \"two\"]";
            self.fault(at, format_args!("`{field}` {right}"));
        }
        texts
    }

    /// A table of strings; empty if the field is absent.
    pub(super) fn pairs(&mut self, field: &str) -> Vec<(Told, String)> {
        let Some((at, value)) = self.find(field) else {
            return Vec::new();
        };
        let Some(table) = value.as_table() else {
            let right = "is not a table, such as { \"small\" = \"org/model\" }";
            self.fault(at, format_args!("`{field}` {right}"));
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (key, value) in table {
            let (at, name) = (key.span().start, key.get_ref().clone().into_owned());
            match value.get_ref() {
                DeValue::String(text) => {
                    pairs.push((Told { at, text: name }, text.clone().into_owned()));
                }
                // A bare key with a dot is a table within the table.
                DeValue::Table(_) => {
                    let right = "is a table; put quotes around a name that has a dot";
                    self.fault(at, format_args!("`{field}`: `{}` {right}", echo(&name)));
                }
                _ => {
                    let right = "is not set to a text in quotes";
                    self.fault(at, format_args!("`{field}`: `{}` {right}", echo(&name)));
                }
            }
        }
        pairs
    }

    /// A whole number from 1 to `most`.
    pub(super) fn number(&mut self, field: &str, most: u64) -> Option<u64> {
        let (at, value) = self.find(field)?;
        let number = value
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (1..=most).contains(number));
        if number.is_none() {
            self.fault(
                at,
                format_args!("`{field}` is not a whole number from 1 to {most}"),
            );
        }
        number
    }

    pub(super) fn boolean(&mut self, field: &str) -> Option<bool> {
        let (at, value) = self.find(field)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            let right = "is neither true nor false, without quotes";
            self.fault(at, format_args!("`{field}` {right}"));
        }
        boolean
    }

    fn find(&self, field: &str) -> Option<(usize, &'t DeValue<'i>)> {
        let value = self.table.get(field)?;
        Some((value.span().start, value.get_ref()))
    }
}

/// The name that was most likely meant, if one is near.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = ((name.len() + 1) / 3).min(3);
    let near = known
        .into_iter()
        .map(|known| (distance(name, known), known));
    near.filter(|(edits, _)| *edits <= far)
        .min()
        .map(|(_, known)| known)
}

/// How many letters have to be put in, taken out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_field() {
        for (slip, field) in [
            ("url", Some("urls")),
            ("Models", Some("models")),
            ("idle_second", Some("idle_seconds")),
            ("max_concurent", Some("max_concurrent")),
            ("fallbacks", Some("fallback")),
            ("weight", None),
            ("x", None),
        ] {
            assert_eq!(nearest(slip, FIELDS), field, "{slip}");
        }
    }
}
