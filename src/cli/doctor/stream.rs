//! The fifth hop: a stream comes event by event, tells its usage, and ends as streams must.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Outcome;
use super::chat::{PATH, counts};
use super::report::{Broken, Passed};
use crate::cli::remote::remedy::{error_of, explain, unanswered};
use crate::cli::remote::{Answer, Opened, Remote, Trouble};
use crate::upstream::{EVENT_BYTES, Splitter};

/// All of it; the model server has just answered a chat.
const LIMIT: Duration = Duration::from_mins(2);
/// Fewer events, or a shorter stream, tell nothing of how they came.
const FEWEST_EVENTS: usize = 5;
const SHORTEST: Duration = Duration::from_millis(300);
/// No engine makes a token in less; in a lump, events lie closer.
const CLOSEST: Duration = Duration::from_micros(1500);
/// A lump comes within this share of the whole time.
const LUMP_SHARE: u32 = 10;
/// Reasons that clients know; at any other OpenCode asks again for ever.
const ENDS: [&str; 5] = [
    "stop",
    "length",
    "content_filter",
    "tool_calls",
    "function_call",
];

/// Streams a few words, twice if the first ones came in a lump: one lump may be chance.
pub async fn check(remote: &Remote, model: &str) -> Outcome<()> {
    let first = watch(remote, model).await?;
    if !first.is_lump() {
        return judge(&first);
    }
    let second = watch(remote, model).await?;
    if !second.is_lump() {
        return judge(&second);
    }
    judge(&second)?;
    Err(Broken::new(
        format!(
            "all {} events came at once, within {} ms, after {:.1} s: something between the gateway and here holds streams back",
            second.events,
            second.spread.as_millis(),
            second.total.as_secs_f64()
        ),
        "switch buffering of answers off in the proxy or load balancer in between (nginx: proxy_buffering off; proxy_http_version 1.1; no gzip for text/event-stream), or call the gateway directly",
    ))
}

/// What a stream was like.
#[derive(Default)]
struct Seen {
    events: usize,
    usage: Value,
    finish: Option<String>,
    done: bool,
    /// The error event that ended it.
    error: Option<String>,
    /// It broke off; why.
    broke: Option<Trouble>,
    /// From the call to the end.
    total: Duration,
    to_first: Duration,
    /// From the first event with data to the last.
    spread: Duration,
}

impl Seen {
    fn is_lump(&self) -> bool {
        let gaps = u32::try_from(self.events.saturating_sub(1)).unwrap_or(u32::MAX);
        self.events >= FEWEST_EVENTS
            && self.total >= SHORTEST
            && self.spread < CLOSEST * gaps
            && self.spread < self.total / LUMP_SHARE
    }

    /// Takes the data of one event.
    fn take(&mut self, data: &str) {
        self.events += 1;
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        let event: Value = serde_json::from_str(data).unwrap_or(Value::Null);
        if let Some(error) = event.get("error") {
            let text = error_of(&event).map(|(code, text)| format!("{code}: {text}"));
            self.error = Some(text.unwrap_or_else(|| error.to_string()));
        }
        if let Some(finish) = event["choices"][0]["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        if event["usage"].is_object() {
            self.usage = event["usage"].clone();
        }
    }
}

async fn watch(remote: &Remote, model: &str) -> Result<Seen, Broken> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "Count from one to twenty, in words."}],
        "max_tokens": 48,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let began = Instant::now();
    let deadline = began + LIMIT;
    let opened = remote
        .open((Method::POST, PATH), Some(&body), deadline)
        .await;
    let opened = opened.map_err(|trouble| unanswered(&trouble, remote))?;
    let is_stream = opened
        .headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    if opened.status != 200 || !is_stream {
        let answer = opened.read(deadline).await;
        let answer = answer.map_err(|trouble| unanswered(&trouble, remote))?;
        return Err(no_stream(&answer, remote));
    }
    Ok(read(opened, began, deadline).await)
}

