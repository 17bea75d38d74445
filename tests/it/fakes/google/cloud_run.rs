//! Cloud Run and Cloud Build as a server: takes what `gcloud run services replace` and `gcloud
//! builds submit` send, and refuses what the real ones would refuse (see `rules`). Beside them what
//! else of a project the scripts of the deployment touch (see `project`).
//!
//! gcloud puts the region before the host of its endpoint, so the server is set as gcloud's HTTP proxy
//! and hears every host. It starts nothing: a service that was accepted counts as running.

mod project;
mod rules;

pub use project::{LOG_WRITER, Project};

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub const PROJECT: &str = "measured-project";
pub const REGION: &str = "us-central1";
/// What gcloud must send as its access token.
const TOKEN: &str = "ya29.a-token-of-the-test";

/// The parts of Google that the scripts use, by gcloud's names.
const APIS: [&str; 9] = [
    "artifactregistry",
    "cloudbuild",
    "cloudresourcemanager",
    "iam",
    "logging",
    "run",
    "secretmanager",
    "serviceusage",
    "storage",
];

/// What was accepted.
#[derive(Default)]
struct Accepted {
    /// By name, with a status once deployed.
    services: BTreeMap<String, Value>,
    /// IAM policies of services, by name.
    policies: BTreeMap<String, Value>,
    builds: Vec<Value>,
    /// Services that were only checked.
    checked: Vec<Value>,
    project: Project,
}

/// A running server; dropping it ends it.
pub struct CloudRun {
    addr: SocketAddr,
    accepted: Arc<Mutex<Accepted>>,
    accepting: JoinHandle<()>,
}

impl CloudRun {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let accepted = Arc::new(Mutex::new(Accepted::default()));
        let shared = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &shared));
                    let serving = http1::Builder::new();
                    // A client that leaves is no fault of the server's.
                    let _ = serving
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self {
            addr,
            accepted,
            accepting,
        }
    }

    /// A command that can reach this server alone: gcloud's settings, and a home of its own.
    pub fn command(&self, program: &str, home: &std::path::Path) -> Command {
        let token_file = home.join("token");
        std::fs::write(&token_file, TOKEN).expect("a token file");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("CLOUDSDK_CONFIG", home.join("gcloud"))
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", token_file)
            .env("CLOUDSDK_CORE_PROJECT", PROJECT)
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "1");
        for api in APIS {
            let variable = format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{}", api.to_uppercase());
            command.env(variable, format!("http://{api}.test/"));
        }
        // bq cannot use the proxy, and does not put regions before its host.
        let proxy = format!("http://{}", self.addr);
        command
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY", &proxy)
            .env("no_proxy", "127.0.0.1");
        for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY"] {
            command.env(variable, &proxy);
        }
        command
    }

    /// A service as it was accepted for deployment.
    pub fn service(&self, name: &str) -> Option<Value> {
        self.accepted().services.get(name).cloned()
    }

    /// The IAM policy of a service.
    pub fn policy(&self, name: &str) -> Option<Value> {
        self.accepted().policies.get(name).cloned()
    }

    /// The services that were checked and not deployed.
    pub fn checked(&self) -> Vec<Value> {
        self.accepted().checked.clone()
    }

    /// The rest of the project as it is now.
    pub fn project(&self) -> Project {
        self.accepted().project.clone()
    }

    pub fn builds(&self) -> Vec<Value> {
        self.accepted().builds.clone()
    }

    fn accepted(&self) -> MutexGuard<'_, Accepted> {
        lock(&self.accepted)
    }
}

impl Drop for CloudRun {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(accepted: &Mutex<Accepted>) -> MutexGuard<'_, Accepted> {
    accepted.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    request: Request<Incoming>,
    accepted: &Mutex<Accepted>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_or_else(
        |_| Value::Null,
        |body| serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null),
    );
    let sent = head.headers.get("authorization");
    let (status, answer) = if sent.is_some_and(|sent| sent.as_bytes().ends_with(TOKEN.as_bytes())) {
        let call = Call {
            method: &head.method,
            // Through the proxy a call names its host; bq calls directly.
            host: head.uri.host().unwrap_or("bigquery.test"),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            body,
        };
        call.answer(&mut lock(accepted))
    } else {
        refusal(401, "UNAUTHENTICATED", "the request has no valid token")
    };
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(answer.to_string())));
    Ok(answer.expect("an answer"))
}

/// One call, as far as answers depend on it.
struct Call<'a> {
    method: &'a Method,
    host: &'a str,
    path: &'a str,
    query: &'a str,
    body: Value,
}

