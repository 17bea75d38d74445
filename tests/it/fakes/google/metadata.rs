//! The metadata server: project, region, instance, access tokens and ID tokens. It books what it was
//! asked and keeps a list of the tokens that it gave out, so that the other servers can take exactly
//! these. The signature of an ID token is none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// What it says of the machine.
pub const PROJECT: &str = "tollgate-test";
pub const PROJECT_NUMBER: &str = "123456789012";
pub const REGION: &str = "europe-west4";
pub const INSTANCE_ID: &str = "00a1b2c3d4e5f60718293a4b5c6d7e8f90";
pub const ACCOUNT: &str = "gateway@tollgate-test.iam.gserviceaccount.com";

/// The path of ID tokens, below `computeMetadata/v1`.
pub const IDENTITY: &str = "instance/service-accounts/default/identity";
/// The path of access tokens.
pub const TOKEN: &str = "instance/service-accounts/default/token";

const ROOT: &str = "/computeMetadata/v1/";
const ISSUER: &str = "https://accounts.google.com";

/// A trouble that a test orders.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Answers with this status.
    Fails(u16),
    /// Answers after so long.
    IsSlow(Duration),
    /// Never answers.
    Hangs,
    /// Answers 200 with these bytes.
    Says(String),
}

/// The tokens that were given out. Clones share the list.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<Vec<Issued>>>);

struct Issued {
    token: String,
    /// `None` for access tokens.
    audience: Option<String>,
    expires_at: u64,
}

/// A running server; dropping it stops it.
pub struct Metadata {
    shared: Arc<Shared>,
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

struct Shared {
    tokens: Tokens,
    state: Mutex<State>,
}

struct State {
    life: Duration,
    /// By the beginning of the path; the last one ordered wins.
    troubles: Vec<(String, Trouble)>,
    /// Path and query, below `computeMetadata/v1`.
    asked: Vec<String>,
}

impl Metadata {
    /// Binds a free port of loopback and serves.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            tokens: Tokens::default(),
            state: Mutex::new(State {
                life: Duration::from_hours(1),
                troubles: Vec::new(),
                asked: Vec::new(),
            }),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            shared,
            addr,
            accepting,
        }
    }

    /// `127.0.0.1:PORT`, for `GCE_METADATA_HOST`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The tokens that it gave out, for those who are to take them.
    pub fn tokens(&self) -> Tokens {
        self.shared.tokens.clone()
    }

    /// Tokens from now on live so long, in whole seconds.
    pub fn set_life(&self, life: Duration) {
        self.shared.state().life = life;
    }

    /// What happens from now on to requests whose path, below `computeMetadata/v1`, begins so.
    pub fn trouble(&self, path: &str, trouble: Trouble) {
        let order = (path.to_owned(), trouble);
        self.shared.state().troubles.push(order);
    }

    /// All is well again.
    pub fn heal(&self) {
        self.shared.state().troubles.clear();
    }

    /// How often paths that begin so were asked.
    pub fn count(&self, path: &str) -> usize {
        let state = self.shared.state();
        let asked = state.asked.iter();
        asked.filter(|asked| asked.starts_with(path)).count()
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // The set of connections lives in this task and ends with it.
        self.accepting.abort();
    }
}

impl Tokens {
    /// It is an access token that was given out here and has not expired.
    pub fn is_access(&self, token: &str) -> bool {
        self.has(token, None)
    }

    /// It is an ID token for this audience that was given out here and has not expired.
    pub fn is_id(&self, token: &str, audience: &str) -> bool {
        self.has(token, Some(audience))
    }

    /// Nobody takes any of them from now on.
    pub fn revoke(&self) {
        self.issued().clear();
    }

    /// Every token so far, to look for where it must not be.
    pub fn all(&self) -> Vec<String> {
        let issued = self.issued();
        issued.iter().map(|one| one.token.clone()).collect()
    }

