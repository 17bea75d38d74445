//! The JSON object of a keys file or secret as it is written: names in order, values untouched.
//! Knows nothing of what an entry means; never puts a part of the content into an error.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// The most bytes that a payload may have.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// The most entries that a payload may have.
pub const MAX_ENTRIES: usize = 10_000;

/// The entries of a payload, in order; a name may stand twice.
pub struct Payload {
    /// Name and JSON text of each entry.
    pub entries: Vec<(String, Box<RawValue>)>,
}

impl Payload {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// What is wrong with the payload as a whole, without any part of it.
    pub fn parse(content: &[u8]) -> Result<Self, PayloadFault> {
        if content.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadFault("is larger than one mebibyte".to_owned()));
        }
        let Pairs(entries) =
            serde_json::from_slice(content).map_err(|error| PayloadFault::of(&error))?;
        if entries.len() > MAX_ENTRIES {
            return Err(PayloadFault(format!("has more than {MAX_ENTRIES} entries")));
        }
        Ok(Self { entries })
    }

    /// The payload as text, one entry per line; what came from another hand keeps its own form.
    #[must_use]
    pub fn to_text(&self) -> String {
        let line = |(name, value): &(String, Box<RawValue>)| {
            // A string always has a JSON form, so `Value` prints it without a fallible step.
            format!(
                "  {}: {}",
                serde_json::Value::from(name.as_str()),
                value.get()
            )
        };
        let lines: Vec<String> = self.entries.iter().map(line).collect();
        if lines.is_empty() {
            "{}\n".to_owned()
        } else {
            format!("{{\n{}\n}}\n", lines.join(",\n"))
        }
    }
}

/// Why a payload cannot be a key set at all, to follow the words "the key set".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFault(String);

impl PayloadFault {
    /// Only the place is taken over: the parser's own text may quote the content.
    fn of(error: &serde_json::Error) -> Self {
        match error.classify() {
            Category::Data => Self("is no JSON object".to_owned()),
            Category::Eof if error.line() <= 1 && error.column() == 0 => {
                Self("is empty; it must be a JSON object".to_owned())
            }
            Category::Eof | Category::Syntax | Category::Io => Self(format!(
                "is no valid JSON (line {}, column {})",
                error.line(),
                error.column()
            )),
        }
    }
}

impl fmt::Display for PayloadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PayloadFault {}

/// A JSON object with every member in order, equal names included: maps would hide the second.
pub(super) struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(content: &str) -> String {
        Payload::parse(content.as_bytes())
            .err()
            .unwrap()
            .to_string()
    }

    #[test]
    fn names_values_and_order_are_kept_as_written() {
        let text = "{\n  \"b\": \"x\",\n  \"a\": {\"n\":1.50, \"n\":2},\n  \"b\": null\n}\n";
        let payload = Payload::parse(text.as_bytes()).unwrap();
        let names: Vec<&str> = payload
            .entries
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["b", "a", "b"]);
        assert_eq!(payload.to_text(), text);
        assert_eq!(Payload::parse(b" {} ").unwrap().to_text(), "{}\n");
    }

    #[test]
    fn names_with_special_characters_survive() {
        let text = "{\n  \"a\\\"\\\\\\n\": 1\n}\n";
        assert_eq!(Payload::parse(text.as_bytes()).unwrap().to_text(), text);
    }

    #[test]
    fn what_is_no_object_is_refused_without_a_word_of_it() {
        for content in [
            "",
            "[]",
            "null",
            "\"secret-secret-secret\"",
            "7",
            "{\"secret-secret\"",
            "{\"a\": secret}",
            "{} {}",
            "\u{feff}{}",
        ] {
            let text = fault(content);
            assert!(text.starts_with("is "), "{content}: {text}");
            assert!(!text.contains("secret"), "{content}: {text}");
        }
        assert!(Payload::parse(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn size_and_count_are_bounded() {
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("\"{n}\":1")).collect();
        assert!(fault(&format!("{{{}}}", many.join(","))).contains("entries"));
        assert!(fault(&format!("{{{}}}", " ".repeat(MAX_PAYLOAD_BYTES))).contains("mebibyte"));
    }
}
