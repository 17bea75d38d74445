//! What is measured: the model server by itself, the gateway and nginx, both in front of it. Each is
//! set up as it would be run, with all that it does for a request switched on.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::{ADMIN, KEY};
use super::process::{Process, find_program, free_port};

/// Something that answers on a port of this machine.
pub struct Target {
    pub name: &'static str,
    pub port: u16,
    pub process: Process,
    /// From the start of the process until a connection was taken.
    pub listens_after: Duration,
}

/// Starts this very program again as the model server.
///
/// # Errors
/// When it does not start.
pub fn start_upstream() -> anyhow::Result<Target> {
    let began = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("upstream").stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let stdout = process.take_stdout().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(Target {
        name: "direct",
        port: line
            .trim()
            .parse()
            .context("the model server has no port")?,
        process,
        listens_after: began.elapsed(),
    })
}

/// Starts the gateway: keys file, embedded usage table, log lines as JSON to a file.
///
/// # Errors
/// When it does not start.
pub async fn start_gateway(
    program: (&Path, usize),
    folder: &Path,
    upstream: u16,
) -> anyhow::Result<Target> {
    let keys = json!({"bench": KEY, "ops": {"key": ADMIN, "admin": true}});
    start_gateway_with(program, folder, upstream, (&keys, &[])).await
}

/// The same with keys and settings of its own.
///
/// # Errors
/// When it does not start.
pub async fn start_gateway_with(
    (program, workers): (&Path, usize),
    folder: &Path,
    upstream: u16,
    (keys, settings): (&Value, &[(&str, &str)]),
) -> anyhow::Result<Target> {
    let port = free_port()?;
    fs::write(folder.join("keys.json"), keys.to_string())?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .current_dir(folder)
        .env_clear()
        .env("HOST", "127.0.0.1")
        .env("PORT", port.to_string())
        .env("VLLM_ENDPOINT", format!("http://127.0.0.1:{upstream}"))
        .env("API_KEYS_FILE", "keys.json")
        .env("DATA_DIR", "data")
        .env("USAGE_SINK", "local")
        .env("LOG_FORMAT", "json")
        .envs(settings.iter().copied())
        // Read by the runtime itself.
        .env("TOKIO_WORKER_THREADS", workers.to_string())
        .stdout(File::create(folder.join("gateway.log"))?)
        .stderr(File::create(folder.join("gateway.err"))?);
    let began = Instant::now();
    let mut process = Process::start(&mut command)?;
    let listens_after = process.listens(port, began).await.with_context(|| {
        let said = fs::read_to_string(folder.join("gateway.err")).unwrap_or_default();
        format!("the gateway does not start: {said}")
    })?;
    Ok(Target {
        name: "gateway",
        port,
        process,
        listens_after,
    })
}

/// Starts nginx as a plain proxy; `None` if it is not installed. It checks no key and counts
/// nothing; it writes its access log.
///
/// # Errors
/// When it is there and does not start.
pub async fn start_nginx(
    workers: usize,
    folder: &Path,
    upstream: u16,
) -> anyhow::Result<Option<Target>> {
    let Some(program) = find_program("nginx") else {
        return Ok(None);
    };
    let port = free_port()?;
    fs::write(
        folder.join("nginx.conf"),
        nginx_conf(workers, port, upstream),
    )?;
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "nginx.err"])
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("nginx.start"))?);
    let began = Instant::now();
    let mut process = Process::start(&mut command)?;
    let listens_after = process.listens(port, began).await.with_context(|| {
        let said = fs::read_to_string(folder.join("nginx.start")).unwrap_or_default();
        format!("nginx does not start: {said}")
    })?;
    Ok(Some(Target {
        name: "nginx",
        port,
        process,
        listens_after,
    }))
}

/// Connections are kept on both sides, request bodies stay in memory, answers pass unbuffered.
fn nginx_conf(workers: usize, port: u16, upstream: u16) -> String {
    format!(
        "daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 65536;
pid nginx.pid;
events {{ worker_connections 21000; }}
http {{
    access_log access.log combined;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    tcp_nodelay on;
    keepalive_requests 10000000;
    client_max_body_size 32m;
    client_body_buffer_size 2m;
    upstream model {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"
    )
}
