//! Reads the top level of a JSON text without building it: where each member stands. It does not
//! validate; what it cannot read it reports as `None`, and the caller passes the bytes on. Pure.

use std::ops::Range;

use memchr::memchr2;

/// One member of an object, as positions in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key, without its quotes and not unescaped.
    pub key: Range<usize>,
    /// The value, without surrounding white space.
    pub value: Range<usize>,
}

/// Walks the members of an object, or the elements of an array.
pub struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    done: bool,
}

/// The members of the object at `span`; `None` if there is no object.
pub fn members(text: &[u8], span: Range<usize>) -> Option<Walk<'_>> {
    open(text, span, b'{')
}

/// The elements of the array at `span`; `None` if there is no array.
pub fn elements(text: &[u8], span: Range<usize>) -> Option<Walk<'_>> {
    open(text, span, b'[')
}

fn open(text: &[u8], span: Range<usize>, bracket: u8) -> Option<Walk<'_>> {
    let text = text.get(..span.end)?;
    let at = skip_space(text, span.start);
    (text.get(at) == Some(&bracket)).then_some(Walk {
        text,
        at: at + 1,
        done: false,
    })
}

impl Walk<'_> {
    /// The next member, or `None` at the end or at the first thing that is no JSON.
    pub fn next_member(&mut self) -> Option<Member> {
        let key = self.next_element()?;
        if self.text.get(key.start) != Some(&b'"') {
            return None;
        }
        let colon = skip_space(self.text, key.end);
        if self.text.get(colon) != Some(&b':') {
            return None;
        }
        self.done = false;
        let value = self.take_value(colon + 1)?;
        Some(Member {
            key: key.start + 1..key.end - 1,
            value,
        })
    }

    /// The next element, or `None` at the end or at the first thing that is no JSON.
    pub fn next_element(&mut self) -> Option<Range<usize>> {
        if self.done {
            return None;
        }
        let start = self.at;
        self.take_value(start)
    }

    /// Whether something stands next that may be an element, without a look at the whole of it.
    pub fn has_element(&self) -> bool {
        let at = skip_space(self.text, self.at);
        !self.done && !matches!(self.text.get(at), None | Some(b'}' | b']' | b',' | b':'))
    }

    fn take_value(&mut self, from: usize) -> Option<Range<usize>> {
        let start = skip_space(self.text, from);
        let end = skip_value(self.text, start)?;
        let after = skip_space(self.text, end);
        if let Some(b',') = self.text.get(after) {
            self.at = after + 1;
        } else {
            self.at = after;
            self.done = true;
        }
        Some(start..end)
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The position after the value that begins at `at`.
fn skip_value(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => skip_string(text, at),
        b'{' | b'[' => skip_nested(text, at),
        b'}' | b']' | b',' | b':' => None,
        _ => {
            let rest = text.get(at..)?;
            let ends =
                |b: &u8| matches!(b, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r');
            Some(at + rest.iter().position(ends).unwrap_or(rest.len()))
        }
    }
}

fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn skip_nested(text: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = at;
    loop {
        match text.get(at)? {
            b'"' => {
                at = skip_string(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// The bytes to take out so that `member` disappears together with one comma.
pub fn removal(text: &[u8], member: &Member) -> Range<usize> {
    let start = member.key.start - 1;
    let end = member.value.end;
    let after = skip_space(text, end);
    if text.get(after) == Some(&b',') {
        return start..after + 1;
    }
    let before = text[..start].iter().rposition(|b| !b.is_ascii_whitespace());
    match before {
        Some(at) if text[at] == b',' => at..end,
        _ => start..end,
    }
}

/// Catches one top-level member of a JSON object while its text passes in pieces.
pub struct Capture {
    key: &'static [u8],
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// At depth 1: the key that is being read or was read last.
    current: Vec<u8>,
    place: Place,
    value: Vec<u8>,
}

/// What passes just now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At depth 1, where a key stands.
    Key,
    Wanted,
    Other,
}

/// A captured value longer than this is given up.
const CAPTURE_BYTES: usize = 8 * 1024;
/// Longer keys are none of ours.
const KEY_BYTES: usize = 64;

impl Capture {
    /// Waits for the member `key` of the outermost object.
    #[must_use]
    pub fn new(key: &'static str) -> Self {
        Self {
            key: key.as_bytes(),
            depth: 0,
            in_string: false,
            escaped: false,
            current: Vec::new(),
            place: Place::Other,
            value: Vec::new(),
        }
    }

    /// Takes the next piece of the text.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while let Some((&byte, rest)) = piece.split_first() {
            if self.in_string && !self.escaped && !self.collects() {
                // The bulk of an answer is inside strings that nobody asked for.
                let Some(skip) = memchr2(b'"', b'\\', piece) else {
                    return;
                };
                if skip > 0 {
                    piece = &piece[skip..];
                    continue;
                }
            }
            self.step(byte);
            piece = rest;
        }
    }

    /// The value, once it has passed; empty if it has not come.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    fn collects(&self) -> bool {
        self.place != Place::Other
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.keep(byte);
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.place == Place::Key {
                    self.current.clear();
                } else {
                    self.keep(byte);
                }
            }
            b'{' | b'[' => {
                self.keep(byte);
                self.depth += 1;
                if self.depth == 1 && byte == b'{' {
                    self.place = Place::Key;
                } else if self.place == Place::Key {
                    self.place = Place::Other;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth >= 1 {
                    self.keep(byte);
                } else {
                    self.place = Place::Other;
                }
            }
            b':' if self.place == Place::Key => {
                self.place = Place::Other;
                if self.current == self.key {
                    self.place = Place::Wanted;
                    self.value.clear();
                }
            }
            b',' if self.depth == 1 => {
                self.place = Place::Key;
                self.current.clear();
            }
            _ => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.place == Place::Key {
            if byte != b'"' && self.in_string && self.current.len() < KEY_BYTES {
                self.current.push(byte);
            }
        } else if self.place == Place::Wanted && self.value.len() < CAPTURE_BYTES {
            self.value.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_and_values(text: &str) -> Vec<(&str, &str)> {
        let mut walk = members(text.as_bytes(), 0..text.len()).expect("an object");
        let mut all = Vec::new();
        while let Some(member) = walk.next_member() {
            all.push((&text[member.key], &text[member.value]));
        }
        all
    }

    #[test]
    fn members_of_the_top_level_only() {
        let text = r#" { "a" : 1 , "b":{"a":[1,"}"]},"c\"":"x,\"y", "d":[], "e":null}"#;
        let expected = [
            ("a", "1"),
            ("b", r#"{"a":[1,"}"]}"#),
            (r#"c\""#, r#""x,\"y""#),
            ("d", "[]"),
            ("e", "null"),
        ];
        assert_eq!(keys_and_values(text), expected);
    }

    #[test]
    fn elements_of_an_array() {
        let text = r#"[{"a":1}, [2], "x", 4]"#;
        let mut walk = elements(text.as_bytes(), 0..text.len()).expect("an array");
        let mut all = Vec::new();
        while let Some(span) = walk.next_element() {
            all.push(&text[span]);
        }
        assert_eq!(all, [r#"{"a":1}"#, "[2]", r#""x""#, "4"]);
        assert!(
            elements(b"[]", 0..2)
                .expect("an array")
                .next_element()
                .is_none()
        );
    }

    #[test]
    fn no_json_is_no_panic() {
        for text in [
            "",
            "{",
            "{\"",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\\",
            "[",
            "]",
            "{]",
            "{\"a\":[}",
            "{,}",
        ] {
            if let Some(mut walk) = members(text.as_bytes(), 0..text.len()) {
                while walk.next_member().is_some() {}
            }
            let mut capture = Capture::new("a");
            capture.feed(text.as_bytes());
        }
    }

    #[test]
    fn removal_takes_one_comma_along() {
        for (text, expected) in [
            (r#"{"a":1,"usage":{"x":2},"b":3}"#, r#"{"a":1,"b":3}"#),
            (r#"{"a":1,"usage":{"x":2}}"#, r#"{"a":1}"#),
            (r#"{"usage":null,"b":3}"#, r#"{"b":3}"#),
            (r#"{"usage":null}"#, "{}"),
        ] {
            let mut walk = members(text.as_bytes(), 0..text.len()).expect("an object");
            let member = std::iter::from_fn(|| walk.next_member())
                .find(|m| &text[m.key.clone()] == "usage")
                .expect("a usage member");
            let gone = removal(text.as_bytes(), &member);
            assert_eq!(
                format!("{}{}", &text[..gone.start], &text[gone.end..]),
                expected
            );
        }
    }

    #[test]
    fn capture_is_the_same_however_the_text_is_cut() {
        let text = r#"{"choices":[{"usage":1,"m":"\"usage\":{\"x\":1}"}], "usage" : {"a":"}\"","b":[1,{}]} ,"z":"usage"}"#;
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut capture = Capture::new("usage");
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    capture.feed(piece.as_bytes());
                }
                let value = std::str::from_utf8(capture.value()).expect("text").trim();
                assert_eq!(
                    value, r#"{"a":"}\"","b":[1,{}]}"#,
                    "cut at {first} and {second}"
                );
            }
        }
    }
}
