//! Event streams as bytes: cutting one into its events, and dressing events up in the ways that
//! real servers and proxies do. It knows nothing of what an event says.

use bytes::{Bytes, BytesMut};

/// How a stream looks on the wire, beside what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    /// Every HTTP chunk carries so many bytes, whatever the events; one event each if `None`.
    pub split_bytes: Option<usize>,
    /// Lines end in CR LF.
    pub crlf: bool,
    /// A comment line goes before every event.
    pub comments: bool,
}

/// The events of a stream, each with the blank line that ends it; a rest without one comes last.
pub fn split(body: &[u8]) -> Vec<Bytes> {
    let mut events = Vec::new();
    let mut start = 0;
    for at in memchr::memmem::find_iter(body, b"\n\n") {
        // Three line feeds in a row would match twice; the second is no event.
        if at + 2 > start + 1 {
            events.push(Bytes::copy_from_slice(&body[start..at + 2]));
            start = at + 2;
        }
    }
    if start < body.len() {
        events.push(Bytes::copy_from_slice(&body[start..]));
    }
    events
}

/// The `data` of an event as one text; `None` for an event without any.
pub fn data(event: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(event);
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|rest| rest.strip_prefix(' ').unwrap_or(rest))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

impl Framing {
    /// One event in this dress (line ends and comment; splitting is `pieces`).
    pub fn dress(self, event: &Bytes) -> Bytes {
        if !self.crlf && !self.comments {
            return event.clone();
        }
        let mut out = BytesMut::new();
        if self.comments {
            out.extend_from_slice(b": still here\n\n");
        }
        out.extend_from_slice(event);
        if !self.crlf {
            return out.freeze();
        }
        let text = String::from_utf8_lossy(&out).replace('\n', "\r\n");
        Bytes::from(text)
    }

    /// The pieces in which these bytes go out.
    pub fn pieces(self, bytes: &Bytes) -> Vec<Bytes> {
        let Some(size) = self.split_bytes.filter(|size| *size > 0) else {
            return vec![bytes.clone()];
        };
        (0..bytes.len())
            .step_by(size)
            .map(|at| bytes.slice(at..bytes.len().min(at + size)))
            .collect()
    }
}
