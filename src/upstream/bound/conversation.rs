//! The messages of a conversation, in the shapes of chat, responses and messages: whether all of it
//! is text, and the most tokens of it. Pure.

use std::borrow::Cow;
use std::ops::Range;

use super::weight::{Style, weigh};
use crate::upstream::json::{elements, members};

/// The kinds of parts that are text, and of what only stands around text.
const TEXT_PARTS: [&str; 11] = [
    "text",
    "input_text",
    "output_text",
    "summary_text",
    "reasoning_text",
    "refusal",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "tool_reference",
];
/// The kinds of items of a responses input that are text.
const TEXT_ITEMS: [&str; 6] = [
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
];
/// Members of a message that bring something else.
const MEDIA: [&str; 8] = [
    "image",
    "images",
    "image_url",
    "audio",
    "input_audio",
    "video",
    "videos",
    "file",
];
/// How deep parts lie in parts: results of tools in a message.
const PART_LEVELS: u32 = 3;

/// A conversation that is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Talk {
    pub tokens: u64,
    /// Messages, and parts that become messages.
    pub messages: u64,
}

impl Talk {
    fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    fn message(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }
}

/// Measures the value of `messages` or `input`; `None` if not all of it is text.
pub fn measure(json: &str) -> Option<Talk> {
    let text = json.as_bytes();
    let mut talk = Talk::default();
    let Some(mut walk) = elements(text, 0..text.len()) else {
        talk.message();
        talk.add(weigh(text, Style::Text));
        return Some(talk);
    };
    while let Some(element) = walk.next_element() {
        talk.message();
        message(text, element, &mut talk)?;
    }
    Some(talk)
}

/// Measures a system prompt: a text, or a list of parts.
pub fn measure_text(json: &str) -> Option<Talk> {
    let mut talk = Talk::default();
    content(json.as_bytes(), 0..json.len(), PART_LEVELS, &mut talk)?;
    Some(talk)
}

fn message(text: &[u8], span: Range<usize>, talk: &mut Talk) -> Option<()> {
    let Some(mut walk) = members(text, span.clone()) else {
        talk.add(weigh(&text[span], Style::Printed));
        return Some(());
    };
    while let Some(member) = walk.next_member() {
        let value = &text[member.value.clone()];
        match &*name(text, member.key) {
            "type" => {
                one_of(value, &TEXT_ITEMS)?;
            }
            "content" | "output" | "summary" => content(text, member.value, PART_LEVELS, talk)?,
            key if MEDIA.contains(&key) && value != b"null" => return None,
            _ => talk.add(weigh(value, Style::Printed)),
        }
        talk.add(1);
    }
    Some(())
}

fn content(text: &[u8], span: Range<usize>, levels: u32, talk: &mut Talk) -> Option<()> {
    if text.get(span.start) == Some(&b'{') {
        return None;
    }
    let Some(mut walk) = elements(text, span.clone()) else {
        talk.add(weigh(&text[span], Style::Text));
        return Some(());
    };
    let levels = levels.checked_sub(1)?;
    while let Some(element) = walk.next_element() {
        // Parts are joined by line breaks or the like.
        talk.add(2);
        part(text, element, levels, talk)?;
    }
    Some(())
}

fn part(text: &[u8], span: Range<usize>, levels: u32, talk: &mut Talk) -> Option<()> {
    let Some(mut walk) = members(text, span.clone()) else {
        talk.add(weigh(&text[span], Style::Text));
        return Some(());
    };
    let mut has_kind = false;
    while let Some(member) = walk.next_member() {
        let value = &text[member.value.clone()];
        match &*name(text, member.key) {
            "type" => {
                let kind = one_of(value, &TEXT_PARTS)?;
                has_kind = true;
                if kind.starts_with("tool") {
                    talk.message();
                }
            }
            "content" => content(text, member.value, levels, talk)?,
            "text" | "thinking" | "refusal" => talk.add(weigh(value, Style::Text)),
            _ => talk.add(weigh(value, Style::Printed)),
        }
        talk.add(1);
    }
    has_kind.then_some(())
}

/// The `type` of an object, if it has one that is a text.
pub fn kind(object: &[u8]) -> Option<String> {
    let mut kind = None;
    let mut walk = members(object, 0..object.len())?;
    while let Some(member) = walk.next_member() {
        if name(object, member.key) == "type" {
            // The last one counts; one that is no text is none of those that are known.
            kind = Some(serde_json::from_slice(&object[member.value]).unwrap_or_default());
        }
    }
    kind
}

/// A key as it reads.
fn name(text: &[u8], key: Range<usize>) -> Cow<'_, str> {
    let raw = &text[key.clone()];
    if raw.contains(&b'\\') {
        let quoted = &text[key.start - 1..=key.end];
        return serde_json::from_slice(quoted).map_or(Cow::Borrowed(""), Cow::Owned);
    }
    std::str::from_utf8(raw).map_or(Cow::Borrowed(""), Cow::Borrowed)
}

fn one_of(value: &[u8], names: &[&'static str]) -> Option<&'static str> {
    let value: String = serde_json::from_slice(value).ok()?;
    names.iter().copied().find(|name| *name == value)
}
