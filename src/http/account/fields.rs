//! The few words that a body or a query says: JSON or a form, each word once. Errors name the field,
//! never what it held. Pure.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::error::{Code, Error};
use crate::http::route::decode;
use crate::upstream::Object;

/// A form of more words than this is refused.
const MOST_WORDS: usize = 64;

/// What was said.
pub enum Fields {
    Json(Object),
    Form(Vec<(String, String)>),
}

impl Fields {
    #[must_use]
    pub fn none() -> Self {
        Self::Form(Vec::new())
    }

    /// Reads a body by its content type.
    ///
    /// # Errors
    /// `unsupported_media_type`, `invalid_request`.
    pub fn of_body(headers: &HeaderMap, body: Bytes) -> Result<Self, Error> {
        if body.is_empty() {
            return Ok(Self::none());
        }
        let encodings = headers.get_all(CONTENT_ENCODING).iter();
        if encodings.into_iter().any(|encoding| encoding != "identity") {
            return Err(Error::new(
                Code::UnsupportedMediaType,
                "compressed request bodies are not taken; send it without content-encoding",
            ));
        }
        let sent = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = sent.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            return Object::parse(body).map(Self::Json).map_err(|_| {
                Error::new(
                    Code::InvalidRequest,
                    "the request body is not a JSON object",
                )
            });
        }
        if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let text = std::str::from_utf8(&body).map_err(|_| malformed())?;
            return Self::of_form(text);
        }
        Err(Error::new(
            Code::UnsupportedMediaType,
            "this route takes JSON; send content-type: application/json",
        ))
    }

    /// Reads a form, or the query of a URL.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn of_form(text: &str) -> Result<Self, Error> {
        let mut words = Vec::new();
        for word in text.split('&').filter(|word| !word.is_empty()) {
            if words.len() == MOST_WORDS {
                return Err(malformed());
            }
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let plain = |part: &str| decode(&part.replace('+', " ")).ok_or_else(malformed);
            words.push((plain(name)?, plain(value)?));
        }
        Ok(Self::Form(words))
    }

    /// A text; `None` if it is absent or null.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn text(&self, name: &'static str) -> Result<Option<String>, Error> {
        self.check_once(name)?;
        match self {
            Self::Form(words) => Ok(form_value(words, name).map(str::to_owned)),
            Self::Json(object) if object.present(name).is_none() => Ok(None),
            Self::Json(object) => match object.string(name) {
                Some(text) => Ok(Some(text)),
                None => Err(wrong_type(name, "a string")),
            },
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn needed(&self, name: &'static str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// A whole number from zero up; `None` if it is absent or null.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn whole(&self, name: &'static str) -> Result<Option<u64>, Error> {
        self.check_once(name)?;
        let text = match self {
            Self::Form(words) => form_value(words, name),
            Self::Json(object) => object.present(name),
        };
        let number = |text: &str| {
            let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
            is_digits.then(|| text.parse().ok()).flatten()
        };
        match text.map(number) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => Err(wrong_type(name, "a whole number that is not negative")),
        }
    }

    /// Something was said in a form.
    #[must_use]
    pub fn is_form(&self) -> bool {
        matches!(self, Self::Form(words) if !words.is_empty())
    }

    fn check_once(&self, name: &'static str) -> Result<(), Error> {
        let repeats = match self {
            Self::Json(object) => object.repeats(name),
            Self::Form(words) => words.iter().filter(|(word, _)| word == name).count() > 1,
        };
        if repeats { Err(twice(name)) } else { Ok(()) }
    }
}

fn form_value<'a>(words: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = words.iter().find(|(word, _)| word == name);
    found.map(|(_, value)| value.as_str())
}

/// A field stands twice.
pub fn twice(name: &'static str) -> Error {
    let text = format!("the field {name} stands twice in the request");
    Error::new(Code::InvalidRequest, text).param(name)
}

