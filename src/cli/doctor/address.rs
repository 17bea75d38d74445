//! The first hop: the name resolves, something listens, TLS is good, it speaks HTTP, it is Tollgate, and
//! it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use super::Outcome;
use super::report::{Broken, Passed};
use crate::cli::remote::remedy::{describe, error_of, explain, other_scheme, unanswered};
use crate::cli::remote::{Answer, Remote, Trouble};

/// A name or a connection takes no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// An answer, as the gateway itself may be started for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a gateway that has just started may take until it is ready, at the most.
const READY_LIMIT: Duration = Duration::from_secs(12);
const READY_PAUSE: Duration = Duration::from_millis(500);

/// What stands before the gateway and wants to know who calls; for the hop that brings the key.
pub type Guard = Option<Broken>;

/// Walks to the gateway.
pub async fn check(remote: &Remote, wait: Duration) -> Outcome<Guard> {
    connect(remote).await?;
    let answer = match remote.get("/", ANSWER_LIMIT).await {
        Ok(answer) => answer,
        Err(trouble) => return Err(no_http(&trouble, remote)),
    };
    let body = answer.json();
    if body["name"] != "tollgate" {
        return not_tollgate(&answer, remote).await;
    }
    let health = remote.get("/health", ANSWER_LIMIT).await;
    let health = health.map_err(|trouble| unanswered(&trouble, remote))?;
    if health.json()["status"] != "ok" {
        return Err(explain(&health, remote));
    }
    let ready = await_ready(remote, wait.min(READY_LIMIT)).await?;
    let version = body["version"].as_str().unwrap_or_default();
    let base = remote.shown_base();
    let upstreams = states(&ready);
    let passed =
        Passed::new(format!("{base} is Tollgate {version}, ready; {upstreams}")).with(None);
    Ok(match ready["store"].as_str() {
        Some("down") => passed.warn(
            "its database does not answer now: users and keys with token limits are refused; check DATABASE_URL and the database",
        ),
        _ => passed,
    })
}

/// Finds the name and knocks at its addresses.
async fn connect(remote: &Remote) -> Result<(), Broken> {
    let url = remote.base();
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let found = timeout(CONNECT_LIMIT, lookup_host((bare, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(Broken::new(
            format!("the name {host} does not resolve"),
            "check its spelling (on Google Cloud: gcloud run services describe SERVICE --format 'value(status.url)'), your name server, and whether it needs a VPN",
        ));
    }
    let mut trouble = Trouble::TimedOut;
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(_socket)) => return Ok(()),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                trouble = Trouble::Refused;
            }
            Ok(Err(error)) => trouble = Trouble::Other(error.to_string()),
            Err(_) => {}
        }
    }
    Err(match trouble {
        Trouble::TimedOut => Broken::new(
            format!("{host} does not answer at port {port}"),
            "check address and port; a firewall may drop what comes from here",
        ),
        trouble => unanswered(&trouble, remote),
    })
}

/// The connection stands, and there is no answer to the first request.
fn no_http(trouble: &Trouble, remote: &Remote) -> Broken {
    match trouble {
        Trouble::Closed => Broken::new(
            "the connection is closed without an answer",
            other_scheme(remote.shown_base()),
        ),
        Trouble::TimedOut => Broken::new(
            format!(
                "connected, but no answer within {} s",
                ANSWER_LIMIT.as_secs()
            ),
            other_scheme(remote.shown_base()),
        ),
        trouble => unanswered(trouble, remote),
    }
}

/// Who answers in its place.
async fn not_tollgate(answer: &Answer, remote: &Remote) -> Outcome<Guard> {
    let base = remote.shown_base();
    let is_json = answer.json().is_object();
    if matches!(answer.status, 401 | 403) && !is_json {
        let saw = format!("{base} answers; who calls is asked before the gateway is reached");
        return Ok(Passed::new(saw).with(Some(explain(answer, remote))));
    }
    let target = answer.header("location");
    if (300..400).contains(&answer.status) && !target.is_empty() {
        return Err(Broken::new(
            format!("{base} redirects to {target}"),
            "give doctor and all clients the address that it leads to, without a path behind the host",
        ));
    }
    if let Some(server) = model_server(remote).await {
        return Err(Broken::new(
            format!("{server} answers at {base}, not the gateway"),
            format!(
                "start the gateway before it, on another port (`VLLM_ENDPOINT={base} PORT=8002 tollgate serve`), and give doctor and clients the gateway's address"
            ),
        ));
    }
    if matches!(answer.status, 429 | 500..=599) && error_of(&answer.json()).is_none() {
        return Err(explain(answer, remote));
    }
    let status = answer.status;
    let kind = describe(answer);
    Err(Broken::new(
        format!("{base} is not Tollgate: it answers {status}{kind}"),
        "check host, port and path: this is another server, or a proxy that does not pass `/` on; `tollgate serve` prints the gateway's address when it starts",
    ))
}

/// The name of a model server, if it is one that answers.
async fn model_server(remote: &Remote) -> Option<&'static str> {
    let text = |answer: &Answer, field: &str| answer.json()[field].is_string();
    let version = remote.get("/version", CONNECT_LIMIT).await.ok()?;
    if version.is_success() && text(&version, "version") {
        return Some("a vLLM server");
    }
    let models = remote.get("/v1/models", CONNECT_LIMIT).await.ok()?;
    let lists = models.json()["data"].is_array() || error_of(&models.json()).is_some();
    lists.then_some("another OpenAI-compatible server")
}

/// The body of `/ready`, once it says so.
async fn await_ready(remote: &Remote, wait: Duration) -> Result<Value, Broken> {
    let deadline = Instant::now() + wait;
    loop {
        let answer = remote.get("/ready", ANSWER_LIMIT).await;
        let answer = answer.map_err(|trouble| unanswered(&trouble, remote))?;
        if answer.is_success() {
            return Ok(answer.json());
        }
        if Instant::now() >= deadline {
            return Err(not_ready(&answer, remote));
        }
        sleep(READY_PAUSE).await;
    }
}

fn not_ready(answer: &Answer, remote: &Remote) -> Broken {
    let body = answer.json();
    let (Some(keys), Some(store)) = (body["keys"].as_str(), body["store"].as_str()) else {
        return explain(answer, remote);
    };
    let saw = format!("Tollgate answers and is not ready: keys {keys}, database {store}");
    let todo = if keys == "ready" {
        "for the operator of the gateway: its database has not answered since it started; check DATABASE_URL and the database"
    } else {
        "for the operator of the gateway: it could not load its keys yet; its log says why (API_KEYS_SECRET_NAME, API_KEYS_FILE, and the right to read them)"
    };
    Broken::new(saw, todo)
}

/// What is known of the model servers, from the body of `/ready`.
fn states(ready: &Value) -> String {
    let states: Vec<&str> = ready["upstreams"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|upstream| upstream["state"].as_str())
        .collect();
    match states.as_slice() {
        [] => "it names no model server".to_owned(),
        [one] => format!("model server: {one}"),
        several => format!("model servers: {}", several.join(", ")),
    }
}
