//! The pure parts together, on recorded streams and on made-up JSON: however bytes are cut, what
//! comes out is the same, and nothing that an upstream sends makes them fail.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::json::{members, removal};
use super::sse::{Data, data};
use super::{Api, Asked, Capture, End, Splitter, Stream, Tokens};

/// What a stream comes to.
#[derive(Debug, PartialEq)]
struct Seen {
    shown: Vec<u8>,
    end: End,
    final_usage: Option<Tokens>,
    running: Option<Tokens>,
}

fn drive<'a>(api: Api, asked: Asked, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut splitter = Splitter::default();
    let mut stream = Stream::new(api, asked, Some(Bytes::from_static(b"\"known\"")));
    let mut out = Vec::new();
    for piece in pieces {
        splitter.push(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event() {
            stream.event(event, &mut out);
        }
    }
    stream.finish(&splitter.finish(), &mut out);
    Seen {
        shown: out.concat(),
        end: stream.end(),
        final_usage: stream.final_usage(),
        running: stream.running_usage(),
    }
}

struct Recorded {
    name: String,
    api: Api,
    body: Vec<u8>,
}

/// Every recorded stream of both servers.
fn recorded() -> Vec<Recorded> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("recordings") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let streams: Vec<Recorded> = files.iter().filter_map(|path| read(path)).collect();
    assert!(streams.len() > 100, "{} streams", streams.len());
    streams
}

fn read(path: &Path) -> Option<Recorded> {
    let name = path.to_str()?.strip_suffix(".response.http")?.to_owned();
    let text = std::fs::read(path).expect("a recording");
    let cut = memchr::memmem::find(&text, b"\n\n")?;
    let head = String::from_utf8_lossy(&text[..cut]).into_owned();
    if !head.contains("text/event-stream") {
        return None;
    }
    let request = std::fs::read_to_string(PathBuf::from(format!("{name}.request.http")));
    let api = match request.expect("its request").split(' ').nth(1)? {
        "/v1/responses" => Api::Responses,
        "/v1/messages" => Api::Messages,
        _ => Api::Choices,
    };
    Some(Recorded {
        name,
        api,
        body: text[cut + 2..].to_vec(),
    })
}

/// What a client may have asked of a stream.
fn asked(api: Api) -> Vec<Asked> {
    let ways: &[(bool, bool)] = match api {
        Api::Choices => &[(false, false), (true, false), (true, true)],
        _ => &[(false, false)],
    };
    ways.iter()
        .map(|&(usage, continuous)| Asked {
            usage,
            continuous,
            choices_per_prompt: u64::MAX,
        })
        .collect()
}

fn with_crlf(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(body.to_vec()).expect("text");
    text.replace('\n', "\r\n").into_bytes()
}

#[test]
fn a_stream_shows_the_same_however_it_is_cut_and_however_its_lines_end() {
    for stream in recorded() {
        for asked in asked(stream.api) {
            let whole = drive(stream.api, asked, [&stream.body[..]].into_iter());
            for size in [1, 2, 3, 7, 64, 1000] {
                let cut = drive(stream.api, asked, stream.body.chunks(size));
                assert_eq!(cut, whole, "{} in pieces of {size}", stream.name);
            }
            let body = with_crlf(&stream.body);
            for size in [1, 2, 64, usize::MAX] {
                let mut cut = drive(stream.api, asked, body.chunks(size));
                let text = String::from_utf8(cut.shown).expect("text");
                cut.shown = text.replace("\r\n", "\n").into_bytes();
                assert_eq!(cut, whole, "{} with CRLF, pieces of {size}", stream.name);
            }
        }
    }
}

