//! Streams made of `choices`: chat and text completions. The upstream was asked for running usage;
//! what the client did not ask for is taken out again, and the fingerprint goes back to where vLLM
//! puts it when nobody asks for usage: on each chunk with a `finish_reason`. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::json::{Member, elements, members, removal};
use super::tokens::Tokens;
use super::verdict::{Asked, End, Verdict};

/// More choices than any engine makes at once; a stream with more is not followed any further.
const MAX_CHOICES: usize = 4096;

const STOP: &[u8] = b"\"stop\"";

/// What is known of the choices of one stream.
pub struct Choices {
    asked: Asked,
    /// By index: finished or not, and the running count.
    seen: BTreeMap<u64, Choice>,
    /// A chunk with a `finish_reason`, kept until the next event: if that is the usage chunk, it
    /// brings the fingerprint that belongs here. It follows at once.
    held: Option<Held>,
    fingerprint: Option<Bytes>,
    /// When the events that come now were not there yet.
    moment: Option<Instant>,
    /// Whether usage runs along: it stood on the first chunk already. `None` before that chunk.
    runs: Option<bool>,
}

#[derive(Clone, Copy, Default)]
struct Choice {
    finished: bool,
    running: Option<Tokens>,
    /// When the running count was not there yet.
    counted_since: Option<Instant>,
}

/// What a chunk says of its choices.
#[derive(Default)]
struct Noted {
    /// One of them ends in it.
    finishes: bool,
    /// A reason that clients do not know and that is a stop.
    foreign: Option<Range<usize>>,
}

struct Held {
    event: Bytes,
    /// The position after the last member of the chunk's object.
    insert_at: usize,
}

/// The members of a chunk that matter here.
#[derive(Default)]
struct Chunk {
    choices: Option<Range<usize>>,
    usage: Option<Member>,
    fingerprint: Option<Range<usize>>,
    error: Option<Range<usize>>,
    /// `"object":"error"`, the older way to report one.
    is_error_object: bool,
    /// The position after the last member.
    end: usize,
}

impl Choices {
    pub fn new(asked: Asked, fingerprint: Option<Bytes>) -> Self {
        Self {
            asked,
            seen: BTreeMap::new(),
            held: None,
            fingerprint,
            moment: None,
            runs: None,
        }
    }

    /// Judges one event whose data stands at `span`.
    pub(super) fn event(
        &mut self,
        mut event: Bytes,
        span: Range<usize>,
        out: &mut Vec<Bytes>,
    ) -> Verdict {
        if event[span.clone()].trim_ascii() == b"[DONE]" {
            self.release(out);
            if !self.all_finished() {
                return Verdict::end(End::Improper);
            }
            out.push(event);
            return Verdict::end(End::Proper);
        }
        let Some(mut chunk) = Chunk::read(&event, span.clone()) else {
            // No JSON object: what it means is between the client and the upstream.
            self.release(out);
            out.push(event);
            return Verdict::OPEN;
        };
        if let Some(end) = chunk.error_end(&event) {
            self.release(out);
            if end == End::UpstreamError {
                out.push(event);
            }
            return Verdict::end(end);
        }
        if let Some(span) = &chunk.fingerprint
            && event[span.clone()] != *b"null"
        {
            self.fingerprint = Some(event.slice(span.clone()));
        }
        let usage = chunk
            .usage
            .as_ref()
            .and_then(|member| Tokens::parse(&event[member.value.clone()]));
        let Some(choices) = chunk
            .choices
            .clone()
            .filter(|span| !is_empty(&event, span.clone()))
        else {
            self.release(out);
            match &chunk.usage {
                // The chunk that is there for the usage alone.
                Some(_) if usage.is_some() && !self.asked.usage => {}
                Some(member) if !self.asked.usage => out.push(without(&event, member)),
                _ => out.push(event),
            }
            return Verdict::usage(usage);
        };
        self.release(out);
        self.runs.get_or_insert(usage.is_some());
        let noted = self.note(&event, choices, usage);
        if let Some(reason) = noted.foreign {
            let end = span.end - reason.len() + STOP.len();
            event = in_place_of(&event, reason, STOP);
            chunk = Chunk::read(&event, span.start..end).unwrap_or_default();
        }
        self.show(event, chunk, noted.finishes, out);
        Verdict::OPEN
    }

