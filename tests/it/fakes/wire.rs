//! An HTTP/1.1 client that shows what is on the wire and tidies nothing up. For tests that care for
//! bytes, chunks, cuts and hang-ups; it reuses no connection by itself and follows nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long any one read may take, unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Wire {
    socket: TcpStream,
    unread: Vec<u8>,
    patience: Duration,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body without chunked framing.
    pub body: Vec<u8>,
    /// Each HTTP chunk (one for a body with a length).
    pub chunks: Vec<Vec<u8>>,
    /// Whether it ended as HTTP says it must.
    pub complete: bool,
}

/// The head of an answer whose body is still to be read.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: HeaderMap,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Wire {
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            unread: Vec::new(),
            patience: PATIENCE,
        })
    }

    /// The same, for answers that take longer.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends a request; a body gets its length.
    pub async fn send(
        &mut self,
        line: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let length = body.len().to_string();
        let mut all = vec![("host", "127.0.0.1")];
        all.extend_from_slice(headers);
        if !body.is_empty() || line.starts_with("POST") {
            all.push(("content-length", &length));
        }
        let lines: Vec<String> = all
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!("{line} HTTP/1.1\r\n{}", lines.concat());
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.socket.write_all(&bytes).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Reads the head of an answer.
    pub async fn head(&mut self) -> io::Result<Head> {
        let text = self.until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let name: http::HeaderName = name.parse().map_err(io::Error::other)?;
            headers.append(name, value.trim().parse().map_err(io::Error::other)?);
        }
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {text:?}")))?;
        Ok(Head { status, headers })
    }

    /// One HTTP chunk; empty at the last. An error if the connection ends before.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let size = self.until(b"\r\n").await?;
        let size = String::from_utf8_lossy(&size).trim().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
        let chunk = self.exactly(size).await?;
        self.exactly(2).await?;
        Ok(chunk)
    }

    /// Reads an answer to its end, proper or not.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let head = self.head().await?;
        self.body(head).await
    }

    /// Reads what follows a head.
    pub async fn body(&mut self, head: Head) -> io::Result<Reply> {
        let Head { status, headers } = head;
        let mut reply = Reply {
            status,
            headers,
            body: vec![],
            chunks: vec![],
            complete: false,
        };
        if reply.header("transfer-encoding") == "chunked" {
            while let Ok(chunk) = self.chunk().await {
                reply.complete = chunk.is_empty();
                if reply.complete {
                    break;
                }
                reply.body.extend_from_slice(&chunk);
                reply.chunks.push(chunk);
            }
            return Ok(reply);
        }
        let length: usize = reply.header("content-length").parse().unwrap_or(0);
        while self.unread.len() < length && self.fill().await? > 0 {}
        reply.complete = self.unread.len() >= length;
        reply.body = self.unread.drain(..length.min(self.unread.len())).collect();
        reply.chunks = vec![reply.body.clone()];
        Ok(reply)
    }

    /// Waits for the other side to close; the bytes that came before.
    pub async fn closed(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    async fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, mark) {
                return Ok(self.unread.drain(..at + mark.len()).collect());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn exactly(&mut self, size: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < size {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.unread.drain(..size).collect())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let read =
            tokio::time::timeout(self.patience, self.socket.read_buf(&mut self.unread)).await;
        read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// One request on a connection of its own, with a JSON content type unless headers say otherwise.
pub async fn exchange(
    addr: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut all = headers.to_vec();
    if !body.is_empty()
        && !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        all.push(("content-type", "application/json"));
    }
    let mut wire = Wire::connect(addr).await?;
    wire.send(line, &all, body).await?;
    wire.reply().await
}

/// A JSON body posted on a connection of its own.
pub async fn post(addr: SocketAddr, path: &str, body: &Value) -> Reply {
    let line = format!("POST {path}");
    exchange(addr, &line, &[], body.to_string().as_bytes())
        .await
        .expect("an answer")
}
