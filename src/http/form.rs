//! Reads single fields of a multipart form, and refuses a form that the model server might read
//! otherwise: what counts here must be what counts there. Pure.

use memchr::memmem;

/// A field longer than this is a file, not a word.
const FIELD_BYTES: usize = 1024;
/// A form of more parts than this is refused.
const PARTS: usize = 256;

/// The boundary of a `multipart/form-data` content type.
pub fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len()))
            .then(|| value.to_owned())
    })
}

/// Why a form is not read. Whatever another parser could understand otherwise is among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A field that is asked for stands twice.
    Twice(&'static str),
    /// A field that is asked for is a file, too long, or no text.
    NoWord(&'static str),
    TooManyParts,
    /// The parts or their heads are not written as they should be.
    Malformed,
}

/// The texts of some fields; `None` for one that is absent.
///
/// # Errors
/// A form that another parser may read differently.
pub fn fields<const N: usize>(
    form: &[u8],
    boundary: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], Fault> {
    let mut found = [const { None }; N];
    for part in parts(form, boundary)? {
        let head_end = memmem::find(part, b"\r\n\r\n").ok_or(Fault::Malformed)?;
        let (head, content) = (&part[..head_end], &part[head_end + 4..]);
        let disposition = Disposition::read(head)?;
        let Some(at) = names.iter().position(|name| disposition.name == *name) else {
            continue;
        };
        if found[at].is_some() {
            return Err(Fault::Twice(names[at]));
        }
        let text = std::str::from_utf8(content)
            .ok()
            .filter(|text| text.len() <= FIELD_BYTES && !disposition.is_file)
            .ok_or(Fault::NoWord(names[at]))?;
        found[at] = Some(text.to_owned());
    }
    Ok(found)
}

/// What stands between the delimiters, heads with their first line end. A delimiter stands at the
/// very beginning or begins a line; anywhere else the same bytes are content.
fn parts<'a>(form: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, Fault> {
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut begin = form
        .starts_with(&delimiter.as_bytes()[2..])
        .then_some(delimiter.len() - 2);
    for start in memmem::find_iter(form, delimiter.as_bytes()) {
        if let Some(begin) = begin {
            let part = form.get(begin..start).ok_or(Fault::Malformed)?;
            // After the last delimiter comes none, and after another comes a line end.
            if !part.starts_with(b"\r\n") {
                return Err(Fault::Malformed);
            }
            parts.push(part);
        }
        if parts.len() > PARTS {
            return Err(Fault::TooManyParts);
        }
        begin = Some(start + delimiter.len());
    }
    // What follows the last delimiter is no part, whatever else it is.
    if begin.is_some_and(|begin| form[begin..].starts_with(b"--")) {
        Ok(parts)
    } else {
        Err(Fault::Malformed)
    }
}

/// What the head of a part says of it.
struct Disposition {
    name: String,
    is_file: bool,
}

impl Disposition {
    fn read(head: &[u8]) -> Result<Self, Fault> {
        let head = String::from_utf8_lossy(head);
        let mut values = head.split("\r\n").filter_map(|line| {
            let (header, value) = line.split_once(':')?;
            header
                .trim()
                .eq_ignore_ascii_case("content-disposition")
                .then_some(value)
        });
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Fault::Malformed);
        };
        let mut name = None;
        let mut is_file = false;
        for parameter in split_parameters(value).skip(1) {
            let (key, text) = parameter.split_once('=').unwrap_or((parameter, ""));
            let key = key.trim().to_ascii_lowercase();
            is_file |= key.starts_with("filename");
            // `name*` is the name in another coding, which not every parser knows.
            if key.starts_with("name*")
                || (key == "name" && name.replace(text.trim().trim_matches('"')).is_some())
            {
                return Err(Fault::Malformed);
            }
        }
        Ok(Self {
            name: name.ok_or(Fault::Malformed)?.to_owned(),
            is_file,
        })
    }
}