    fn has(&self, token: &str, audience: Option<&str>) -> bool {
        let now = now_s();
        self.issued().iter().any(|one| {
            one.token == token && one.audience.as_deref() == audience && now < one.expires_at
        })
    }

    fn issue_access(&self, life: Duration) -> Value {
        let mut issued = self.issued();
        let token = format!("ya29.made-up-access-token-{}", rand::random::<u64>());
        issued.push(Issued {
            token: token.clone(),
            audience: None,
            expires_at: now_s() + life.as_secs(),
        });
        json!({"access_token": token, "expires_in": life.as_secs(), "token_type": "Bearer"})
    }

    fn issue_id(&self, audience: &str, life: Duration) -> String {
        let mut issued = self.issued();
        let (now, number) = (now_s(), rand::random::<u64>());
        let claims = json!({
            "iss": ISSUER,
            "aud": audience,
            "azp": "112233445566778899001",
            "sub": "112233445566778899001",
            "email": ACCOUNT,
            "email_verified": true,
            "iat": now,
            "exp": now + life.as_secs(),
        });
        let header = json!({"alg": "RS256", "kid": "0a1b2c", "typ": "JWT"});
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!(
            "{}.{}.{}",
            part(&header.to_string()),
            part(&claims.to_string()),
            part(&format!("no signature {number}")),
        );
        issued.push(Issued {
            token: token.clone(),
            audience: Some(audience.to_owned()),
            expires_at: now + life.as_secs(),
        });
        token
    }

    fn issued(&self) -> MutexGuard<'_, Vec<Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let flavour = request.headers().get("metadata-flavor");
    if flavour.is_none_or(|flavour| flavour != "Google") {
        return reply(StatusCode::FORBIDDEN, "text/html", "no Metadata-Flavor");
    }
    let Some(path) = request.uri().path().strip_prefix(ROOT) else {
        // Clients that look for a metadata server ask for the top.
        return reply(StatusCode::OK, "text/plain", "computeMetadata/\n");
    };
    let query = request.uri().query().unwrap_or_default();
    let (trouble, life) = {
        let mut state = shared.state();
        state.asked.push(format!("{path}?{query}"));
        let mut ordered = state.troubles.iter().rev();
        let trouble = ordered.find(|(begin, _)| path.starts_with(begin.as_str()));
        (trouble.map(|(_, trouble)| trouble.clone()), state.life)
    };
    match trouble {
        Some(Trouble::Fails(status)) => {
            let status = StatusCode::from_u16(status).expect("a status");
            return reply(status, "text/html", "as ordered");
        }
        Some(Trouble::Says(text)) => return reply(StatusCode::OK, "text/plain", text),
        Some(Trouble::Hangs) => std::future::pending().await,
        Some(Trouble::IsSlow(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    tell(path, query, &shared.tokens, life)
}

fn tell(path: &str, query: &str, tokens: &Tokens, life: Duration) -> Response<Full<Bytes>> {
    let text = match path.replace(ACCOUNT, "default").as_str() {
        "project/project-id" => PROJECT.to_owned(),
        "project/numeric-project-id" => PROJECT_NUMBER.to_owned(),
        "instance/id" => INSTANCE_ID.to_owned(),
        "instance/region" => format!("projects/{PROJECT_NUMBER}/regions/{REGION}"),
        "instance/zone" => format!("projects/{PROJECT_NUMBER}/zones/{REGION}-1"),
        "instance/service-accounts/" => format!("default/\n{ACCOUNT}/\n"),
        "instance/service-accounts/default/email" => ACCOUNT.to_owned(),
        "instance/service-accounts/default/scopes" => {
            "https://www.googleapis.com/auth/cloud-platform\n".to_owned()
        }
        "universe/universe-domain" | "universe/universe_domain" => "googleapis.com".to_owned(),
        TOKEN => {
            let token = tokens.issue_access(life).to_string();
            return reply(StatusCode::OK, "application/json", token);
        }
        IDENTITY => {
            let Some(audience) = audience(query) else {
                let text = "non-empty audience parameter required";
                return reply(StatusCode::BAD_REQUEST, "text/html", text);
            };
            tokens.issue_id(&audience, life)
        }
        _ => return reply(StatusCode::NOT_FOUND, "text/html", "Not Found"),
    };
    reply(StatusCode::OK, "application/text", text)
}

fn audience(query: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("http://h/?{query}")).ok()?;
    let mut pairs = url.query_pairs();
    let (_, audience) = pairs.find(|(name, _)| name == "audience")?;
    (!audience.is_empty()).then(|| audience.into_owned())
}

fn reply(status: StatusCode, kind: &str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let builder = Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("metadata-flavor", "Google")
        .header("server", "Metadata Server for VM");
    builder.body(Full::new(text.into())).expect("an answer")
}

/// Seconds since 1970.
fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs()
}

mod tests {
    use super::*;