/// A field is not there.
pub fn missing(name: &'static str) -> Error {
    let text = format!("the request lacks the field {name}");
    Error::new(Code::InvalidRequest, text).param(name)
}

fn wrong_type(name: &'static str, wanted: &str) -> Error {
    let text = format!("the field {name} has the wrong type: it must be {wanted}");
    Error::new(Code::InvalidRequest, text).param(name)
}

fn malformed() -> Error {
    Error::new(
        Code::InvalidRequest,
        "the form in the body or the query is not well-formed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(content_type: &str, text: &str) -> Result<Fields, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        Fields::of_body(&headers, Bytes::copy_from_slice(text.as_bytes()))
    }

    fn json(text: &str) -> Fields {
        body("application/json", text).ok().unwrap()
    }

    #[test]
    fn words_are_read_from_json_and_forms() {
        let form = body(
            "application/x-www-form-urlencoded; charset=utf-8",
            "a=1%2B1&b=x+y&c&=&d=%C3%A9",
        );
        let form = form.ok().unwrap();
        for (name, value) in [("a", "1+1"), ("b", "x y"), ("c", ""), ("d", "é")] {
            assert_eq!(form.needed(name).ok().as_deref(), Some(value), "{name}");
        }
        assert_eq!(form.text("e").ok(), Some(None));
        let json = json(r#"{"a":"\u0031","n":null,"u":{"a":"x"},"u":1}"#);
        assert_eq!(json.needed("a").ok().as_deref(), Some("1"));
        assert_eq!(json.text("n").ok(), Some(None));
        assert_eq!(Fields::none().text("a").ok(), Some(None));
    }

    #[test]
    fn numbers_are_whole() {
        for (text, expected) in [
            ("0", Some(0)),
            ("50000", Some(50_000)),
            ("18446744073709551615", Some(u64::MAX)),
        ] {
            let field = format!(r#"{{"n":{text}}}"#);
            assert_eq!(json(&field).whole("n").ok(), Some(expected));
            let form = Fields::of_form(&format!("n={text}")).ok().unwrap();
            assert_eq!(form.whole("n").ok(), Some(expected));
        }
        for text in [
            "-1",
            "1.0",
            "1e3",
            "\"5\"",
            "true",
            "[]",
            "{}",
            "18446744073709551616",
            "-0",
        ] {
            let error = json(&format!(r#"{{"n":{text}}}"#)).whole("n").unwrap_err();
            assert_eq!(error.field(), Some("n"), "{text}");
        }
        for text in ["-1", "%2B1", "1.0", "", "x", "+1", "1 ", "٣"] {
            let form = Fields::of_form(&format!("n={text}")).ok().unwrap();
            assert!(form.whole("n").is_err(), "{text}");
        }
    }

    #[test]
    fn faults_name_the_field_and_not_its_value() {
        let secret = "opensesame";
        for fields in [
            json(&format!(r#"{{"password":"{secret}","password":"x"}}"#)),
            json(&format!(r#"{{"password":["{secret}"]}}"#)),
            Fields::of_form(&format!("password={secret}&password=x"))
                .ok()
                .unwrap(),
        ] {
            let error = fields.needed("password").unwrap_err();
            assert_eq!(error.field(), Some("password"));
            assert!(!format!("{error} {}", error.cause_chain()).contains(secret));
        }
        let broken = format!(r#"{{"password":"{secret}"#);
        let error = body("application/json", &broken).err().unwrap();
        assert!(!format!("{error} {}", error.cause_chain()).contains(secret));
        for wrong in ["a=%f", "a=%ff", &"a=1&".repeat(65)] {
            assert!(Fields::of_form(wrong).is_err(), "{wrong}");
        }
        for wrong in ["[]", "5", "\"x\"", "null", "{", "{}x", "\0"] {
            assert!(body("application/json", wrong).is_err(), "{wrong}");
        }
        let error = body("text/plain", "{}").err().unwrap();
        assert_eq!(error.code(), Code::UnsupportedMediaType);
    }
}
