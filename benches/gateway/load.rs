//! The load: connections that each send the next request when they have the last answer. Reads
//! answers no closer than needed to see that they are whole. Must not know what stands behind the
//! port.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::upstream::{MODEL, content_length, unix_ns};

/// The key that the gateway knows.
pub const KEY: &str = "sk-0123456789abcdef0123";
/// The key that may read the gateway's metrics.
pub const ADMIN: &str = "sk-admin-0123456789abcdef";
/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_mins(2);
const CONTENT: &[u8] = b"\"content\":\"";
const CONTENT_DIGITS: usize = 19;

/// What is asked for, again and again.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A plain answer to a body of this many bytes.
    Plain { body_bytes: usize },
    /// Streams of this many events, this far apart.
    Stream { events: u64, pace: Duration },
}

/// One series of requests.
#[derive(Clone, Copy)]
pub struct Load {
    pub kind: Kind,
    pub connections: usize,
    /// No connection begins another request after this time, or beyond this count.
    pub time: Duration,
    pub requests_each: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Sample {
    /// Sorted. Of plain requests: from the first byte sent to the last one received. Of streams:
    /// from the moment the model server wrote an event until it was read here.
    pub latencies_ns: Vec<u64>,
    /// Requests, or events of streams.
    pub units: u64,
    pub took: Duration,
}

impl Sample {
    /// In microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies_ns.len().saturating_sub(1);
        let index = self.latencies_ns.len() * percent / 100;
        let ns = self.latencies_ns.get(index.min(last)).copied();
        Duration::from_nanos(ns.unwrap_or(0)).as_secs_f64() * 1e6
    }
}

/// Runs one load against a port of this machine.
///
/// # Errors
/// When any answer is not what it should be: figures of failures are no figures.
pub async fn run(port: u16, load: Load) -> anyhow::Result<Sample> {
    let request = request(load.kind);
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for index in 0..load.connections {
        let request = request.clone();
        connections.spawn(async move {
            let one = connection(port, load, &request, index);
            timeout(LIMIT, one).await.context("the load hangs")?
        });
    }
    let mut all = Sample::default();
    while let Some(one) = connections.join_next().await {
        let one = one??;
        all.units += one.units;
        all.latencies_ns.extend(one.latencies_ns);
    }
    all.took = began.elapsed();
    all.latencies_ns.sort_unstable();
    Ok(all)
}

async fn connection(port: u16, load: Load, request: &[u8], index: usize) -> anyhow::Result<Sample> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    if let Kind::Stream { pace, .. } = load.kind {
        // Spread over one beat: model servers do not beat as one.
        let share = f64::from(u32::try_from(index)?) / f64::from(u32::try_from(load.connections)?);
        sleep(pace.mul_f64(share)).await;
    }
    let ends_at = Instant::now() + load.time;
    let mut buffer = BytesMut::with_capacity(128 * 1024);
    let mut sample = Sample::default();
    for _ in 0..load.requests_each {
        let sent_at = Instant::now();
        socket.write_all(request).await?;
        match load.kind {
            Kind::Plain { .. } => {
                read_plain(&mut socket, &mut buffer).await?;
                let took = u64::try_from(sent_at.elapsed().as_nanos())?;
                sample.latencies_ns.push(took);
                sample.units += 1;
            }
            Kind::Stream { events, .. } => {
                let seen = read_stream(&mut socket, &mut buffer, &mut sample.latencies_ns).await?;
                ensure!(seen == events, "{seen} events instead of {events}");
                sample.units += events;
            }
        }
        if Instant::now() >= ends_at {
            break;
        }
    }
    Ok(sample)
}

async fn read_plain(socket: &mut TcpStream, buffer: &mut BytesMut) -> anyhow::Result<()> {
    buffer.clear();
    let mut whole = None;
    while whole.is_none_or(|bytes| buffer.len() < bytes) {
        ensure!(socket.read_buf(buffer).await? > 0, "half an answer");
        if whole.is_none()
            && let Some(at) = memmem::find(buffer, b"\r\n\r\n")
        {
            check_status(buffer)?;
            let body = content_length(&buffer[..at]).context("an answer without a length")?;
            whole = Some(at + 4 + body);
        }
    }
    Ok(())
}

