//! Recorded exchanges: one request and the answer a real server gave to it, read from a pair of
//! `.http` files. It knows the files' form and nothing of what anybody expects of them.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::sse;

/// A request and its answer, as they were on the wire (head lines end in LF, chunked framing is off).
#[derive(Clone, Debug)]
pub struct Recording {
    /// File name without `.request.http`; in a sub-folder `keyed/NAME`, `streams/NAME`.
    pub name: String,
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub request_headers: HeaderMap,
    pub request_body: Bytes,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Recording {
    /// Whether the answer is an event stream.
    pub fn is_stream(&self) -> bool {
        let kind = self.headers.get(http::header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
    }

    /// The events of a stream, each with the blank line that ends it.
    pub fn events(&self) -> Vec<Bytes> {
        sse::split(&self.body)
    }

    /// The body as JSON, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The request's body as JSON, if it is JSON.
    pub fn request_json(&self) -> Option<Value> {
        serde_json::from_slice(&self.request_body).ok()
    }
}

/// Every recording under a folder, those in its sub-folders included, sorted by name.
pub fn load_all(folder: &Path) -> Vec<Recording> {
    let mut found = Vec::new();
    collect(folder, "", &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        !found.is_empty(),
        "no recordings under {}",
        folder.display()
    );
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<Recording>) {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a readable folder").path();
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            collect(&path, &format!("{prefix}{file}/"), found);
        } else if let Some(name) = file.strip_suffix(".request.http") {
            found.push(load(folder, name, format!("{prefix}{name}")));
        }
    }
}

fn load(folder: &Path, file: &str, name: String) -> Recording {
    let read = |kind: &str| {
        let path = folder.join(format!("{file}.{kind}.http"));
        fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    };
    let (line, request_headers, request_body) = parse(&read("request"));
    let mut words = line.split(' ');
    let method = words.next().and_then(|word| word.parse().ok());
    let path = words.next().unwrap_or_default().to_owned();
    let (line, headers, body) = parse(&read("response"));
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    Recording {
        method: method.unwrap_or_else(|| panic!("{name}: no method")),
        status: status.unwrap_or_else(|| panic!("{name}: no status in {line:?}")),
        name,
        path,
        request_headers,
        request_body,
        headers,
        body,
    }
}

/// First line, headers, body. The recorder ends every file with a line feed, so a declared length
/// decides where the body ends; a body that was shortened on purpose is shorter than declared.
fn parse(raw: &[u8]) -> (String, HeaderMap, Bytes) {
    let cut = memchr::memmem::find(raw, b"\n\n").map_or(raw.len(), |at| at + 1);
    let head = String::from_utf8_lossy(&raw[..cut]).into_owned();
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let name = HeaderName::try_from(name.trim());
        let value = HeaderValue::try_from(value.trim());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let rest = raw.get(cut + 1..).unwrap_or_default();
    let declared = headers.get(http::header::CONTENT_LENGTH);
    let declared = declared.and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    let length = match declared {
        Some(length) => length.min(rest.len()),
        None if chunked => rest.len(),
        None => 0,
    };
    (first, headers, Bytes::copy_from_slice(&rest[..length]))
}