/// The pieces between semicolons, those within quotes left whole.
fn split_parameters(value: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '\\' if is_quoted => is_escaped = !was_escaped,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        c == ';' && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a; name=model.wav\"\r\nContent-Type: audio/wav";
    const MODEL: &str = "content-disposition: form-data; name=\"model\"";

    fn form(parts: &[(&str, &str)]) -> String {
        let whole = parts.iter().fold(String::new(), |whole, (head, content)| {
            whole + "--x-y\r\n" + head + "\r\n\r\n" + content + "\r\n"
        });
        whole + "--x-y--\r\n"
    }

    fn read(form: &str) -> Result<[Option<String>; 2], Fault> {
        fields(form.as_bytes(), "x-y", ["model", "stream"])
    }

    fn model(name: &str) -> [Option<String>; 2] {
        [Some(name.to_owned()), None]
    }

    #[test]
    fn fields_are_found() {
        let stream = "Content-Disposition: form-data; NAME = stream";
        let sent = form(&[
            (FILE, "name=\"model\""),
            (MODEL, "whisper"),
            (stream, "true"),
        ]);
        let both = [Some("whisper".to_owned()), Some("true".to_owned())];
        assert_eq!(read(&sent), Ok(both.clone()));
        assert_eq!(read(&format!("preamble\r\n{sent}epilogue")), Ok(both));
        assert_eq!(read(&form(&[(FILE, "")])), Ok([None, None]));
        assert_eq!(read("--x-y--"), Ok([None, None]));
        for wrong in ["", "--x-y", "--x-y\r\n", "model=whisper"] {
            assert_eq!(read(wrong), Err(Fault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn a_file_cannot_name_the_model() {
        let crafted = format!("RIFF--x-y\r\n{MODEL}\r\n\r\nallowed\n--x-y");
        let sent = form(&[(FILE, &crafted), (MODEL, "other")]);
        assert_eq!(read(&sent), Ok(model("other")));
        let decoy = "Content-Disposition: form-data; name=\"x; name=model\"";
        let sent = form(&[(decoy, "allowed"), (MODEL, "other")]);
        assert_eq!(read(&sent), Ok(model("other")));
        let folded = format!("X: y\n{MODEL}\r\nContent-Disposition: form-data; name=x");
        let sent = form(&[(&folded, "allowed"), (MODEL, "other")]);
        assert_eq!(read(&sent), Ok(model("other")));
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        let twice = form(&[(MODEL, "allowed"), (FILE, ""), (MODEL, "other")]);
        assert_eq!(read(&twice), Err(Fault::Twice("model")));
        let file = format!("{MODEL}; filename=\"a\"");
        assert_eq!(read(&form(&[(&file, "a")])), Err(Fault::NoWord("model")));
        let long = "a".repeat(FIELD_BYTES + 1);
        assert_eq!(read(&form(&[(MODEL, &long)])), Err(Fault::NoWord("model")));
        let many = vec![(FILE, ""); PARTS + 1];
        assert_eq!(read(&form(&many)), Err(Fault::TooManyParts));
        assert_eq!(read(&form(&many[1..])), Ok([None, None]));
        let ended = form(&[(MODEL, "allowed")]) + &form(&[(MODEL, "other")]);
        for wrong in [
            ended,
            form(&[("X: y", "a")]),
            form(&[(&format!("{MODEL}\r\n{FILE}"), "a")]),
            form(&[("Content-Disposition: form-data; name*=utf-8''model", "a")]),
            form(&[("Content-Disposition: form-data; name=a; name=model", "a")]),
            form(&[(MODEL, "allowed\r\n--x-y-more")]),
        ] {
            assert_eq!(read(&wrong), Err(Fault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn boundaries_are_read() {
        assert_eq!(
            boundary("multipart/form-data; boundary=\"a b\"").as_deref(),
            Some("a b")
        );
        assert_eq!(
            boundary("multipart/form-data; charset=x; Boundary=----abc").as_deref(),
            Some("----abc")
        );
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
    }
}