/// Reads a stream to its end and returns how many events it had that tell when they were written.
async fn read_stream(
    socket: &mut TcpStream,
    buffer: &mut BytesMut,
    latencies_ns: &mut Vec<u64>,
) -> anyhow::Result<u64> {
    buffer.clear();
    let mut text = Vec::with_capacity(64 * 1024);
    let mut chunk_left = None;
    let (mut seen, mut at) = (0, 0);
    loop {
        ensure!(socket.read_buf(buffer).await? > 0, "half a stream");
        let now = unix_ns()?;
        let is_over = take_chunks(buffer, &mut chunk_left, &mut text)?;
        while let Some(found) = memmem::find(&text[at..], CONTENT) {
            let start = at + found + CONTENT.len();
            let Some(digits) = text.get(start..start + CONTENT_DIGITS) else {
                break;
            };
            let written: u64 = std::str::from_utf8(digits)?.parse()?;
            latencies_ns.push(now.saturating_sub(written));
            seen += 1;
            at = start;
        }
        if is_over {
            return Ok(seen);
        }
    }
}

/// Moves what the chunks hold into `text`; tells whether the last one has come. `left` is what the
/// current chunk still lacks, with its line break; `None` until the head has been read.
fn take_chunks(
    buffer: &mut BytesMut,
    left: &mut Option<usize>,
    text: &mut Vec<u8>,
) -> anyhow::Result<bool> {
    /// The line break after a chunk.
    const BREAK: usize = 2;
    loop {
        let Some(chunk) = left else {
            let Some(end) = memmem::find(buffer, b"\r\n\r\n") else {
                return Ok(false);
            };
            check_status(&buffer.split_to(end + 4))?;
            *left = Some(0);
            continue;
        };
        if *chunk > 0 {
            let part = buffer.split_to(buffer.len().min(*chunk));
            let data = chunk.saturating_sub(BREAK).min(part.len());
            text.extend_from_slice(&part[..data]);
            *chunk -= part.len();
            if *chunk > 0 {
                return Ok(false);
            }
        }
        let Some(end) = memmem::find(buffer, b"\r\n") else {
            return Ok(false);
        };
        let line = buffer.split_to(end + BREAK);
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end])?.trim(), 16)?;
        if size == 0 {
            // The line break after it comes with it.
            return Ok(true);
        }
        *left = Some(size + BREAK);
    }
}

fn check_status(answer: &[u8]) -> anyhow::Result<()> {
    let line = answer.split(|&byte| byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    ensure!(line.starts_with("HTTP/1.1 200"), "answered {line}");
    Ok(())
}

/// Opens streams that say one event and then nothing, and returns them once each has said it.
///
/// # Errors
/// When one does not open.
pub async fn open_idle(port: u16, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    /// Opened at once; more would only wait in the listen queue.
    const AT_ONCE: usize = 100;
    let request = request(Kind::Stream {
        events: 2,
        pace: Duration::from_hours(1),
    });
    let mut open = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    let mut begun = 0;
    while open.len() < count {
        while begun < count && opening.len() < AT_ONCE {
            let request = request.clone();
            opening.spawn(async move {
                timeout(LIMIT, open_one(port, &request))
                    .await
                    .context("a stream does not open")?
            });
            begun += 1;
        }
        if let Some(opened) = opening.join_next().await {
            open.push(opened??);
        }
    }
    Ok(open)
}

async fn open_one(port: u16, request: &[u8]) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(request).await?;
    let mut buffer = BytesMut::with_capacity(4096);
    while memmem::find(&buffer, CONTENT).is_none() {
        ensure!(socket.read_buf(&mut buffer).await? > 0, "half a stream");
    }
    check_status(&buffer)?;
    Ok(socket)
}

/// The page of metrics.
///
/// # Errors
/// When there is none.
pub async fn metrics(port: u16) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {ADMIN}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    timeout(LIMIT, socket.read_to_end(&mut page))
        .await
        .context("no metrics")??;
    check_status(&page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A request as OpenCode sends it: streams ask for usage. None bounds its output, which would make
/// the gateway count the tokens of long prompts first.
fn request(kind: Kind) -> Bytes {
    let (options, body_bytes) = match kind {
        Kind::Plain { body_bytes } => (r#""stream":false"#.to_owned(), body_bytes),
        Kind::Stream { events, pace } => (
            format!(
                r#""stream":true,"stream_options":{{"include_usage":true}},"user":"events-{events}-pace-{}""#,
                pace.as_micros()
            ),
            512,
        ),
    };
    let body = |content: &str| {
        format!(
            r#"{{"model":"{MODEL}",{options},"messages":[{{"role":"user","content":"{content}"}}]}}"#
        )
    };
    let line = r#"fn main() {\n    println!(\"Guten Tag\");\n}\n"#;
    let room = body_bytes.saturating_sub(body("").len());
    let mut content = line.repeat(room / line.len());
    content.extend(std::iter::repeat_n(' ', room - content.len()));
    let body = body(&content);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench/1\r\naccept: */*\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}
