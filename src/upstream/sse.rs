//! Splits a byte stream into server-sent events, wherever the pieces are cut. Pure.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The longest event that is taken; an upstream that sends more is broken.
pub const EVENT_BYTES: usize = 32 * 1024 * 1024;

/// Collects pieces and hands out whole events, terminators included, byte for byte.
///
/// Events that arrive whole are slices of their piece; only those cut in two are copied together.
#[derive(Default)]
pub struct Splitter {
    piece: Bytes,
    /// The beginning of an event whose end has not come, and all that follows; beats `piece`.
    joined: BytesMut,
    /// Everything before this position holds no end of an event.
    line_start: usize,
    /// Everything between `line_start` and this position holds no end of a line: a long line that
    /// comes in many pieces is searched once.
    searched: usize,
}

impl Splitter {
    /// Adds the next piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.waiting_bytes() == 0 {
            self.piece = piece;
            return;
        }
        self.joined
            .extend_from_slice(&std::mem::take(&mut self.piece));
        self.joined.extend_from_slice(&piece);
    }

    /// The next whole event.
    pub fn next_event(&mut self) -> Option<Bytes> {
        loop {
            let text: &[u8] = if self.joined.is_empty() {
                &self.piece
            } else {
                &self.joined
            };
            let from = self.line_start.max(self.searched);
            let Some(offset) = memchr2(b'\n', b'\r', &text[from..]) else {
                self.searched = text.len();
                return None;
            };
            let newline = from + offset;
            self.searched = newline;
            let width = match (text[newline], text.get(newline + 1)) {
                (b'\n', _) => 1,
                (_, Some(b'\n')) => 2,
                (_, Some(_)) => 1,
                // A carriage return at the very end: a line feed may follow.
                (_, None) => return None,
            };
            if newline == self.line_start {
                return Some(self.take(newline + width));
            }
            self.line_start = newline + width;
        }
    }

    /// Bytes that wait for the rest of their event.
    pub fn waiting_bytes(&self) -> usize {
        self.piece.len() + self.joined.len()
    }

    /// What is left at the end of the stream: an event without its blank line, or empty.
    pub fn finish(&mut self) -> Bytes {
        self.take(self.waiting_bytes())
    }

    fn take(&mut self, end: usize) -> Bytes {
        self.line_start = 0;
        self.searched = 0;
        if self.joined.is_empty() {
            self.piece.split_to(end)
        } else {
            self.joined.split_to(end).freeze()
        }
    }
}

/// The data of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Data {
    /// One `data:` line: where its content stands in the event.
    Line(std::ops::Range<usize>),
    /// Several `data:` lines, joined by line feeds.
    Joined(Vec<u8>),
    /// A comment, a blank line, or fields without data.
    None,
}

/// Finds the data of a whole event.
pub fn data(event: &[u8]) -> Data {
    let mut found = Data::None;
    let mut at = 0;
    while at < event.len() {
        let end = memchr2(b'\n', b'\r', &event[at..]).map_or(event.len(), |offset| at + offset);
        if let Some(content) = event[at..end].strip_prefix(b"data:") {
            let content = content.strip_prefix(b" ").unwrap_or(content);
            let span = end - content.len()..end;
            found = match found {
                Data::None => Data::Line(span),
                Data::Line(first) => Data::Joined([&event[first], content].join(&b'\n')),
                Data::Joined(lines) => Data::Joined([&lines[..], content].join(&b'\n')),
            };
        }
        at = end + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        for piece in pieces {
            splitter.push(Bytes::copy_from_slice(piece));
            while let Some(event) = splitter.next_event() {
                events.push(event.to_vec());
            }
        }
        (events, splitter.finish().to_vec())
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        let stream: &[u8] = b"data: a\n\n: note\r\n\r\nevent: x\r\ndata: b\r\ndata: c\r\n\r\ndata: d\r\rdata: e\n\ndata: f\n";
        let whole = split(&[stream]);
        assert_eq!(whole.0.len(), 5, "{whole:?}");
        assert_eq!(whole.1, b"data: f\n");
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let cut = split(&[&stream[..first], &stream[first..second], &stream[second..]]);
                assert_eq!(cut, whole, "cut at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&bytes), whole);
    }

    #[test]
    fn data_is_found_and_joined() {
        assert_eq!(data(b"data: [DONE]\n\n"), Data::Line(6..12));
        assert_eq!(data(b"event: e\r\ndata:x\r\n\r\n"), Data::Line(15..16));
        assert_eq!(data(b": comment\n\n"), Data::None);
        assert_eq!(
            data(b"data: a\ndata: b\n\n"),
            Data::Joined(b"a\nb".to_vec())
        );
    }
}
