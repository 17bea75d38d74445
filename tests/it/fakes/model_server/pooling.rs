//! The routes that generate no chat: embeddings, rerank, score and audio. Figures are made from the
//! texts themselves, so that the same text always gets the same ones.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::plan::{Events, Plan};
use super::refusal::Refusal;
use super::routes::{Asked, header, now};
use super::tokens;

const DIMENSIONS: usize = 8;

/// `/v1/embeddings`: a vector for each text.
pub fn embeddings(asked: &Asked<'_>, body: &Map<String, Value>) -> Result<Plan, Refusal> {
    asked.limits.check(body, &[])?;
    let texts = texts(body, "input")?;
    let packed = body
        .get("encoding_format")
        .is_some_and(|format| format == "base64");
    let row = |(index, text): (usize, &String)| {
        let vector = vector(text);
        let embedding = if packed {
            let bytes: Vec<u8> = vector
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        } else {
            json!(vector)
        };
        json!({"index": index, "object": "embedding", "embedding": embedding})
    };
    let data: Vec<Value> = texts.iter().enumerate().map(row).collect();
    let count = texts.iter().map(|text| tokens::count(text)).sum();
    let answer = json!({
        "id": format!("embd-{:016x}", asked.call.number + 1), "object": "list", "created": now(),
        "model": asked.limits.model, "data": data, "usage": usage(count),
    });
    Ok(Plan::generated(&answer, count, 0))
}

/// `/v1/rerank`: documents by their likeness to a query, best first.
pub fn rerank(asked: &Asked<'_>, body: &Map<String, Value>) -> Result<Plan, Refusal> {
    asked
        .limits
        .check(body, &[("query", "string"), ("documents", "list")])?;
    let query = tokens::flat(&body["query"]);
    let documents = texts(body, "documents")?;
    let mut scored: Vec<(usize, f32)> = documents
        .iter()
        .map(|text| likeness(&query, text))
        .enumerate()
        .collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let top = body
        .get("top_n")
        .and_then(Value::as_u64)
        .and_then(|top| usize::try_from(top).ok());
    scored.truncate(top.unwrap_or(scored.len()));
    let result = |(index, score): &(usize, f32)| {
        let document = json!({"text": documents[*index], "multi_modal": null});
        json!({"index": index, "document": document, "relevance_score": score})
    };
    let results: Vec<Value> = scored.iter().map(result).collect();
    let count = documents
        .iter()
        .map(|text| tokens::count(text) + tokens::count(&query))
        .sum();
    let answer = json!({
        "id": format!("rerank-{:016x}", asked.call.number + 1), "model": asked.limits.model,
        "usage": {"prompt_tokens": count, "total_tokens": count}, "results": results,
    });
    Ok(Plan::generated(&answer, count, 0))
}

/// `/v1/score`: the likeness of pairs of texts.
pub fn score(asked: &Asked<'_>, body: &Map<String, Value>) -> Result<Plan, Refusal> {
    asked.limits.check(body, &[])?;
    let (first, second) = (texts(body, "text_1")?, texts(body, "text_2")?);
    let row = |(index, text): (usize, &String)| {
        let left = first.get(index).unwrap_or(&first[0]);
        json!({"index": index, "object": "score", "score": likeness(left, text)})
    };
    let data: Vec<Value> = second.iter().enumerate().map(row).collect();
    let count = first
        .iter()
        .chain(&second)
        .map(|text| tokens::count(text))
        .sum();
    let answer = json!({
        "id": format!("score-{:016x}", asked.call.number + 1), "object": "list", "created": now(),
        "model": asked.limits.model, "data": data, "usage": usage(count),
    });
    Ok(Plan::generated(&answer, count, 0))
}

/// `/v1/audio/transcriptions` and `/v1/audio/translations`: says how much sound it was given.
pub fn audio(asked: &Asked<'_>) -> Result<Plan, Refusal> {
    let form = form(
        header(&asked.call.headers, "content-type"),
        &asked.call.body,
    );
    let field = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let Some(file) = field("file") else {
        return Err(Refusal::Missing {
            field: "file",
            fields: form.len(),
        });
    };
    let model = field("model").map(|name| String::from_utf8_lossy(name).into_owned());
    asked.limits.model(&model.unwrap_or_default())?;
    let text = format!("I heard {} bytes.", file.len());
    let seconds = file.len().div_ceil(32_000);
    let usage = json!({"type": "duration", "seconds": seconds});
    if field("stream").is_none_or(|value| value != b"true") {
        return Ok(Plan::generated(
            &json!({"text": text, "usage": usage}),
            0,
            tokens::count(&text),
        ));
    }
    let mut events = Events::default();
    let put = |events: &mut Events, delta: Value, reason: Option<&str>| {
        let choice = json!({"delta": delta, "finish_reason": reason, "stop_reason": null});
        events.data(&json!({
            "id": format!("trsc-{:016x}", asked.call.number + 1),
            "object": "transcription.chunk", "created": now(), "model": asked.limits.model,
            "choices": [choice],
        }));
    };
    for piece in tokens::pieces(&text) {
        events.grow(1);
        put(&mut events, json!({"content": piece}), None);
    }
    put(&mut events, json!({"content": ""}), Some("stop"));
    events.done();
    Ok(Plan::stream(
        "text/event-stream; charset=utf-8",
        0,
        events.finish(),
    ))
}

/// The fields of a multipart form, names and bytes. A body that is none has no fields.
fn form(kind: &str, body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        return Vec::new();
    };
    let mark = format!("--{}", boundary.trim_matches('"'));
    let mut starts: Vec<usize> = memchr::memmem::find_iter(body, mark.as_bytes()).collect();
    starts.push(body.len());
    let parts = starts.windows(2).map(|pair| &body[pair[0]..pair[1]]);
    parts
        .filter_map(|part| {
            let cut = memchr::memmem::find(part, b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&part[..cut]).into_owned();
            let (_, name) = head.split_once(" name=\"")?;
            let (name, _) = name.split_once('"')?;
            let content = part.get(cut + 4..)?;
            let content = content.strip_suffix(b"\r\n").unwrap_or(content);
            Some((name.to_owned(), content.to_vec()))
        })
        .collect()
}

fn texts(body: &Map<String, Value>, field: &'static str) -> Result<Vec<String>, Refusal> {
    match body.get(field) {
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) if !items.is_empty() => {
            Ok(items.iter().map(tokens::flat).collect())
        }
        Some(got) => Err(Refusal::WrongType {
            field: field.into(),
            wanted: "list",
            got: got.clone(),
        }),
        None => Err(Refusal::Missing {
            field,
            fields: body.len(),
        }),
    }
}

fn vector(text: &str) -> [f32; DIMENSIONS] {
    let mut vector = [0.0; DIMENSIONS];
    for (at, byte) in text.bytes().enumerate() {
        vector[at % DIMENSIONS] += f32::from(byte) / 256.0;
    }
    vector
}

fn likeness(left: &str, right: &str) -> f32 {
    let (left, right) = (vector(left), vector(right));
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let lengths = (product(&left, &left) * product(&right, &right)).sqrt();
    if lengths > 0.0 {
        product(&left, &right) / lengths
    } else {
        0.0
    }
}

fn usage(count: u64) -> Value {
    json!({
        "prompt_tokens": count, "total_tokens": count, "completion_tokens": 0,
        "prompt_tokens_details": null,
    })
}
