//! Which conversation a call belongs to, so that it can go where its past is cached: a number that is
//! the same for all its turns, in every instance and release. Read from the beginning of the body
//! alone. Pure; knows no target.

use std::ops::Range;

use super::json::{elements, members};
use super::{Endpoint, Object};

/// Names of sessions longer than this are none.
const SESSION_BYTES: usize = 256;
/// A conversation is told by so much of its opening at most.
const OPENING_BYTES: usize = 64 * 1024;
/// What nobody said after so many messages is not looked for any further.
const OPENING_MESSAGES: usize = 32;
/// A text to complete is told by its beginning. All that is shorter is soon read again, wherever it
/// goes: a thousand tokens at most.
const PROMPT_BYTES: usize = 2 * 1024;
/// Claude Code begins its system prompt with a line that differs with each call; model servers that
/// cache prefixes drop it, too.
const VOLATILE_LINE: &[u8] = b"x-anthropic-billing-header:";

/// The conversation of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    hash: u64,
    is_under_way: bool,
}

impl Affinity {
    /// Tells the conversation of a caller's call: by the name that the caller gave it (`session`, as
    /// in `x-session-affinity`), else by its opening: what stands up to the first message of a user,
    /// which no later turn changes. Two callers never share one. `None` for calls that leave nothing
    /// behind that a later one could use.
    #[must_use]
    pub fn of(
        caller: [&str; 2],
        session: Option<&[u8]>,
        endpoint: Endpoint,
        body: &Object,
    ) -> Option<Self> {
        let (system, list) = match endpoint {
            Endpoint::ChatCompletions => (None, "messages"),
            Endpoint::Messages => (Some("system"), "messages"),
            Endpoint::Responses => (Some("instructions"), "input"),
            Endpoint::Completions => (None, "prompt"),
            _ => return None,
        };
        let mut digest = Digest::default();
        for part in caller {
            digest.text(part.as_bytes());
        }
        let named = |name: &&[u8]| (1..=SESSION_BYTES).contains(&name.len());
        if let Some(name) = session.filter(named) {
            digest.text(name);
            return Some(digest.finish(true));
        }
        // Whatever a caller says, it is not what another way of telling leads to.
        digest.text(b"");
        if let Some(system) = system.and_then(|name| body.present(name)) {
            digest.content(system.as_bytes());
        }
        let list = body.present(list)?.as_bytes();
        let is_under_way = if endpoint == Endpoint::Completions {
            digest.text(&list[..list.len().min(PROMPT_BYTES)]);
            list.len() > PROMPT_BYTES
        } else {
            digest.opening(list)
        };
        Some(digest.finish(is_under_way))
    }

    /// A number of the conversation's own.
    #[must_use]
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// Whether there may be something cached of it: it is named, or has a past.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        self.is_under_way
    }
}

/// Takes texts into one number, eight bytes at a time. Not meant to withstand anybody: a caller can
/// choose where its own calls go by naming them.
struct Digest {
    state: u64,
    room_bytes: usize,
}

impl Default for Digest {
    fn default() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            room_bytes: OPENING_BYTES,
        }
    }
}

impl Digest {
    fn finish(self, is_under_way: bool) -> Affinity {
        Affinity {
            hash: mix(self.state),
            is_under_way,
        }
    }

    fn word(&mut self, word: u64) {
        let product = (self.state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.state = product ^ (product >> 32);
    }

    /// One text, told apart from the next.
    fn text(&mut self, text: &[u8]) {
        let text = &text[..text.len().min(self.room_bytes)];
        self.room_bytes -= text.len();
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(text.len() as u64);
    }

    /// The value of a member. Of a string what is between its quotes, so that it is the same in a
    /// list of parts, where clients put it to mark it for a cache.
    fn value(&mut self, json: &[u8]) {
        let Some(text) = json.strip_prefix(b"\"") else {
            return self.text(json);
        };
        let text = text.strip_suffix(b"\"").unwrap_or(text);
        let text = if text.starts_with(VOLATILE_LINE) {
            let end = memchr::memmem::find(text, br"\n");
            end.map_or(&b""[..], |end| &text[end + 2..])
        } else {
            text
        };
        if !text.is_empty() {
            self.text(text);
        }
    }

    /// A text, or the parts of one.
    fn content(&mut self, json: &[u8]) {
        let Some(mut parts) = elements(json, 0..json.len()) else {
            return self.value(json);
        };
        while self.room_bytes > 0
            && let Some(part) = parts.next_element()
        {
            let Some(mut walk) = members(json, part.clone()) else {
                self.value(&json[part]);
                continue;
            };
            while let Some(member) = walk.next_member() {
                // What a part is called depends on the API; marks for a cache wander.
                if !matches!(&json[member.key], b"type" | b"cache_control") {
                    self.value(&json[member.value]);
                }
            }
        }
    }

    /// The messages up to the first of a user, or a text in their place. Tells whether there is more.
    fn opening(&mut self, json: &[u8]) -> bool {
        let Some(mut messages) = elements(json, 0..json.len()) else {
            self.value(json);
            return false;
        };
        for _ in 0..OPENING_MESSAGES {
            let Some(message) = messages.next_element() else {
                return false;
            };
            let (is_of_user, content) = read_message(json, message);
            if let Some(content) = content {
                self.content(&json[content]);
            }
            if is_of_user {
                break;
            }
        }
        messages.has_element()
    }
}

/// Whether a message is of a user, and where its content stands.
fn read_message(json: &[u8], message: Range<usize>) -> (bool, Option<Range<usize>>) {
    let (mut is_of_user, mut content) = (false, None);
    if let Some(mut walk) = members(json, message) {
        while let Some(member) = walk.next_member() {
            match &json[member.key] {
                b"role" => is_of_user = json[member.value] == *b"\"user\"",
                b"content" => content = Some(member.value),
                _ => {}
            }
        }
    }
    (is_of_user, content)
}

/// Spreads a number over all 64 bits: each bit of it turns half of them.
pub(super) const fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
