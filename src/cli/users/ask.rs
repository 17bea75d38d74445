//! Asking for a password: at a terminal without showing it, or from standard input. Judges nothing but
//! how much is read.

use std::io::Read;

use anyhow::{Context as _, bail};

use crate::secret::Secret;

/// More than any password has.
const MOST_BYTES: u64 = 4096;

/// What came of asking.
pub(super) enum Asked {
    Given(Secret<String>),
    /// There is nobody to ask.
    Nobody,
}

/// Reads to the end; a last line break is no part of the password.
///
/// # Errors
/// It is no text, or too long for a password.
pub(super) fn read(from: impl Read) -> anyhow::Result<Asked> {
    let mut text = String::new();
    let read = from.take(MOST_BYTES + 1).read_to_string(&mut text);
    read.context("cannot read the password from standard input")?;
    if text.len() as u64 > MOST_BYTES {
        bail!("what stands on standard input is too long for a password");
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok(Asked::Given(Secret::new(line.to_owned())))
}

/// Asks twice at the terminal, without echo.
///
/// # Errors
/// The two differ, or the terminal is gone.
pub(super) fn prompt() -> anyhow::Result<Asked> {
    const WHAT: &str = "cannot ask for the password";
    let first = rpassword::prompt_password("Password: ").context(WHAT)?;
    let second = rpassword::prompt_password("Once more: ").context(WHAT)?;
    if first != second {
        bail!("the two passwords differ");
    }
    Ok(Asked::Given(Secret::new(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_no_part_of_it() {
        let long = "x".repeat(4096);
        for (text, password) in [
            ("secret word", "secret word"),
            ("secret word\n", "secret word"),
            ("secret word\r\n", "secret word"),
            ("two\nlines\n\n", "two\nlines\n"),
            (" blanks ", " blanks "),
            ("", ""),
            (&long, &long),
        ] {
            let Ok(Asked::Given(read)) = read(text.as_bytes()) else {
                panic!("{text:?} is refused");
            };
            assert_eq!(read.expose(), password);
        }
    }

    #[test]
    fn what_is_no_text_or_too_long_is_refused() {
        assert!(read(&b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"[..]).is_err());
        assert!(read("x".repeat(4097).as_bytes()).is_err());
        assert!(read(std::io::repeat(b'x')).is_err());
    }
}
