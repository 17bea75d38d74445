//! Names of users. Pure.

use crate::error::{Code, Error};

const MOST_BYTES: usize = 64;

/// A name in the form that it is kept in: case does not count. `None` if it is none.
#[must_use]
pub fn fold(text: &str) -> Option<String> {
    let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let is_name = (1..=MOST_BYTES).contains(&text.len()) && text.bytes().all(is_taken);
    is_name.then(|| text.to_ascii_lowercase())
}

/// A new user's name.
///
/// # Errors
/// `invalid_request`, without the text.
pub fn check(text: &str) -> Result<String, Error> {
    fold(text).ok_or_else(|| {
        Error::new(
            Code::InvalidRequest,
            "a username is one to sixty-four of the letters a to z, digits and the signs . _ @ -",
        )
        .param("username")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_what_is_none_is_refused() {
        assert_eq!(fold("Ann.B_c@d-9").as_deref(), Some("ann.b_c@d-9"));
        assert_eq!(fold(&"x".repeat(64)).map(|name| name.len()), Some(64));
        let long = "x".repeat(65);
        for text in [
            "", " ", "a b", "ä", "ann\n", "ann\0", "K", "'--", "a/b", &long,
        ] {
            assert_eq!(fold(text), None, "{text:?}");
            assert_eq!(check(text).unwrap_err().field(), Some("username"));
        }
    }
}