#[test]
fn a_stream_shows_the_same_cut_at_every_byte() {
    let short = [
        "/chat-stream.continuous",
        "/completions-stream.continuous",
        "/chat-n2-stream.usage",
        "/responses-stream",
        "/messages-stream",
        "/tools-named-stream",
    ];
    let mut tried = 0;
    for stream in recorded() {
        if !short.iter().any(|name| stream.name.ends_with(name)) {
            continue;
        }
        tried += 1;
        let asked = asked(stream.api)[0];
        for body in [stream.body.clone(), with_crlf(&stream.body)] {
            let whole = drive(stream.api, asked, [&body[..]].into_iter());
            for at in 0..=body.len() {
                let (head, tail) = body.split_at(at);
                let cut = drive(stream.api, asked, [head, tail].into_iter());
                assert_eq!(cut, whole, "{} cut at {at}", stream.name);
            }
        }
    }
    assert!(tried >= 9, "{tried} streams");
}

#[test]
fn a_recorded_stream_ends_properly_and_only_at_its_end() {
    for stream in recorded() {
        let asked = asked(stream.api)[0];
        let whole = drive(stream.api, asked, [&stream.body[..]].into_iter());
        let has_error = memchr::memmem::find(&stream.body, b"data: {\"error\"").is_some();
        let end = if has_error {
            End::UpstreamError
        } else {
            End::Proper
        };
        assert_eq!(whole.end, end, "{}", stream.name);
        let mut shown_before = 0;
        let mut count_before = 0;
        let mut machine = Stream::new(stream.api, asked, None);
        let mut splitter = Splitter::default();
        splitter.push(stream.body.clone().into());
        let mut out = Vec::new();
        while let Some(event) = splitter.next_event() {
            let is_over = machine.end() != End::Open;
            machine.event(event, &mut out);
            assert!(!is_over || out.len() == shown_before, "{}", stream.name);
            shown_before = out.len();
            let count = machine.running_usage().unwrap_or_default().completion;
            assert!(count >= count_before, "{} counts backwards", stream.name);
            count_before = count;
        }
        if let Some(usage) = whole.final_usage {
            assert!(count_before <= usage.completion, "{}", stream.name);
        }
    }
}

#[test]
fn usage_is_shown_as_it_was_asked_for() {
    let chunk = |more: Value| {
        let mut chunk = json!({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]});
        chunk
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        format!("data: {chunk}\n\n")
    };
    let last = |usage: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]{usage}}}\n\n"
        )
    };
    let done = "data: [DONE]\n\n";
    let usage = r#","usage":{"prompt_tokens":3,"completion_tokens":2}"#;
    let only = format!("data: {{\"choices\":[]{usage}}}\n\n");
    let null = chunk(json!({"usage": null}));
    let plain = chunk(json!({}));
    let filter = "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n";
    // What the upstream sends, and what is left of it for a client that did not ask.
    let cases = [
        // OpenAI's way: null until the end.
        (
            [&null, &last(",\"usage\":null"), &only, done].concat(),
            [&plain, &last(""), done].concat(),
        ),
        // On the last chunk with content, and nowhere else.
        (
            [&plain, &last(usage), done].concat(),
            [&plain, &last(""), done].concat(),
        ),
        // A chunk without choices that is there for something else.
        (
            [filter, &plain, &last(""), &only, done].concat(),
            [
                &filter.replace(",\"usage\":null", ""),
                &plain,
                &last(""),
                done,
            ]
            .concat(),
        ),
    ];
    for (sent, without) in cases {
        for asked in asked(Api::Choices) {
            let mut stream = Stream::new(Api::Choices, asked, None);
            let mut splitter = Splitter::default();
            splitter.push(sent.clone().into());
            let mut out = Vec::new();
            while let Some(event) = splitter.next_event() {
                stream.event(event, &mut out);
            }
            let shown = String::from_utf8(out.concat()).expect("text");
            let expected = if asked.usage { &sent } else { &without };
            assert_eq!(&shown, expected, "{asked:?}");
            let counted = stream.final_usage().expect("a count");
            assert_eq!((counted.prompt, counted.completion), (3, 2), "{sent}");
        }
    }
}