    async fn ask(server: &Metadata, path: &str) -> (u16, String) {
        let request = reqwest::Client::new()
            .get(format!("http://{}{ROOT}{path}", server.host()))
            .header("Metadata-Flavor", "Google");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.headers()["metadata-flavor"], "Google");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    #[tokio::test]
    async fn it_tells_the_machine_to_those_who_ask_rightly() {
        let server = Metadata::start().await;
        let (status, region) = ask(&server, "instance/region").await;
        assert_eq!(
            (status, region.as_str()),
            (200, "projects/123456789012/regions/europe-west4")
        );
        assert_eq!(ask(&server, "instance/tags").await.0, 404);
        assert_eq!(server.count("instance/"), 2);
        let bare = reqwest::get(format!("http://{}{ROOT}instance/id", server.host())).await;
        assert_eq!(bare.expect("an answer").status(), 403);
    }

    #[tokio::test]
    async fn its_tokens_are_known_until_they_expire() {
        let server = Metadata::start().await;
        let tokens = server.tokens();
        server.set_life(Duration::from_secs(100));
        let (_, token) = ask(&server, TOKEN).await;
        let token: Value = serde_json::from_str(&token).expect("JSON");
        assert_eq!(token["expires_in"], 100);
        assert!(tokens.is_access(token["access_token"].as_str().expect("a token")));
        let path = format!("{IDENTITY}?audience=https%3A%2F%2Fm.run.app&format=standard");
        let (_, id) = ask(&server, &path).await;
        let claims = id.split('.').nth(1).expect("three parts");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["aud"], "https://m.run.app");
        assert!(tokens.is_id(&id, "https://m.run.app"));
        assert!(!tokens.is_id(&id, "https://other.run.app") && !tokens.is_access(&id));
        server.set_life(Duration::ZERO);
        let (_, expired) = ask(&server, &path).await;
        assert!(!tokens.is_id(&expired, "https://m.run.app"));
        assert_eq!(tokens.all().len(), 3);
        tokens.revoke();
        assert!(!tokens.is_id(&id, "https://m.run.app"));
        assert_eq!(ask(&server, IDENTITY).await.0, 400);
    }

    #[tokio::test]
    async fn it_fails_as_ordered() {
        let server = Metadata::start().await;
        server.trouble("instance/id", Trouble::Fails(503));
        server.trouble("project", Trouble::Says("<html>".to_owned()));
        server.trouble("universe", Trouble::IsSlow(Duration::from_millis(1)));
        server.trouble("instance/zone", Trouble::Hangs);
        assert_eq!(ask(&server, "instance/id").await.0, 503);
        assert_eq!(ask(&server, "project/project-id").await.1, "<html>");
        assert_eq!(ask(&server, "universe/universe-domain").await.0, 200);
        let hung = tokio::time::timeout(Duration::from_millis(200), ask(&server, "instance/zone"));
        assert!(hung.await.is_err());
        server.heal();
        assert_eq!(ask(&server, "instance/zone").await.0, 200);
    }
}
