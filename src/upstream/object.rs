//! The top level of a JSON request body. Values keep their bytes; single members can be read, set
//! and removed. Nothing below the top level is built. Pure.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON object whose values are slices of the text it was read from.
#[derive(Clone)]
pub struct Object {
    text: Bytes,
    members: Vec<(String, Value)>,
    edited: bool,
}

#[derive(Clone)]
enum Value {
    At(Range<usize>),
    Set(String),
}

impl Object {
    /// Reads a whole JSON text; all of it is validated.
    ///
    /// # Errors
    /// When the text is no JSON object.
    pub fn parse(text: Bytes) -> Result<Self, serde_json::Error> {
        let Borrowed(borrowed) = serde_json::from_slice(&text)?;
        let base = text.as_ptr().addr();
        let members = borrowed
            .into_iter()
            .map(|(key, value)| {
                let start = value.get().as_ptr().addr() - base;
                (
                    key.into_owned(),
                    Value::At(start..start + value.get().len()),
                )
            })
            .collect();
        Ok(Self {
            text,
            members,
            edited: false,
        })
    }

    /// The JSON text of a member; the last one if the key stands twice.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.members.iter().rev().find(|(name, _)| name == key)?;
        std::str::from_utf8(self.raw(value)).ok()
    }

    /// As [`Object::get`], but null counts as absent.
    pub fn present(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| *value != "null")
    }

    /// The JSON text of a member in the text that this was read from.
    pub fn original(&self, key: &str) -> Option<String> {
        let object = Self::parse(self.text.clone()).ok()?;
        object.get(key).map(str::to_owned)
    }

    /// All members with their JSON texts, as they stand.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|(key, value)| {
            let json = std::str::from_utf8(self.raw(value)).unwrap_or_default();
            (key.as_str(), json)
        })
    }

    /// Whether a key stands more than once.
    pub fn repeats(&self, key: &str) -> bool {
        self.members
            .iter()
            .filter(|(name, _)| name == key)
            .nth(1)
            .is_some()
    }

    /// A member as a string; `None` if it is absent, null or no string.
    pub fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// Puts a JSON text in the place of a member, wherever and however often it stands, or adds it.
    pub fn set(&mut self, key: &str, json: String) {
        let place = self.members.iter().position(|(name, _)| name == key);
        self.remove(key);
        self.edited = true;
        let place = place.unwrap_or(self.members.len());
        self.members
            .insert(place, (key.to_owned(), Value::Set(json)));
    }

    /// Takes a member out.
    pub fn remove(&mut self, key: &str) {
        let before = self.members.len();
        self.members.retain(|(name, _)| name != key);
        self.edited |= self.members.len() != before;
    }

    /// Size of the text it was read from.
    pub fn text_bytes(&self) -> u64 {
        u64::try_from(self.text.len()).unwrap_or(u64::MAX)
    }

    /// An object of some of the members, those that are there and not null.
    pub fn only(&self, keys: &[&str]) -> Bytes {
        self.write(
            self.members
                .iter()
                .filter(|(key, value)| keys.contains(&key.as_str()) && self.raw(value) != b"null"),
        )
    }

    /// The body as it goes out: the text itself if nothing was changed.
    pub fn to_bytes(&self) -> Bytes {
        if !self.edited {
            return self.text.clone();
        }
        self.write(self.members.iter())
    }

    fn write<'a>(&'a self, members: impl Iterator<Item = &'a (String, Value)>) -> Bytes {
        let mut out = BytesMut::with_capacity(self.text.len() + 128);
        out.extend_from_slice(b"{");
        for (index, (key, value)) in members.enumerate() {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(serde_json::Value::from(key.as_str()).to_string().as_bytes());
            out.extend_from_slice(b":");
            out.extend_from_slice(self.raw(value));
        }
        out.extend_from_slice(b"}");
        out.freeze()
    }

    fn raw<'a>(&'a self, value: &'a Value) -> &'a [u8] {
        match value {
            Value::At(range) => &self.text[range.clone()],
            Value::Set(json) => json.as_bytes(),
        }
    }
}

struct Borrowed<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Borrowed<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Borrowed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Borrowed(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A key that borrows unless it is written with escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &'static str) -> Object {
        Object::parse(Bytes::from_static(text.as_bytes())).expect("an object")
    }

    #[test]
    fn values_keep_their_bytes() {
        let text = r#"{ "model":"m","tools":[{"b":1, "a":2.50}],"x":1e5 ,"mod\u0065l2":"y"}"#;
        let mut object = object(text);
        assert_eq!(object.to_bytes(), text.as_bytes(), "untouched is untouched");
        assert_eq!(
            object.string("model2").as_deref(),
            Some("y"),
            "escaped keys are read"
        );
        object.set("model", "\"z\"".to_owned());
        object.set("new", "true".to_owned());
        object.remove("x");
        let expected = r#"{"model":"z","tools":[{"b":1, "a":2.50}],"model2":"y","new":true}"#;
        assert_eq!(object.to_bytes(), expected.as_bytes());
    }

    #[test]
    fn empty_and_repeated() {
        let mut empty = object("{}");
        empty.remove("x");
        assert_eq!(empty.to_bytes(), "{}");
        empty.set("a", "1".to_owned());
        assert_eq!(empty.to_bytes(), r#"{"a":1}"#);
        let mut twice = object(r#"{"model":"a","model":"b","s":null}"#);
        assert!(twice.repeats("model") && !twice.repeats("s"));
        assert!(twice.get("s").is_some() && twice.present("s").is_none());
        twice.set("model", "\"c\"".to_owned());
        assert_eq!(twice.to_bytes(), r#"{"model":"c","s":null}"#);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "[]",
            "1",
            "\"x\"",
            "{",
            "{\"a\":}",
            "{\"a\":1}x",
            "{\"a\":\"\u{1}\"}",
        ] {
            assert!(
                Object::parse(Bytes::copy_from_slice(text.as_bytes())).is_err(),
                "{text}"
            );
        }
        assert!(
            Object::parse(Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err(),
            "no UTF-8"
        );
        let deep = format!("{{\"a\":{}}}", "[".repeat(100_000));
        assert!(Object::parse(deep.into()).is_err());
    }
}
