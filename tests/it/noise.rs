//! Ten thousand connections that bring noise: nothing is held, nothing is lost, nothing is charged.

use serde_json::json;
use tokio::task::JoinSet;

use super::fakes::model_server::{ModelServer, Settings};
use super::harness::{Gate, PATIENCE};
use super::raw;

/// A proper call but for its key: what gets through of it must still cost nothing.
const CALL: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: sk-wrong-0123456789abcdef\r\ncontent-type: application/json\r\ncontent-length: 48\r\n\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}";

/// Repeatable noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Random bytes, or a good call with random bytes in it, cut somewhere.
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = if self.next().is_multiple_of(2) {
            CALL.as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let length = usize::try_from(self.next() % 300).expect("small");
        let noise: Vec<u8> = (0..length).map(|_| self.next().to_le_bytes()[3]).collect();
        let at = usize::try_from(self.next()).unwrap_or(0) % (bytes.len() + 1);
        bytes.splice(at..at, noise);
        let end = usize::try_from(self.next()).unwrap_or(0) % (bytes.len() + 1);
        bytes.truncate(end.max(1));
        bytes
    }
}

/// A gauge of the process.
async fn gauge(gate: &Gate, name: &str) -> f64 {
    let text = gate.admin("/metrics").await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Ten thousand connections of noise, sixteen at a time.
async fn make_noise(gate: &Gate, seed: u64) {
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let addr = gate.addr;
        tasks.spawn(async move {
            let mut noise = Noise(seed + task + 1);
            for _ in 0..10_000 / 16 {
                let bytes = noise.bytes();
                let read = raw::said(addr, &bytes, true, PATIENCE).await;
                let read = read.unwrap_or_else(|| panic!("held by {bytes:?}"));
                assert!(!read.starts_with(b"HTTP/1.1 5"), "{bytes:?}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no connection is held");
    }
}

#[tokio::test]
async fn ten_thousand_connections_of_noise_leave_no_trace() {
    let server = ModelServer::start(Settings::default()).await;
    let mut gate = Gate::before(&server).await;
    make_noise(&gate, 7).await;
    let before = (
        gauge(&gate, "process_open_fds").await,
        gauge(&gate, "process_resident_memory_bytes").await,
    );
    make_noise(&gate, 7_000).await;
    let after = (
        gauge(&gate, "process_open_fds").await,
        gauge(&gate, "process_resident_memory_bytes").await,
    );
    assert!(
        after.0 <= before.0 + 5.0,
        "open files: {before:?} {after:?}"
    );
    assert!(after.1 <= before.1 + 16e6, "memory: {before:?} {after:?}");
    assert_eq!(server.model_calls().len(), 0);
    let reply = gate
        .post(
            "/v1/chat/completions",
            &json!({"messages": [{"role": "user", "content": "Hello"}]}),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let rows = gate.rows(1).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    let refused = gate
        .log()
        .iter()
        .filter(|line| line["message"] == "refused")
        .count();
    assert!(refused < 1_000, "{refused} lines for refusals");
}