impl Call<'_> {
    fn answer(self, accepted: &mut Accepted) -> (u16, Value) {
        let knative = format!("/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services");
        let builds = format!("/v1/projects/{PROJECT}/locations/{REGION}/builds");
        let policies = format!("/v1/projects/{PROJECT}/locations/{REGION}/services/");
        if self.host == "cloudbuild.test" && self.path == builds && self.method == Method::POST {
            return self.build(accepted);
        }
        if !self.host.ends_with("run.test") {
            return accepted.project.answer(&self);
        }
        if let Some(rest) = self.path.strip_prefix(&policies) {
            let (name, verb) = rest.split_once(':').unwrap_or((rest, ""));
            return self.policy(name, verb, accepted);
        }
        let regional = self.host == format!("{REGION}-run.test");
        match self.path.strip_prefix(&knative) {
            Some(name) if regional => self.service(name.trim_start_matches('/'), accepted),
            _ => refusal(404, "NOT_FOUND", &format!("no path {}", self.path)),
        }
    }

    fn service(self, name: &str, accepted: &mut Accepted) -> (u16, Value) {
        if self.method == Method::GET {
            return match accepted.services.get(name) {
                Some(service) => (200, service.clone()),
                None => refusal(404, "NOT_FOUND", &format!("no service {name}")),
            };
        }
        if self.method == Method::DELETE {
            accepted.services.remove(name);
            return (200, json!({"kind": "Status", "status": "Success"}));
        }
        let named = self.body["metadata"]["name"].as_str().unwrap_or_default();
        let fits = match *self.method {
            Method::POST => name.is_empty() && !accepted.services.contains_key(named),
            Method::PUT => name == named && accepted.services.contains_key(named),
            _ => false,
        };
        if !fits {
            return refusal(
                409,
                "ABORTED",
                "created twice, or replaced under another name",
            );
        }
        let faults = rules::faults(&self.body);
        if !faults.is_empty() {
            return refusal(400, "INVALID_ARGUMENT", &faults.join("; "));
        }
        if self.query.contains("dryRun=all") {
            accepted.checked.push(self.body.clone());
            return (200, self.body);
        }
        let deployed = deployed(self.body.clone(), named);
        accepted.services.insert(named.to_owned(), deployed.clone());
        (200, deployed)
    }

    fn policy(self, name: &str, verb: &str, accepted: &mut Accepted) -> (u16, Value) {
        if !accepted.services.contains_key(name) {
            return refusal(404, "NOT_FOUND", &format!("no service {name}"));
        }
        if verb == "setIamPolicy" {
            let policy = self.body["policy"].clone();
            accepted.policies.insert(name.to_owned(), policy);
        }
        let none = || json!({"version": 1, "etag": "BwY="});
        (
            200,
            accepted.policies.get(name).map_or_else(none, Value::clone),
        )
    }

    fn build(self, accepted: &mut Accepted) -> (u16, Value) {
        let faults = rules::build_faults(&self.body);
        if !faults.is_empty() {
            return refusal(400, "INVALID_ARGUMENT", &faults.join("; "));
        }
        accepted.builds.push(self.body.clone());
        let mut build = self.body;
        build["id"] = json!("0f0f0f0f-0000-4000-8000-000000000000");
        build["status"] = json!("QUEUED");
        build["projectId"] = json!(PROJECT);
        let kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata";
        let metadata = json!({"@type": kind, "build": build});
        (
            200,
            json!({"name": "operations/build/1", "metadata": metadata}),
        )
    }
}

/// The service as Cloud Run shows it when all went well.
fn deployed(mut service: Value, name: &str) -> Value {
    service["metadata"]["generation"] = json!(1);
    service["metadata"]["resourceVersion"] = json!("AAY");
    let location = "cloud.googleapis.com/location";
    service["metadata"]["labels"][location] = json!(REGION);
    let ready = |kind: &str| json!({"type": kind, "status": "True"});
    let revision = format!("{name}-00001-abc");
    service["status"] = json!({
        "observedGeneration": 1,
        "conditions": [ready("Ready"), ready("ConfigurationsReady"), ready("RoutesReady")],
        "latestReadyRevisionName": revision,
        "latestCreatedRevisionName": revision,
        "traffic": [{"revisionName": revision, "percent": 100, "latestRevision": true}],
        "url": format!("https://{name}-abcdefghij-uc.a.run.app"),
    });
    service
}

/// Google's error object; bq wants the older list of errors as well.
fn refusal(code: u16, status: &str, message: &str) -> (u16, Value) {
    let reason = if code == 404 { "notFound" } else { "invalid" };
    let errors = json!([{"reason": reason, "message": message}]);
    let error = json!({"code": code, "status": status, "message": message, "errors": errors});
    (code, json!({ "error": error }))
}
