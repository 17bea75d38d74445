//! The most tokens that a JSON text can become in a prompt: one for each byte of what a tokenizer
//! may get to see of it. Walks the text once and builds nothing. Pure.

/// Most bytes that normalising makes of one byte outside ASCII, and of the JSON escapes in which
/// templates may print it.
const OUTSIDE_ASCII: u64 = 3;
/// Characters that compatibility normalising makes longer than that: squared words and ligatures
/// of whole phrases. The longest becomes so many bytes.
const SPELT_OUT: u64 = 33;
/// Indentation of printed JSON, and the level at which templates may begin.
const INDENT: u64 = 4;
const OUTERMOST: u64 = 1;
/// The longest text that a number with a fraction or an exponent is printed as.
const FRACTION: u64 = 24;

/// How a text gets into the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Strings stand there as they are.
    Text,
    /// JSON is printed by a template, with line breaks and indentation, its escapes kept or made
    /// anew; JSON inside of strings may be read and printed as well.
    Printed,
}

/// The most tokens of a valid JSON text.
pub fn weigh(json: &[u8], style: Style) -> u64 {
    let mut scan = Scan {
        style,
        depth: OUTERMOST,
        total: 0,
    };
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => scan.string(rest),
            b'{' | b'[' | b'}' | b']' | b',' | b':' => {
                scan.mark(byte);
                after
            }
            b' ' | b'\t' | b'\n' | b'\r' => {
                scan.add(u64::from(style == Style::Text));
                after
            }
            _ => scan.scalar(rest),
        };
    }
    scan.total
}

struct Scan {
    style: Style,
    depth: u64,
    total: u64,
}

impl Scan {
    fn add(&mut self, tokens: u64) {
        self.total = self.total.saturating_add(tokens);
    }

    fn mark(&mut self, mark: u8) {
        if self.style == Style::Text {
            return self.add(1);
        }
        match mark {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        // The mark, and a blank or a line break with the next line's indentation.
        let line = INDENT.saturating_mul(self.depth);
        self.add(if mark == b':' { 2 } else { line + 2 });
    }

    /// A number or a word; gives what stands after it.
    fn scalar<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let ends = |b: &u8| b",:]}[{\" \t\r\n".contains(b);
        let length = text.iter().position(ends).unwrap_or(text.len()).max(1);
        let (scalar, rest) = text.split_at(length);
        let is_fraction = scalar[0] != b't'
            && scalar[0] != b'f'
            && scalar.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
        let bytes = wide(length);
        self.add(match self.style {
            Style::Printed if is_fraction => bytes.max(FRACTION),
            Style::Printed => bytes.max(5),
            Style::Text => bytes,
        });
        rest
    }

    /// A string with its quotes; gives what stands after it.
    fn string<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let mut tokens = 2;
        let mut at = 1;
        while let Some(&byte) = text.get(at) {
            let (bytes, weight) = match byte {
                b'"' => {
                    at += 1;
                    break;
                }
                b'\\' => self.escape(&text[at..]),
                0..0x7f => (
                    1,
                    1 + u64::from(byte == b'\'' && self.style == Style::Printed),
                ),
                _ => outside_ascii(&text[at..]),
            };
            tokens += weight;
            at += bytes;
        }
        let (string, rest) = text.split_at(at.min(text.len()));
        let inner = match self.style {
            Style::Printed => inner_json(string).map(|inner| weigh(inner.as_bytes(), self.style)),
            Style::Text => None,
        };
        self.add(inner.unwrap_or(0).max(tokens));
        rest
    }

    /// An escape: its bytes, and what they weigh.
    fn escape(&self, text: &[u8]) -> (usize, u64) {
        match text.get(1) {
            Some(b'u') => (6, text.get(2..6).map_or(6, weigh_code_unit)),
            // Python shows these two in four characters.
            Some(b'b' | b'f') if self.style == Style::Printed => (2, 4),
            _ => (2, 2),
        }
    }
}

/// A `\u` escape by its four digits: itself, or what its character weighs.
fn weigh_code_unit(digits: &[u8]) -> u64 {
    let unit = std::str::from_utf8(digits).ok();
    match unit.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
        Some(unit) if is_spelt_out(unit) => SPELT_OUT,
        Some(0x800..=0xd7ff | 0xe000..=0xffff) => 3 * OUTSIDE_ASCII,
        _ => 6,
    }
}

/// A character that begins with a byte from 0x7f on: its bytes, and what they weigh.
fn outside_ascii(text: &[u8]) -> (usize, u64) {
    let bytes: usize = match text[0] {
        // A control character that printing may escape.
        0x7f => return (1, 6),
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    let weight = match text {
        [a, b, c, ..] if bytes == 3 => {
            let point = u32::from(a & 0xf) << 12 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f);
            if is_spelt_out(point) {
                SPELT_OUT
            } else {
                3 * OUTSIDE_ASCII
            }
        }
        _ => wide(bytes) * OUTSIDE_ASCII,
    };
    (bytes, weight)
}

const fn is_spelt_out(point: u32) -> bool {
    matches!(
        point,
        0x2057 | 0x2a0c | 0x321d..=0x321e | 0x327c..=0x327d | 0x3300..=0x3357 | 0x337f | 0xfdfa..=0xfdfb
    )
}

/// The JSON that a string holds, such as a tool call's arguments. `string` has its quotes.
fn inner_json(string: &[u8]) -> Option<String> {
    let first = string.iter().skip(1).find(|b| !b.is_ascii_whitespace())?;
    if !matches!(first, b'{' | b'[' | b'\\') {
        return None;
    }
    let inner: String = serde_json::from_slice(string).ok()?;
    let is_nested = inner.trim_start().starts_with(['{', '[']);
    is_nested.then_some(inner)
}

pub fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
