//! Bytes on a socket, right or wrong, and whatever comes back.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fakes::wire::Reply;
use super::harness::PATIENCE;

/// Sends bytes and reads until the other side closes: the answers that came.
pub async fn say(addr: SocketAddr, bytes: &[u8]) -> Vec<Reply> {
    replies(
        &said(addr, bytes, false, PATIENCE)
            .await
            .expect("closed in time"),
    )
}

/// Sends bytes, then nothing more for good: the answers that came.
pub async fn say_and_end(addr: SocketAddr, bytes: &[u8]) -> Vec<Reply> {
    replies(
        &said(addr, bytes, true, PATIENCE)
            .await
            .expect("closed in time"),
    )
}

/// Sends bytes, as far as the other side takes them, and reads until it closes; `None` if it does
/// not within `limit`.
pub async fn said(addr: SocketAddr, bytes: &[u8], ends: bool, limit: Duration) -> Option<Vec<u8>> {
    let mut socket = TcpStream::connect(addr).await.expect("a connection");
    let (mut reading, mut writing) = socket.split();
    let write = async {
        // An answer may come, and the connection end, before all is written.
        if writing.write_all(bytes).await.is_ok() && ends {
            let _ = writing.shutdown().await;
        }
    };
    let mut read = Vec::new();
    let both = async {
        // A reset after the answer is an end too.
        let ((), _) = tokio::join!(write, reading.read_to_end(&mut read));
    };
    timeout(limit, both).await.ok()?;
    Some(read)
}

/// Takes answers with lengths apart. What cannot be taken apart is no answer of this gateway.
pub fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head in ASCII");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let name: http::HeaderName = name.parse().expect("a header's name");
            headers.append(name, value.trim().parse().expect("a header's value"));
        }
        let length = headers
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let body = &bytes[end..];
        let body = &body[..length.min(body.len())];
        found.push(Reply {
            status: status.expect("a status"),
            headers,
            complete: body.len() == length,
            body: body.to_vec(),
            chunks: vec![],
        });
        bytes = &bytes[end + body.len()..];
    }
    found
}