    /// Sends the chunk that was held back, with the fingerprint that this stream showed by now, or
    /// else the one that the upstream is known to send.
    pub(super) fn release(&mut self, out: &mut Vec<Bytes>) {
        let Some(held) = self.held.take() else { return };
        out.push(match &self.fingerprint {
            Some(value) => insert(&held, value),
            None => held.event,
        });
    }

    /// Whether every choice seen has ended with a known reason, and there was one.
    pub(super) fn all_finished(&self) -> bool {
        !self.seen.is_empty() && self.seen.values().all(|choice| choice.finished)
    }

    /// A final count together with one that came before: llama.cpp sends one for each choice.
    pub(super) fn together(&self, before: Option<Tokens>, usage: Tokens) -> Tokens {
        let before = before.filter(|_| self.seen.len() > 1).unwrap_or_default();
        Tokens {
            completion: before.completion.saturating_add(usage.completion),
            ..usage
        }
    }

    /// The last running counts together. vLLM counts each choice by itself, and each with its
    /// prompt; the choices of one prompt follow one another and share it.
    pub(super) fn running(&self) -> Option<Tokens> {
        let mut sum: Option<Tokens> = None;
        let mut last_prompt = None;
        for (index, choice) in &self.seen {
            let Some(running) = choice.running else {
                continue;
            };
            let sum = sum.get_or_insert_default();
            sum.completion = sum.completion.saturating_add(running.completion);
            let prompt = index / self.asked.choices_per_prompt.max(1);
            if last_prompt.replace(prompt) != Some(prompt) {
                sum.prompt = sum.prompt.saturating_add(running.prompt);
                sum.cached = sum.cached.saturating_add(running.cached);
            }
        }
        sum
    }

    pub(super) fn set_moment(&mut self, moment: Instant) {
        self.moment = Some(moment);
    }

    /// Of the choices that go on, the oldest time of a running count.
    pub(super) fn counted_since(&self) -> Option<Instant> {
        let open = self.seen.values().filter(|choice| !choice.finished);
        open.filter_map(|choice| choice.counted_since).min()
    }

    /// How many choices have a running count.
    pub(super) fn running_sequences(&self) -> u64 {
        let running = self.seen.values().filter(|choice| choice.running.is_some());
        u64::try_from(running.count()).unwrap_or(u64::MAX)
    }

    pub(super) fn fingerprint(&self) -> Option<&Bytes> {
        self.fingerprint.as_ref()
    }

    /// Notes which choices the chunk belongs to, and whether one of them ends in it.
    fn note(&mut self, text: &[u8], choices: Range<usize>, usage: Option<Tokens>) -> Noted {
        let mut noted = Noted::default();
        let Some(mut walk) = elements(text, choices) else {
            return noted;
        };
        while let Some(element) = walk.next_element() {
            let Some((index, reason)) = read_choice(text, element) else {
                continue;
            };
            if self.seen.len() >= MAX_CHOICES && !self.seen.contains_key(&index) {
                continue;
            }
            let choice = self.seen.entry(index).or_default();
            if usage.is_some() {
                choice.running = usage;
                choice.counted_since = self.moment;
            }
            if let Some(reason) = reason {
                noted.finishes = true;
                let is_foreign = is_foreign_stop(&text[reason.clone()]);
                choice.finished = is_foreign || is_known(&text[reason.clone()]);
                noted.foreign = noted.foreign.or(is_foreign.then_some(reason));
            }
        }
        noted
    }

    /// Hands the chunk on as the client would have had it.
    fn show(&mut self, event: Bytes, chunk: Chunk, finishes: bool, out: &mut Vec<Bytes>) {
        let Some(usage) = chunk.usage.filter(|usage| !self.shows(&event, usage)) else {
            let holds = finishes && chunk.fingerprint.is_none();
            return self.hold_or_show(event, chunk.end, holds, out);
        };
        let end = chunk.end - removal(&event, &usage).len();
        let holds = finishes && chunk.fingerprint.is_none();
        self.hold_or_show(without(&event, &usage), end, holds, out);
    }