/// Reads the events as they come, and their times.
async fn read(mut opened: Opened, began: Instant, deadline: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut splitter = Splitter::default();
    let mut first_at = None;
    let mut last_at = began;
    loop {
        match opened.next(deadline).await {
            Ok(Some(piece)) if splitter.waiting_bytes() < EVENT_BYTES => splitter.push(piece),
            Ok(Some(_)) => seen.broke = Some(Trouble::Other("an event without end".to_owned())),
            Ok(None) => break,
            Err(trouble) => seen.broke = Some(trouble),
        }
        while let Some(event) = splitter.next_event() {
            let Some(data) = data_of(&event) else {
                continue;
            };
            last_at = Instant::now();
            first_at.get_or_insert(last_at);
            seen.take(&data);
        }
        if seen.broke.is_some() {
            break;
        }
    }
    let first_at = first_at.unwrap_or(last_at);
    seen.to_first = first_at - began;
    seen.spread = last_at - first_at;
    seen.total = began.elapsed();
    seen
}

/// The data of an event; `None` for a comment.
fn data_of(event: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(event);
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| data.strip_prefix(' ').unwrap_or(data))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The head is not that of a stream.
fn no_stream(answer: &Answer, remote: &Remote) -> Broken {
    if !answer.is_success() {
        return explain(answer, remote);
    }
    Broken::new(
        format!(
            "a stream was asked for, and {} came",
            match answer.header("content-type") {
                "" => "something without a type",
                kind => kind,
            }
        ),
        "something in between collects streams into one answer: let text/event-stream pass there as it comes",
    )
}

fn judge(seen: &Seen) -> Outcome<()> {
    let events = seen.events;
    if let Some(error) = &seen.error {
        return Err(Broken::new(
            format!("the stream ended with an error after {events} events: {error}"),
            "for the operator: the model server broke off, or ends its streams without a finish_reason; look at its log and at the gateway's",
        ));
    }
    if let Some(trouble) = &seen.broke {
        let why = match trouble {
            Trouble::TimedOut => format!("nothing more came within {} s", LIMIT.as_secs()),
            _ => "the connection was closed".to_owned(),
        };
        return Err(Broken::new(
            format!("the stream has no end: {why}, after {events} events"),
            "the gateway ends every stream with an end or an error event, so something in between cut it: look at the time limits of the proxy or load balancer (on Cloud Run: --timeout 3600)",
        ));
    }
    match seen.finish.as_deref() {
        Some(finish) if ENDS.contains(&finish) => {}
        finish => {
            let said = finish.unwrap_or("none");
            return Err(Broken::new(
                format!(
                    "the stream ended without a proper finish_reason ({said}), after {events} events"
                ),
                "clients such as OpenCode ask again for ever at such an end: something in between cuts streams short, or the model server does",
            ));
        }
    }
    let mut passed = Passed::new(format!(
        "{events} events, the first after {:.2} s, the last after {:.2} s{}",
        seen.to_first.as_secs_f64(),
        seen.total.as_secs_f64(),
        counts(&seen.usage)
    ));
    if !seen.usage.is_object() {
        passed = passed.warn("the stream tells no usage though it was asked: what it cost is an estimate, token budgets are charged at the most, and OpenCode does not know when to compact; use a model server that honours stream_options.include_usage");
    }
    if !seen.done {
        passed =
            passed.warn("there is no [DONE] at the end: most clients do without, some wait for it");
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: usize, total_ms: u64, spread_ms: u64) -> Seen {
        Seen {
            events,
            total: Duration::from_millis(total_ms),
            spread: Duration::from_millis(spread_ms),
            ..Seen::default()
        }
    }

    #[test]
    fn a_lump_is_told_from_a_fast_engine_and_from_a_slow_prompt() {
        for (events, total_ms, spread_ms, is_lump) in [
            (50, 1300, 2, true),
            (50, 350, 0, true),
            // All is fast: nobody can tell, and nobody suffers.
            (50, 40, 0, false),
            // A long prompt, then twenty milliseconds a token.
            (50, 6000, 980, false),
            // A small model on a large GPU.
            (50, 400, 100, false),
            (3, 2000, 1, false),
        ] {
            let seen = seen(events, total_ms, spread_ms);
            assert_eq!(seen.is_lump(), is_lump, "{events} {total_ms} {spread_ms}");
        }
    }

    #[test]
    fn data_is_read_and_comments_are_not() {
        assert_eq!(data_of(b"data: {}\n\n").as_deref(), Some("{}"));
        assert_eq!(
            data_of(b"event: x\r\ndata:a\r\ndata: b\r\n\r\n").as_deref(),
            Some("a\nb")
        );
        assert_eq!(data_of(b": keep-alive\n\n"), None);
    }
}
