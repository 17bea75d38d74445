//! What an answer that is no success means, and what mends it: which variable, flag or command. The
//! words are for a developer at a terminal, who knows the caller's side or the gateway's, or both.

use serde_json::Value;

use super::{Answer, Remote, Trouble};

/// What was seen where something else was to be, and what to do.
#[derive(Clone, Debug)]
pub struct Broken {
    pub saw: String,
    pub todo: String,
}

impl Broken {
    pub fn new(saw: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            saw: saw.into(),
            todo: todo.into(),
        }
    }
}

/// An answer that should have been another one.
pub fn explain(answer: &Answer, remote: &Remote) -> Broken {
    let body = answer.json();
    let Some((code, text)) = error_of(&body) else {
        return from_in_front(answer, remote);
    };
    let mut saw = format!("{} {code}: {text}", answer.status);
    let id = answer.header("x-request-id");
    if !id.is_empty() && answer.status >= 500 {
        saw = format!("{saw} (x-request-id {id})");
    }
    let todo = match code.as_str() {
        "upstream_error" => upstream_error(&text),
        "missing_api_key" if remote.has_key() => REMOVED_KEY,
        code => by_code(code).unwrap_or_else(|| by_status(answer.status)),
    };
    Broken::new(saw, todo)
}

/// No answer at all, once the address was found good.
pub fn unanswered(trouble: &Trouble, remote: &Remote) -> Broken {
    let base = remote.shown_base();
    match trouble {
        Trouble::TimedOut => Broken::new(
            "no answer in time",
            "look at the gateway's log, and at what stands between it and here",
        ),
        Trouble::Refused => Broken::new(
            format!("nothing listens at {base}"),
            "start the gateway there: `tollgate serve` prints its address. If it runs on another machine it listens there for others only with HOST=0.0.0.0",
        ),
        Trouble::NotTls => Broken::new(
            format!("{base} does not speak TLS"),
            format!(
                "ask it without TLS: {}",
                base.replacen("https://", "http://", 1)
            ),
        ),
        Trouble::Certificate(why) => Broken::new(
            format!("the certificate of {base} is not trusted: {why}"),
            "use the name that the certificate is for, renew it, or install its authority among the trusted ones of this machine",
        ),
        Trouble::NotHttp => Broken::new(
            format!("what answers at {base} is no HTTP"),
            other_scheme(base),
        ),
        Trouble::Closed => Broken::new(
            "the connection was closed before the answer had ended",
            "look at the log of the gateway, and at the time limits of whatever stands between it and here",
        ),
        Trouble::Other(what) => Broken::new(
            format!("no answer: {what}"),
            "check the address, and what stands between it and here",
        ),
    }
}

/// Code and text of an error object of ours, OpenAI's or Anthropic's.
pub fn error_of(body: &Value) -> Option<(String, String)> {
    let error = body.get("error")?;
    let text = error.get("message")?.as_str()?.to_owned();
    let code = match (&error["code"], &error["type"]) {
        (Value::String(code), _) | (_, Value::String(code)) => code.clone(),
        (code, _) => code.to_string(),
    };
    Some((code, text))
}

pub fn other_scheme(base: &str) -> String {
    match base.strip_prefix("http://") {
        Some(rest) => format!("if that port serves TLS ask https://{rest}; else check the port"),
        None => "check the port: another program has it".to_owned(),
    }
}

const REMOVED_KEY: &str = "a key was sent and did not arrive: something in between takes the header away; let Authorization and X-API-Key pass there";

fn upstream_error(text: &str) -> &'static str {
    if text.contains("credential") {
        return "for the operator of the gateway: VLLM_API_KEY (`api_key_env` in UPSTREAMS_FILE) must hold the key that the model server was started with (vLLM: --api-key). For a private Cloud Run service set UPSTREAM_AUTH=id_token and give the gateway's account roles/run.invoker there";
    }
    if text.contains("redirect") {
        return "for the operator of the gateway: put the address that the model server redirects to into VLLM_ENDPOINT or UPSTREAMS_FILE (https in place of http?)";
    }
    "for the operator: the gateway's log has the cause under this x-request-id; look at the model server's log for the same moment"
}