    /// Whether the client asked for the usage that stands on a chunk with choices: all of it, or
    /// what does not run along. That is null on every chunk, which is OpenAI's own way, or the final
    /// usage on the last chunk, where some servers put it.
    fn shows(&self, event: &[u8], usage: &Member) -> bool {
        let runs = self.runs == Some(true) && event[usage.value.clone()] != *b"null";
        self.asked.usage && (self.asked.continuous || !runs)
    }

    fn hold_or_show(&mut self, event: Bytes, insert_at: usize, holds: bool, out: &mut Vec<Bytes>) {
        if holds && !self.asked.usage {
            self.held = Some(Held { event, insert_at });
        } else {
            out.push(event);
        }
    }
}

impl Chunk {
    fn read(text: &[u8], span: Range<usize>) -> Option<Self> {
        let mut walk = members(text, span)?;
        let mut chunk = Self::default();
        while let Some(member) = walk.next_member() {
            chunk.end = member.value.end;
            match &text[member.key.clone()] {
                b"choices" => chunk.choices = Some(member.value),
                b"usage" => chunk.usage = Some(member),
                b"system_fingerprint" => chunk.fingerprint = Some(member.value),
                b"error" if text[member.value.clone()] != *b"null" => {
                    chunk.error = Some(member.value);
                }
                b"object" => chunk.is_error_object = text[member.value] == *b"\"error\"",
                _ => {}
            }
        }
        Some(chunk)
    }

    /// Whether the chunk is an error: one that clients can read passes, others are replaced.
    fn error_end(&self, text: &[u8]) -> Option<End> {
        match &self.error {
            Some(error) if text[error.start] == b'{' => Some(End::UpstreamError),
            Some(_) => Some(End::Improper),
            None => self.is_error_object.then_some(End::Improper),
        }
    }
}

fn is_empty(text: &[u8], choices: Range<usize>) -> bool {
    elements(text, choices).is_none_or(|walk| !walk.has_element())
}

/// Index and `finish_reason` (null is none, and so is an empty string) of a choice.
fn read_choice(text: &[u8], span: Range<usize>) -> Option<(u64, Option<Range<usize>>)> {
    let mut walk = members(text, span)?;
    let (mut index, mut reason) = (0, None);
    while let Some(member) = walk.next_member() {
        match &text[member.key] {
            b"index" => {
                index = std::str::from_utf8(&text[member.value])
                    .ok()?
                    .parse()
                    .ok()?;
            }
            b"finish_reason" => {
                reason = Some(member.value)
                    .filter(|span| !matches!(&text[span.clone()], b"null" | b"\"\""));
            }
            _ => {}
        }
    }
    Some((index, reason))
}

/// The reasons that clients understand. OpenCode takes any other for an unfinished answer and asks
/// again without end.
fn is_known(reason: &[u8]) -> bool {
    matches!(
        reason,
        b"\"stop\""
            | b"\"length\""
            | b"\"content_filter\""
            | b"\"tool_calls\""
            | b"\"function_call\""
    )
}

/// TGI's names of a stop.
fn is_foreign_stop(reason: &[u8]) -> bool {
    matches!(reason, b"\"eos_token\"" | b"\"stop_sequence\"")
}

fn in_place_of(event: &Bytes, span: Range<usize>, value: &[u8]) -> Bytes {
    [&event[..span.start], value, &event[span.end..]]
        .concat()
        .into()
}

/// The event without one of its members.
fn without(event: &Bytes, member: &Member) -> Bytes {
    let gone = removal(event, member);
    let mut text = BytesMut::with_capacity(event.len());
    text.extend_from_slice(&event[..gone.start]);
    text.extend_from_slice(&event[gone.end..]);
    text.freeze()
}

fn insert(held: &Held, fingerprint: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(held.event.len() + fingerprint.len() + 24);
    text.extend_from_slice(&held.event[..held.insert_at]);
    text.extend_from_slice(b",\"system_fingerprint\":");
    text.extend_from_slice(fingerprint);
    text.extend_from_slice(&held.event[held.insert_at..]);
    text.freeze()
}
