//! What can be wrong with what stands between a client and the gateway: a proxy that holds streams back,
//! cuts them, or takes a header for itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::fakes::model_server::{Behaviour, ModelServer, Settings};
use super::super::fakes::wire::{Reply, Wire};
use super::super::harness::Gate;
use super::with_key;

/// What a proxy does to what passes.
#[derive(Clone, Copy)]
enum Habit {
    /// Collects each answer before it passes on.
    Collects,
    /// As that, and makes one body with a length and a type of its own of it.
    Retypes,
    /// Lets only the beginning of a stream through, with a proper end of HTTP.
    Shortens,
    /// The same, and breaks the connection.
    Cuts,
    /// Keeps `Authorization` for itself.
    TakesAuthorization,
}

async fn proxy(to: SocketAddr, habit: Habit) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(carry(socket, to, habit));
        }
    });
    addr
}

/// One request and its answer.
async fn carry(mut client: TcpStream, to: SocketAddr, habit: Habit) {
    let Some(mut request) = request(&mut client).await else {
        return;
    };
    if matches!(habit, Habit::TakesAuthorization) {
        request = without_authorization(&request);
    }
    let mut gateway = Wire::connect(to).await.expect("a connection");
    gateway.send_raw(&request).await.expect("sent");
    let reply = gateway.reply().await.expect("an answer");
    let _ = client.write_all(&answer(&reply, habit)).await;
}

/// The head and body of a request with a length; none of a knock.
async fn request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        if let Some(at) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..at]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().expect("a length"));
            if read.len() >= at + 4 + length {
                return Some(read);
            }
        }
        if client.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn without_authorization(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(request.to_vec()).expect("text");
    let kept = text
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("authorization:"));
    kept.collect::<String>().into_bytes()
}

fn answer(reply: &Reply, habit: Habit) -> Vec<u8> {
    let is_stream = reply
        .header("content-type")
        .starts_with("text/event-stream");
    let kind = match habit {
        Habit::Retypes if is_stream => "text/plain",
        _ => reply.header("content-type"),
    };
    let half = is_stream && matches!(habit, Habit::Shortens | Habit::Cuts);
    let body = if half {
        // Of sixteen events of some 200 bytes.
        &reply.body[..reply.body.len() / 2]
    } else {
        &reply.body
    };
    let promised = match habit {
        Habit::Cuts => reply.body.len(),
        _ => body.len(),
    };
    let mut bytes = format!(
        "HTTP/1.1 {} Any\r\ncontent-type: {kind}\r\ncontent-length: {promised}\r\nconnection: close\r\n\r\n",
        reply.status
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// What doctor says through a proxy, before a model server that takes its time.
async fn said_through(habit: Habit) -> super::Said {
    let server = ModelServer::start(Settings {
        behaviour: Behaviour::tokens(30).paced(Duration::from_millis(20)),
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    let addr = proxy(gate.addr, habit).await;
    with_key(&[&format!("http://{addr}")]).await
}

#[tokio::test]
async fn a_stream_that_comes_in_one_lump_is_told_from_one_that_does_not() {
    let said = said_through(Habit::Collects).await;
    said.breaks_at("stream", &["at once", "buffering", "proxy_buffering off"]);
    let server = ModelServer::start(Settings {
        behaviour: Behaviour::tokens(30).paced(Duration::from_millis(20)),
        ..Settings::default()
    })
    .await;
    let gate = Gate::before(&server).await;
    let url = format!("http://{}", gate.addr);
    with_key(&[&url]).await.is_fine();
}

#[tokio::test]
async fn a_stream_that_is_made_a_plain_answer_on_the_way() {
    let said = said_through(Habit::Retypes).await;
    said.breaks_at("stream", &["text/plain", "text/event-stream"]);
}

#[tokio::test]
async fn a_stream_that_is_cut_on_the_way() {
    let said = said_through(Habit::Cuts).await;
    said.breaks_at("stream", &["no end", "time limits", "--timeout"]);
    let said = said_through(Habit::Shortens).await;
    said.breaks_at("stream", &["finish_reason", "in between"]);
}

#[tokio::test]
async fn a_proxy_that_takes_authorization_for_itself_is_told_of_and_gone_around() {
    let server = ModelServer::start(Settings::default()).await;
    let gate = Gate::before(&server).await;
    let addr = proxy(gate.addr, Habit::TakesAuthorization).await;
    let said = with_key(&[&format!("http://{addr}")]).await;
    said.is_fine();
    let warning = "warning: the key arrives as X-API-Key and not as Authorization";
    assert!(said.out.contains(warning), "{said:?}");
    assert!(said.out.contains("opencode-config --x-api-key"), "{said:?}");
}
