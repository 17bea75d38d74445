//! A server that answers with given bytes and closes: for answers that no HTTP library would send.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Ended on drop.
pub struct Raw {
    pub addr: SocketAddr,
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
    accepting: JoinHandle<()>,
}

impl Raw {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let answers: Arc<Mutex<VecDeque<Vec<u8>>>> = Arc::default();
        let next = answers.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let is_post = Box::pin(read_request(&mut socket)).await;
                let bytes = if is_post {
                    next.lock().expect("the answers").pop_front()
                } else {
                    None
                };
                let nothing =
                    b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                        .to_vec();
                // The other side may be gone.
                let _ = socket.write_all(&bytes.unwrap_or(nothing)).await;
                let _ = socket.shutdown().await;
            }
        });
        Self {
            addr,
            answers,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What the next POST is answered with, before the connection closes.
    pub fn next(&self, bytes: impl Into<Vec<u8>>) {
        self.answers
            .lock()
            .expect("the answers")
            .push_back(bytes.into());
    }

    /// The same, as an event stream in one chunk; `whole` if it ends as HTTP says it must.
    pub fn next_stream(&self, body: &[u8], whole: bool) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut bytes = head.as_bytes().to_vec();
        if !body.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
        }
        if whole {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        self.next(bytes);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads a request with a length; tells whether it is a POST.
pub async fn read_request(socket: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0);
            if read.len() >= end + 4 + length {
                return head.starts_with("post");
            }
        }
        match socket.read(&mut buffer).await {
            Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
    }
}
