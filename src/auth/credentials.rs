//! The key that a request shows in its headers. Pure; does not know whether the key is any good.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::error::{Code, Error};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key that these headers show. `X-API-Key` decides when both headers come, because an
/// `Authorization` beside it may belong to Cloud Run's own check.
///
/// # Errors
/// `missing_api_key`, or `invalid_api_key` for what cannot be a key: a header that stands twice,
/// is no UTF-8, or names another scheme than Bearer.
pub fn presented_key(headers: &HeaderMap) -> Result<&str, Error> {
    let own = only_value(headers, &X_API_KEY)?;
    let bearer = only_value(headers, &AUTHORIZATION)?;
    if let Some(value) = own {
        return text(value);
    }
    let Some(value) = bearer else {
        return Err(missing());
    };
    let credentials = text(value)?;
    let (scheme, key) = credentials
        .split_once([' ', '\t'])
        .unwrap_or((credentials, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::new(
            Code::InvalidApiKey,
            "the Authorization header is not of the form `Bearer KEY`; send the key so, or in the X-API-Key header",
        ));
    }
    // Clients with an empty key send the bare scheme.
    Some(key.trim())
        .filter(|key| !key.is_empty())
        .ok_or_else(missing)
}

/// The one value of a header, empty ones aside.
fn only_value<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Error> {
    let mut values = headers
        .get_all(name)
        .iter()
        .filter(|value| !value.as_bytes().trim_ascii().is_empty());
    let first = values.next();
    if values.next().is_some() {
        return Err(Error::new(
            Code::InvalidApiKey,
            "a header with the API key stands more than once; send it once",
        ));
    }
    Ok(first)
}

fn text(value: &HeaderValue) -> Result<&str, Error> {
    std::str::from_utf8(value.as_bytes())
        .map(str::trim)
        .map_err(|_| {
            Error::new(
                Code::InvalidApiKey,
                "the header with the API key is not valid UTF-8",
            )
        })
}

fn missing() -> Error {
    Error::new(
        Code::MissingApiKey,
        "no API key was sent; send it in the X-API-Key header or as `Authorization: Bearer KEY`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[(&'static str, &[u8])], expected: Result<&str, Code>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let got = presented_key(&headers).map_err(|error| error.code());
        assert_eq!(got, expected, "{lines:?}");
    }

    #[test]
    fn either_header_carries_the_key() {
        check(&[("x-api-key", b"one")], Ok("one"));
        check(&[("authorization", b"Bearer one")], Ok("one"));
        check(&[("authorization", b"bEARER   one")], Ok("one"));
        check(&[("authorization", b"Bearer\tone")], Ok("one"));
        check(&[("x-api-key", "schlüssel".as_bytes())], Ok("schlüssel"));
    }

    #[test]
    fn x_api_key_decides_when_both_come() {
        check(
            &[("x-api-key", b"one"), ("authorization", b"Bearer two")],
            Ok("one"),
        );
        check(
            &[("x-api-key", b"one"), ("authorization", b"Basic eA==")],
            Ok("one"),
        );
        check(
            &[("x-api-key", b"one"), ("authorization", b"\xff")],
            Ok("one"),
        );
    }

    #[test]
    fn an_empty_header_is_absent() {
        check(&[], Err(Code::MissingApiKey));
        check(&[("x-api-key", b"")], Err(Code::MissingApiKey));
        check(
            &[("x-api-key", b"  "), ("authorization", b"Bearer two")],
            Ok("two"),
        );
        check(&[("authorization", b"")], Err(Code::MissingApiKey));
        check(&[("authorization", b"Bearer")], Err(Code::MissingApiKey));
        check(&[("authorization", b"Bearer  ")], Err(Code::MissingApiKey));
        check(&[("x-api-key", b""), ("x-api-key", b"one")], Ok("one"));
    }

    #[test]
    fn a_header_that_stands_twice_is_refused() {
        check(
            &[("x-api-key", b"one"), ("x-api-key", b"one")],
            Err(Code::InvalidApiKey),
        );
        check(
            &[
                ("authorization", b"Bearer one"),
                ("authorization", b"Bearer one"),
            ],
            Err(Code::InvalidApiKey),
        );
        check(
            &[
                ("x-api-key", b"one"),
                ("authorization", b"Bearer a"),
                ("authorization", b"Bearer b"),
            ],
            Err(Code::InvalidApiKey),
        );
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        check(&[("x-api-key", b"\xff\xfe")], Err(Code::InvalidApiKey));
        check(
            &[("authorization", b"Bearer \xff")],
            Err(Code::InvalidApiKey),
        );
        check(&[("authorization", b"sk-bare")], Err(Code::InvalidApiKey));
        check(
            &[("authorization", b"Basic eA==")],
            Err(Code::InvalidApiKey),
        );
    }

    #[test]
    fn the_missing_key_text_names_both_headers_and_holds_no_digit() {
        let error = presented_key(&HeaderMap::new()).unwrap_err();
        assert!(
            error.message().contains("X-API-Key")
                && error.message().contains("Authorization: Bearer")
        );
        assert!(!error.message().contains(|c: char| c.is_ascii_digit()));
    }
}
