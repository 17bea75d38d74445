//! A model server that costs as little as possible: it answers chat completions in vLLM's shape,
//! plain and streamed, without reading more of a request than a few words. Runs in a process of its
//! own, so that its CPU time is told apart. Must not know who calls it.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// The only model that is served.
pub const MODEL: &str = "bench";
/// Size of a plain answer's body.
pub const ANSWER_BYTES: usize = 1024;
/// A head that is longer than this is not from the benchmark.
const HEAD_BYTES: usize = 64 * 1024;

/// What a request asks for.
#[derive(Clone, Copy)]
struct Wish {
    is_stream: bool,
    usage: bool,
    running_usage: bool,
    events: u64,
    pace: Duration,
}

/// Says its port on standard output and serves until it is killed.
///
/// # Errors
/// When no port can be had.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let connections = TaskTracker::new();
    loop {
        let (socket, _) = listener.accept().await?;
        connections.spawn(async move {
            // A caller that leaves is none of our business.
            let _ = connection(socket).await;
        });
    }
}

async fn connection(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let plain = plain_answer();
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while let Some((head, body)) = read_request(&mut socket, &mut buffer).await? {
        if head.starts_with(b"POST") {
            let wish = Wish::read(&body);
            if wish.is_stream {
                stream(&mut socket, wish).await?;
            } else {
                socket.write_all(&plain).await?;
            }
        } else if head.starts_with(b"GET /version") {
            socket.write_all(&json(r#"{"version":"0.32.0"}"#)).await?;
        } else {
            let list = format!(
                r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model","created":1700000000,"owned_by":"vllm","max_model_len":131072}}]}}"#
            );
            socket.write_all(&json(&list)).await?;
        }
    }
    Ok(())
}

/// Head and body of the next request; `None` when the connection ends between two.
async fn read_request(
    socket: &mut TcpStream,
    buffer: &mut BytesMut,
) -> anyhow::Result<Option<(Bytes, Bytes)>> {
    let head_end = loop {
        if let Some(at) = memmem::find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        anyhow::ensure!(buffer.len() < HEAD_BYTES, "an endless head");
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = buffer.split_to(head_end).freeze();
    let body_bytes = content_length(&head).unwrap_or(0);
    buffer.reserve(body_bytes.saturating_sub(buffer.len()));
    while buffer.len() < body_bytes {
        anyhow::ensure!(socket.read_buf(buffer).await? > 0, "half a request");
    }
    Ok(Some((head, buffer.split_to(body_bytes).freeze())))
}

/// The length that a head announces.
pub fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head.split(|&byte| byte == b'\n').find(|line| {
        line.get(..NAME.len())
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    })?;
    let value = std::str::from_utf8(line.get(NAME.len()..)?).ok()?;
    value.trim().parse().ok()
}

impl Wish {
    fn read(body: &[u8]) -> Self {
        let has = |words: &str| memmem::find(body, words.as_bytes()).is_some();
        Self {
            is_stream: has(r#""stream":true"#),
            usage: has(r#""include_usage":true"#),
            running_usage: has(r#""continuous_usage_stats":true"#),
            events: number_after(body, b"events-").unwrap_or(1),
            pace: Duration::from_micros(number_after(body, b"pace-").unwrap_or(0)),
        }
    }
}

/// The number that follows some words.
fn number_after(text: &[u8], words: &[u8]) -> Option<u64> {
    let start = memmem::find(text, words)? + words.len();
    let digits = text[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    std::str::from_utf8(&text[start..end]).ok()?.parse().ok()
}

async fn stream(socket: &mut TcpStream, wish: Wish) -> anyhow::Result<()> {
    socket
        .write_all(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    let mut next = Instant::now();
    let mut out = Vec::with_capacity(1024);
    for index in 0..wish.events {
        if index > 0 && !wish.pace.is_zero() {
            next += wish.pace;
            sleep_until(next).await;
        }
        let now = unix_ns()?;
        let choice = format!(
            r#"{{"index":0,"delta":{{"content":"{now}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}"#
        );
        write_chunk(&mut out, &chunk(&choice, wish.running_usage, index + 1))?;
        socket.write_all(&out).await?;
        out.clear();
    }
    let last = r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}"#;
    write_chunk(&mut out, &chunk(last, wish.running_usage, wish.events))?;
    if wish.usage {
        write_chunk(&mut out, &chunk("", true, wish.events))?;
    }
    write_chunk(&mut out, "data: [DONE]\n\n")?;
    out.extend_from_slice(b"0\r\n\r\n");
    socket.write_all(&out).await?;
    Ok(())
}

fn write_chunk(out: &mut Vec<u8>, event: &str) -> std::io::Result<()> {
    write!(out, "{:x}\r\n{event}\r\n", event.len())
}

fn chunk(choice: &str, with_usage: bool, tokens: u64) -> String {
    let usage = if with_usage {
        let total = tokens + 15;
        format!(
            r#","usage":{{"prompt_tokens":15,"total_tokens":{total},"completion_tokens":{tokens},"completion_tokens_details":null}}"#
        )
    } else {
        String::new()
    };
    format!(
        "data: {{\"id\":\"chatcmpl-89a92d34f2a97b32\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"{MODEL}\",\"choices\":[{choice}]{usage}}}\n\n"
    )
}

fn plain_answer() -> Bytes {
    let answer = |content: &str| {
        format!(
            r#"{{"id":"chatcmpl-89a92d34f2a97b32","object":"chat.completion","created":1700000000,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}","refusal":null,"tool_calls":[]}},"logprobs":null,"finish_reason":"stop","stop_reason":null}}],"usage":{{"prompt_tokens":15,"total_tokens":29,"completion_tokens":14,"prompt_tokens_details":null}},"system_fingerprint":"vllm-0.32.0-bench"}}"#
        )
    };
    let words = "w".repeat(ANSWER_BYTES.saturating_sub(answer("").len()));
    json(&answer(&words))
}

fn json(body: &str) -> Bytes {
    format!(
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// Nanoseconds since 1970; 19 digits until the year 2286.
pub fn unix_ns() -> anyhow::Result<u64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    Ok(u64::try_from(since.as_nanos())?)
}
