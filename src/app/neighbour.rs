//! Who sits on a port that is taken, and how to start beside it. Only asks; must not know what the
//! port was wanted for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long each question may take, and how much of an answer is read.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const ANSWER_BYTES: u64 = 64 * 1024;

/// Whoever answers on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    Tollgate,
    Vllm,
    Other,
}

/// What is to be said of a taken port that `variable` chose: who answers there, and the command
/// that starts beside it.
pub async fn describe(address: SocketAddr, variable: &str) -> String {
    let port = address.port();
    let free = port.checked_add(2).unwrap_or(1024);
    let reachable = SocketAddr::new(reachable(address.ip()), port);
    let (who, besides) = match recognise(reachable).await {
        Neighbour::Tollgate => ("tollgate", String::new()),
        // vLLM's own default port is ours too, so it is most likely the one that is meant.
        Neighbour::Vllm if variable == "PORT" => (
            "a vLLM server",
            format!(" VLLM_ENDPOINT=http://{reachable}"),
        ),
        Neighbour::Vllm => ("a vLLM server", String::new()),
        Neighbour::Other => ("another program", String::new()),
    };
    format!(
        "port {port} is in use by {who}; start beside it with {variable}={free}{besides} tollgate serve"
    )
}

/// An address to listen on as one to call.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

async fn recognise(address: SocketAddr) -> Neighbour {
    let name = ask(address, "/").await;
    if name.is_some_and(|object| object["name"] == "tollgate") {
        return Neighbour::Tollgate;
    }
    let version = ask(address, "/version").await;
    if version.is_some_and(|object| object["version"].is_string()) {
        return Neighbour::Vllm;
    }
    Neighbour::Other
}

/// The JSON of a short answer; `None` for anything else.
async fn ask(address: SocketAddr, path: &str) -> Option<Value> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await.ok()?;
        // Of this version no answer is chunked.
        let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        socket
            .take(ANSWER_BYTES)
            .read_to_end(&mut answer)
            .await
            .ok()?;
        Some(answer)
    };
    let answer = timeout(ANSWER_LIMIT, exchange).await.ok()??;
    let start = memchr::memmem::find(&answer, b"\r\n\r\n")? + 4;
    serde_json::from_slice(answer.get(start..)?).ok()
}