#[test]
fn what_is_left_after_the_last_blank_line_counts_if_it_is_whole() {
    let finished = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\n";
    for (rest, end, shown) in [
        ("data: [DONE]", End::Proper, "data: [DONE]\n\n"),
        ("data: [DONE]\r\n", End::Proper, "data: [DONE]\n\n"),
        ("data: {\"choi", End::Proper, ""),
    ] {
        let text = [finished, rest].concat();
        let seen = drive(
            Api::Choices,
            Asked {
                usage: true,
                ..Asked::default()
            },
            [text.as_bytes()].into_iter(),
        );
        assert_eq!(seen.end, end, "{rest}");
        assert_eq!(seen.shown, [finished, shown].concat().as_bytes(), "{rest}");
    }
}

/// JSON with what is awkward in it: keys that matter in wrong places, escapes, odd letters.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("usage".to_owned()),
        Just("choices".to_owned()),
        "[a-z\"\\\\{}é\u{0}-\u{7}]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("\"usage\":{\"prompt_tokens\":1}")),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn text_of(value: &Value, pretty: bool) -> String {
    if pretty {
        serde_json::to_string_pretty(value).expect("text")
    } else {
        value.to_string()
    }
}

proptest! {
    #[test]
    fn members_are_those_that_a_parser_sees(value in any_json(), pretty: bool) {
        let text = text_of(&value, pretty);
        let walk = members(text.as_bytes(), 0..text.len());
        prop_assert_eq!(walk.is_some(), value.is_object());
        let Some(mut walk) = walk else { return Ok(()) };
        let mut seen = Map::new();
        while let Some(member) = walk.next_member() {
            let key: String = serde_json::from_str(&format!("\"{}\"", &text[member.key.clone()])).expect("a key");
            let inner: Value = serde_json::from_str(&text[member.value.clone()]).expect("a value");
            let gone = removal(text.as_bytes(), &member);
            let rest = format!("{}{}", &text[..gone.start], &text[gone.end..]);
            let mut without = value.clone();
            without.as_object_mut().expect("an object").remove(&key);
            prop_assert_eq!(serde_json::from_str::<Value>(&rest).expect("JSON"), without);
            seen.insert(key, inner);
        }
        prop_assert_eq!(Value::Object(seen), value);
    }

    #[test]
    fn the_usage_of_an_answer_is_caught_however_it_is_cut(
        value in any_json(), pretty: bool, sizes in prop::collection::vec(1_usize..20, 1..8),
    ) {
        let text = text_of(&value, pretty);
        let mut capture = Capture::new("usage");
        let mut rest = text.as_bytes();
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*size));
            capture.feed(piece);
            rest = after;
            if rest.is_empty() { break; }
        }
        let caught = serde_json::from_slice::<Value>(capture.value()).ok();
        prop_assert_eq!(caught.as_ref(), value.get("usage"));
    }

    #[test]
    fn nothing_is_lost_and_nothing_fails_whatever_comes(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "(data: |event: |: |\\{\"|choices\"|\":|\\[|\\]|\\}|\\\\|\"usage\"|null|\n|\r|,){1,12}".prop_map(String::into_bytes),
        ], 0..12),
    ) {
        let mut splitter = Splitter::default();
        let mut machines: Vec<Stream> = [Api::Choices, Api::Responses, Api::Messages, Api::Opaque]
            .into_iter()
            .map(|api| Stream::new(api, Asked::default(), None))
            .collect();
        let (mut whole, mut shown) = (Vec::new(), Vec::new());
        for piece in &pieces {
            splitter.push(Bytes::copy_from_slice(piece));
            while let Some(event) = splitter.next_event() {
                whole.extend_from_slice(&event);
                for machine in &mut machines { machine.event(event.clone(), &mut shown); }
                if let Data::Line(span) = data(&event) { prop_assert!(span.end <= event.len()); }
            }
        }
        let rest = splitter.finish();
        whole.extend_from_slice(&rest);
        for machine in &mut machines { machine.finish(&rest, &mut shown); }
        prop_assert_eq!(whole, pieces.concat());
    }
}
