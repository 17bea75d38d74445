//! The text of a `.env` file: lines `NAME=value`, comments, quotes, `export`. Pure; nothing is
//! expanded, because a `$` in a key is a `$`.

use std::collections::BTreeMap;

/// Reads all lines. The last of several assignments of one name counts, as in a shell.
///
/// # Errors
/// Every line that is no assignment, by number. The text of a line is never repeated: it may hold
/// a secret.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut values = BTreeMap::new();
    let mut faults = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        match assignment(line) {
            Ok(Some((name, value))) => {
                values.insert(name.to_owned(), value);
            }
            Ok(None) => {}
            Err(fault) => faults.push(format!(".env line {}: {fault}", index + 1)),
        }
    }
    if faults.is_empty() {
        Ok(values)
    } else {
        Err(faults)
    }
}

/// One line; `None` for an empty one or a comment.
fn assignment(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line.split_once('=').ok_or("is not NAME=value")?;
    let name = match name.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => name,
    }
    .trim_end();
    if !is_name(name) {
        return Err("has a name that is not letters, digits and underscores");
    }
    Ok(Some((name, unquote(value.trim_start())?)))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The value behind the `=`: bare up to a ` #`, literal in single quotes, with escapes in double ones.
fn unquote(raw: &str) -> Result<String, &'static str> {
    let (value, rest) = if let Some(quoted) = raw.strip_prefix('\'') {
        let (value, rest) = quoted
            .split_once('\'')
            .ok_or("has a quote that is not closed")?;
        (value.to_owned(), rest)
    } else if let Some(quoted) = raw.strip_prefix('"') {
        double_quoted(quoted)?
    } else {
        return Ok(bare(raw).trim_end().to_owned());
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(value)
    } else {
        Err("has text after the closing quote")
    }
}

/// A `#` begins a comment only at the start or after a blank: `a#b` is a value.
fn bare(raw: &str) -> &str {
    let comment = raw
        .match_indices('#')
        .find(|(at, _)| *at == 0 || raw.as_bytes()[at - 1].is_ascii_whitespace());
    comment.map_or(raw, |(at, _)| &raw[..at])
}

fn double_quoted(quoted: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::with_capacity(quoted.len());
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("has a quote that is not closed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(line: &str, expected: &str) {
        let values = parse(line).unwrap();
        assert_eq!(
            values.get("A").map(String::as_str),
            Some(expected),
            "{line}"
        );
    }

    #[test]
    fn quotes_comments_and_export_are_understood() {
        check("A=b", "b");
        check("A = b", "b");
        check("A=b # comment", "b");
        check("A=b#c", "b#c");
        check("A=# only a comment", "");
        check("A='b # c'  # d", "b # c");
        check(r#"A="b \"c\" \\ \n$d""#, "b \"c\" \\ \n$d");
        check("export A=b", "b");
        check("export\tA=b", "b");
        check("A=x=y", "x=y");
        check("A=", "");
        check("A=1\nA=2\r\n", "2");
        check("\u{feff}A=b", "b");
        check("# c\n\n A=b  ", "b");
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_never_repeated() {
        for bad in [
            "sk-secret",
            "A B=sk-secret",
            "=sk-secret",
            "A='sk-secret",
            "A=\"sk-secret\\",
            "A='x' sk-secret",
        ] {
            let faults = parse(&format!("OK=1\n{bad}\n")).unwrap_err();
            assert_eq!(faults.len(), 1, "{bad}");
            assert!(faults[0].starts_with(".env line 2: "), "{faults:?}");
            assert!(!faults[0].contains("sk-secret"), "{faults:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_single_quoted_value_comes_back_whole(value in "[^'\r\n]*") {
            let values = parse(&format!("A='{value}'")).unwrap();
            prop_assert_eq!(&values["A"], &value);
        }
    }
}
