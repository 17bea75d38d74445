//! What a stream of events means: one state machine per API. Events go in; out come the bytes the
//! client sees, the token counts, and how the stream ended. Pure.

use std::ops::Range;

use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::chat::Choices;
use super::json::members;
use super::sse::{Data, data};
use super::tokens::Tokens;
use super::verdict::{Asked, End, Verdict};

/// The dialect of a route's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Chat and text completions.
    Choices,
    Responses,
    Messages,
    /// Not inspected; usage is taken where it stands.
    Opaque,
}

/// The state machine of one stream.
pub struct Stream {
    kind: Kind,
    end: End,
    /// Events with data so far, for an estimate where the engine gives no count.
    data_events: u64,
    final_usage: Option<Tokens>,
}

enum Kind {
    Choices(Choices),
    Responses,
    Messages,
    Opaque,
}

impl Stream {
    /// `fingerprint` is the `system_fingerprint` value this upstream is known to send, if any.
    pub fn new(api: Api, asked: Asked, fingerprint: Option<Bytes>) -> Self {
        let kind = match api {
            Api::Choices => Kind::Choices(Choices::new(asked, fingerprint)),
            Api::Responses => Kind::Responses,
            Api::Messages => Kind::Messages,
            Api::Opaque => Kind::Opaque,
        };
        Self {
            kind,
            end: End::Open,
            data_events: 0,
            final_usage: None,
        }
    }

    /// The events that come next were not there yet at this time.
    pub fn set_moment(&mut self, moment: Instant) {
        if let Kind::Choices(choices) = &mut self.kind {
            choices.set_moment(moment);
        }
    }

    /// Takes one whole event and appends what the client sees to `out`. Nothing passes any more
    /// once the end was seen.
    pub fn event(&mut self, event: Bytes, out: &mut Vec<Bytes>) {
        if self.end != End::Open {
            return;
        }
        let (text, span) = match data(&event) {
            Data::None => return out.push(event),
            Data::Line(span) => (event, span),
            Data::Joined(joined) => one_line(&event, &joined),
        };
        self.data_events += 1;
        let verdict = match &mut self.kind {
            Kind::Choices(choices) => {
                let verdict = choices.event(text, span, out);
                self.end = verdict.end;
                if let Some(usage) = verdict.usage {
                    self.final_usage = Some(choices.together(self.final_usage, usage));
                }
                return;
            }
            Kind::Responses => judge_response(&text, span),
            Kind::Messages => judge_message(&text, span, self.final_usage),
            Kind::Opaque => judge_opaque(&text, span),
        };
        self.end = verdict.end;
        self.final_usage = verdict.usage.or(self.final_usage);
        out.push(text);
    }

    /// Nothing more will come: what was held back goes out.
    pub fn release(&mut self, out: &mut Vec<Bytes>) {
        if let Kind::Choices(choices) = &mut self.kind {
            choices.release(out);
        }
    }

    /// The upstream ended its body in order, with `rest` after the last whole event. If that says
    /// something it counts as an event that lacks but its blank line; half an event is dropped, for
    /// what follows it would be read as its other half.
    pub fn finish(&mut self, rest: &[u8], out: &mut Vec<Bytes>) {
        if says_something(rest) {
            self.event([rest.trim_ascii_end(), b"\n\n"].concat().into(), out);
        }
        self.release(out);
        if let Kind::Choices(choices) = &self.kind {
            if self.end == End::Open && choices.all_finished() {
                // A missing `[DONE]` harms nobody once every choice has its finish_reason.
                self.end = End::Proper;
            }
        } else if self.end == End::Open && matches!(self.kind, Kind::Opaque) {
            self.end = End::Proper;
        }
    }

    /// How the stream stands.
    pub fn end(&self) -> End {
        self.end
    }

    /// The engine's final count.
    pub fn final_usage(&self) -> Option<Tokens> {
        match &self.kind {
            // A server may put the count on the last content chunk and send no other.
            Kind::Choices(choices) if self.end == End::Proper => {
                self.final_usage.or_else(|| choices.running())
            }
            Kind::Messages if self.end != End::Proper => None,
            _ => self.final_usage,
        }
    }

    /// The engine's last running count.
    pub fn running_usage(&self) -> Option<Tokens> {
        match &self.kind {
            Kind::Choices(choices) => choices.running(),
            _ => None,
        }
    }

    /// How many sequences the running count is of.
    pub fn running_sequences(&self) -> u64 {
        match &self.kind {
            Kind::Choices(choices) => choices.running_sequences(),
            _ => 0,
        }
    }

    /// The oldest time of a running count that may have grown since: of the choice that was counted
    /// longest ago, among those that go on.
    pub fn counted_since(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Choices(choices) => choices.counted_since(),
            _ => None,
        }
    }

    /// A count of our own: one token per event, and the prompt if the engine told it.
    pub fn estimate(&self) -> Option<Tokens> {
        let known = self.final_usage.unwrap_or_default();
        let completion = known.completion.max(self.data_events);
        (self.data_events > 0).then_some(Tokens {
            completion,
            ..known
        })
    }

    /// The `system_fingerprint` value that this stream showed.
    pub fn fingerprint(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Choices(choices) => choices.fingerprint(),
            _ => None,
        }
    }
}