fn by_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "missing_api_key" => {
            "give a key: set TOLLGATE_API_KEY, or --key - to type it; `tollgate keys add NAME` makes one"
        }
        "invalid_api_key" => {
            "was the key copied whole, was it revoked, has it expired? `tollgate keys list` shows the names (--file, or --project and --secret: the gateway's own set), `tollgate keys add NAME` makes a key, which works within 10 s"
        }
        "invalid_token" => {
            "log in again (POST /auth/token), or use an API key, which does not expire so soon"
        }
        "user_disabled" => "an admin lets the user in again with `tollgate users enable NAME`",
        "model_not_allowed" => {
            "name a model that the key may call with --model, or add this one to the key's `models`"
        }
        "model_not_found" => {
            "name a model of the list with --model; other names are given by MODEL_ALIASES or UPSTREAMS_FILE on the gateway"
        }
        "token_limit_exceeded" => {
            "the token budget of this key is used up: raise its `token_limit` (`tollgate users set-limit` for a user), wait for its next period, or use another key"
        }
        "rate_limit_exceeded" => {
            "wait a minute; raise `requests_per_minute`, `tokens_per_minute` or `max_concurrent` of the key if this happens in normal use"
        }
        "context_length_exceeded" => {
            "the model's context is too small for a chat; start the model server with a larger --max-model-len"
        }
        "upstream_unreachable" => {
            "for the operator of the gateway: start the model server, or put its address into VLLM_ENDPOINT or UPSTREAMS_FILE; `tollgate check`, run where the gateway runs, shows what it is now"
        }
        "upstream_starting" => {
            "the model server starts: wait, or give doctor a longer --wait. If it never comes, look at its log; COLD_START_WAIT_SECONDS says how long the gateway holds a call"
        }
        "upstream_timeout" => {
            "the model server is silent: look whether it hangs (its log, its GPU); UPSTREAM_IDLE_SECONDS says how long the gateway bears that"
        }
        "wake_not_allowed" => {
            "this key may not start a model server that sleeps: use another key, or take \"wake\": false out of its entry"
        }
        "overloaded" => {
            "the model server's queue is full: wait, or give it more instances (gcloud run services update --max-instances)"
        }
        "not_ready" => {
            "for the operator of the gateway: it has no valid key set; its log says why (API_KEYS_SECRET_NAME, API_KEYS_FILE, the right to read them)"
        }
        "store_unavailable" => {
            "for the operator of the gateway: its database does not answer; check DATABASE_URL and the database"
        }
        "internal_error" => "a fault of the gateway: its log has more under this x-request-id",
        _ => return None,
    })
}

const fn by_status(status: u16) -> &'static str {
    match status {
        401 | 403 => "this is no answer of Tollgate: check that the address is the gateway's",
        404 => {
            "the model server does not have this route or model; check --model and what it serves"
        }
        429 => "wait, and ask again",
        400..=499 => "these are the model server's own words: see what it refuses there",
        _ => "look at the log of whoever answered",
    }
}

/// What is no JSON was not said by the gateway, but by something before it.
fn from_in_front(answer: &Answer, remote: &Remote) -> Broken {
    let is_google = is_google(answer, remote);
    let saw = format!("{}{}", answer.status, describe(answer));
    match answer.status {
        401 | 403 if is_google => Broken::new(
            format!("{saw}: Cloud Run itself refuses, before the gateway is reached"),
            "callers lack the right to invoke the service (roles/run.invoker). The gateway checks keys itself, so let all pass: `gcloud run services add-iam-policy-binding SERVICE --member allUsers --role roles/run.invoker`, or the annotation run.googleapis.com/invoker-iam-disabled: 'true'. Where that is forbidden go through `gcloud run services proxy SERVICE` and use its address",
        ),
        404 if is_google => Broken::new(
            format!("{saw}: Google's front end knows no such service"),
            "check the address (gcloud run services describe SERVICE --format 'value(status.url)'), and whether its ingress lets you in",
        ),
        429 | 500 | 503 if is_google => Broken::new(
            format!("{saw}: Cloud Run has no instance of the service to answer"),
            "look why (gcloud run services logs read SERVICE): it does not start, or --max-instances is reached",
        ),
        401 | 403 | 407 => Broken::new(
            format!("{saw}: something before the gateway wants other credentials"),
            "ask whoever runs that proxy to let these paths through, with Authorization and X-API-Key",
        ),
        413 => Broken::new(
            format!("{saw}: something before the gateway takes no larger bodies"),
            "raise its limit (nginx: client_max_body_size)",
        ),
        502..=504 => Broken::new(
            format!("{saw}: a proxy answers that does not reach the gateway"),
            "start the gateway behind it, or mend the address that the proxy sends to; its time limit must be longer than a cold start",
        ),
        _ => Broken::new(
            format!("{saw}: this is not the gateway's answer"),
            "check the address, and what stands between the gateway and here",
        ),
    }
}

/// Whether Google's front end speaks.
fn is_google(answer: &Answer, remote: &Remote) -> bool {
    let host = remote.base().host_str().unwrap_or_default();
    let page = String::from_utf8_lossy(&answer.body);
    host.ends_with(".run.app")
        || answer.header("server").contains("Google")
        || page.contains("Your client does not have permission")
        || page.contains("That’s all we know")
        || answer
            .header("www-authenticate")
            .contains("access token could not be verified")
}

/// What sort of answer it is: type and server, in brackets.
pub fn describe(answer: &Answer) -> String {
    let kind = answer.header("content-type").split(';').next();
    let server = answer.header("server");
    let parts: Vec<String> = [
        kind.unwrap_or_default().to_owned(),
        if server.is_empty() {
            String::new()
        } else {
            format!("server {server}")
        },
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}
