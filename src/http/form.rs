//! Reads single fields of a multipart form without taking the form apart. Pure.

use memchr::memmem;

/// A field longer than this is a file, not a word.
const FIELD_BYTES: usize = 1024;

/// The boundary of a `multipart/form-data` content type.
pub fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len()))
            .then(|| value.to_owned())
    })
}

/// The text of a field; `None` if it is absent, a file, or no text.
pub fn field(form: &[u8], boundary: &str, name: &str) -> Option<String> {
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let starts: Vec<usize> = finder.find_iter(form).take(256).collect();
    let parts = starts
        .windows(2)
        .map(|pair| &form[pair[0] + delimiter.len()..pair[1]]);
    for part in parts {
        let Some(head_end) = memmem::find(part, b"\r\n\r\n") else {
            continue;
        };
        let (head, content) = (&part[..head_end], &part[head_end + 4..]);
        if !names(head, name) {
            continue;
        }
        let content = content.strip_suffix(b"\r\n").unwrap_or(content);
        return (content.len() <= FIELD_BYTES)
            .then(|| {
                std::str::from_utf8(content)
                    .ok()
                    .map(|text| text.trim().to_owned())
            })
            .flatten();
    }
    None
}

/// Whether a part's head gives it this name and makes it no file.
fn names(head: &[u8], name: &str) -> bool {
    let Ok(head) = std::str::from_utf8(head) else {
        return false;
    };
    head.lines().any(|line| {
        let Some((header, value)) = line.split_once(':') else {
            return false;
        };
        let mut parameters = value.split(';').skip(1).map(str::trim);
        header.eq_ignore_ascii_case("content-disposition")
            && !value.contains("filename")
            && parameters.any(|parameter| {
                parameter
                    .strip_prefix("name=")
                    .is_some_and(|value| value.trim_matches('"') == name)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let form = "--x-y\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nname=\"model\"\r\n--x-y\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x-y\r\nContent-Disposition: form-data; name=stream\r\n\r\ntrue\r\n--x-y--\r\n";
        let get = |name| field(form.as_bytes(), "x-y", name);
        assert_eq!(get("model").as_deref(), Some("whisper"));
        assert_eq!(get("stream").as_deref(), Some("true"));
        assert_eq!(get("file"), None);
        assert_eq!(get("other"), None);
        assert_eq!(field(b"", "x-y", "model"), None);
        assert_eq!(field(b"--x-y--x-y--x-y", "x-y", "model"), None);
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