/// Whether an event holds `[DONE]` or a whole JSON text.
fn says_something(event: &[u8]) -> bool {
    let whole = |text: &[u8]| {
        text.trim_ascii() == b"[DONE]" || serde_json::from_slice::<IgnoredAny>(text).is_ok()
    };
    match data(event) {
        Data::Line(span) => whole(&event[span]),
        Data::Joined(joined) => whole(&joined),
        Data::None => false,
    }
}

/// An event with several data lines, written as one: JSON does not mind its line feeds, so the
/// client reads the same.
fn one_line(event: &[u8], joined: &[u8]) -> (Bytes, Range<usize>) {
    let mut text = Vec::with_capacity(event.len() + 8);
    for line in event.split(|b| matches!(b, b'\n' | b'\r')) {
        if !line.is_empty() && !line.starts_with(b"data:") {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text.extend_from_slice(b"data: ");
    let start = text.len();
    text.extend(joined.iter().map(|&b| if b == b'\n' { b' ' } else { b }));
    let span = start..text.len();
    text.extend_from_slice(b"\n\n");
    (text.into(), span)
}

fn judge_response(text: &[u8], span: Range<usize>) -> Verdict {
    let Some(found) = find(text, span, [b"type", b"response", b"error"]) else {
        return Verdict::OPEN;
    };
    let [kind, response, error] = found;
    let kind = kind.map_or(&b""[..], |span| &text[span]);
    match kind {
        b"\"response.completed\"" | b"\"response.incomplete\"" | b"\"response.failed\"" => {
            let usage = response
                .and_then(|span| find(text, span, [b"usage"]))
                .and_then(|[usage]| usage);
            let end = if kind == b"\"response.failed\"" {
                End::UpstreamError
            } else {
                End::Proper
            };
            Verdict {
                end,
                usage: usage.and_then(|span| Tokens::parse(&text[span])),
            }
        }
        b"\"error\"" => Verdict::end(End::UpstreamError),
        b"" if is_object(text, error.as_ref()) => Verdict::end(End::UpstreamError),
        _ => Verdict::OPEN,
    }
}

fn judge_message(text: &[u8], span: Range<usize>, so_far: Option<Tokens>) -> Verdict {
    let Some([kind, message, usage]) = find(text, span, [b"type", b"message", b"usage"]) else {
        return Verdict::OPEN;
    };
    let tokens = |span: Option<Range<usize>>| span.and_then(|span| Tokens::parse(&text[span]));
    match kind.map_or(&b""[..], |span| &text[span]) {
        b"\"message_start\"" => {
            let usage = message
                .and_then(|span| find(text, span, [b"usage"]))
                .and_then(|[usage]| usage);
            Verdict::usage(tokens(usage))
        }
        b"\"message_delta\"" => {
            // Anthropic's own delta counts the output alone; the input came with the start.
            let delta = usage.and_then(|span| {
                Tokens::parse(&text[span.clone()]).or_else(|| output_only(&text[span], so_far))
            });
            Verdict::usage(delta)
        }
        b"\"message_stop\"" => Verdict::end(End::Proper),
        b"\"error\"" => Verdict::end(End::UpstreamError),
        _ => Verdict::OPEN,
    }
}

fn output_only(usage: &[u8], so_far: Option<Tokens>) -> Option<Tokens> {
    let [output] = find(usage, 0..usage.len(), [b"output_tokens"])?;
    let completion = std::str::from_utf8(&usage[output?]).ok()?.parse().ok()?;
    Some(Tokens {
        completion,
        ..so_far.unwrap_or_default()
    })
}

fn judge_opaque(text: &[u8], span: Range<usize>) -> Verdict {
    let Some([usage, error]) = find(text, span, [b"usage", b"error"]) else {
        return Verdict::OPEN;
    };
    if is_object(text, error.as_ref()) {
        return Verdict::end(End::UpstreamError);
    }
    Verdict::usage(usage.and_then(|span| Tokens::parse(&text[span])))
}

fn is_object(text: &[u8], span: Option<&Range<usize>>) -> bool {
    span.is_some_and(|span| text.get(span.start) == Some(&b'{'))
}

/// The values of some top-level members; `None` if the text is no object.
fn find<const N: usize>(
    text: &[u8],
    span: Range<usize>,
    keys: [&[u8]; N],
) -> Option<[Option<Range<usize>>; N]> {
    let mut walk = members(text, span)?;
    let mut found = [const { None }; N];
    while let Some(member) = walk.next_member() {
        if let Some(at) = keys
            .iter()
            .position(|key| *key == &text[member.key.clone()])
        {
            found[at] = Some(member.value);
        }
    }
    Some(found)
}
