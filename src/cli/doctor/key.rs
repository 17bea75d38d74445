//! The second hop: the key is there, reaches the gateway, and is known to it.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::time::Duration;

use anyhow::Context as _;

use super::Outcome;
use super::address::Guard;
use super::report::{Broken, Passed};
use crate::cli::remote::remedy::{error_of, explain, unanswered};
use crate::cli::remote::{Answer, Remote};
use crate::config::client_key;
use crate::secret::Secret;

/// A new key may wait for one fetch of the key set.
const LIMIT: Duration = Duration::from_secs(30);
/// More than any key has.
const MOST_BYTES: u64 = 8192;

/// The key that is meant: the flag's, the environment's, or what a person types.
///
/// # Errors
/// Standard input, or the file of `TOLLGATE_API_KEY_FILE`, cannot be read.
pub fn find(flag: Option<Secret<String>>) -> anyhow::Result<Option<Secret<String>>> {
    let found = match flag {
        Some(flag) if flag.expose() == "-" => Some(read()?),
        Some(flag) => Some(flag),
        None => match client_key()? {
            Some(key) => Some(key),
            None if io::stdin().is_terminal() && io::stderr().is_terminal() => Some(ask()?),
            None => None,
        },
    };
    Ok(found.filter(|key| !key.expose().is_empty()))
}

/// The first line of standard input, or what is typed in its place.
fn read() -> anyhow::Result<Secret<String>> {
    if io::stdin().is_terminal() {
        return ask();
    }
    let mut line = String::new();
    let mut input = io::BufReader::new(io::stdin().take(MOST_BYTES));
    input
        .read_line(&mut line)
        .context("cannot read the key from standard input")?;
    Ok(Secret::new(line.trim().to_owned()))
}

fn ask() -> anyhow::Result<Secret<String>> {
    let typed = rpassword::prompt_password("API key: ").context("cannot ask for the key")?;
    Ok(Secret::new(typed.trim().to_owned()))
}

/// Shows the key to the gateway.
pub async fn check(remote: &mut Remote, guard: Guard) -> Outcome<()> {
    let answer = whose(remote).await?;
    if let (Some(guard), false) = (guard, answer.is_success()) {
        return Err(guard);
    }
    if !remote.has_key() {
        return Err(Broken::new(
            "no key was given",
            "set TOLLGATE_API_KEY, or --key - to type it; `tollgate keys add NAME` makes one (--file, or --project and --secret: the gateway's own set)",
        ));
    }
    if answer.is_success() {
        return Ok(Passed::new(describe(&answer)));
    }
    if answer.status == 401 {
        // Something on the way may use Authorization for itself, as `gcloud run services proxy` does.
        remote.use_x_api_key();
        let second = whose(remote).await?;
        if second.is_success() {
            return Ok(Passed::new(describe(&second)).warn(
                "the key arrives as X-API-Key and not as Authorization: Bearer, which something on the way takes for itself; give it to clients as X-API-Key (`tollgate opencode-config --x-api-key`)",
            ));
        }
        remote.use_bearer();
    }
    Err(explain(&answer, remote))
}

/// Who the gateway takes the caller for. A gateway without accounts, or whose database is down, shows
/// by its list of models that the key is good: a wrong one gets none.
async fn whose(remote: &Remote) -> Result<Answer, Broken> {
    let ask = async |path| {
        let answer = remote.get(path, LIMIT).await;
        answer.map_err(|trouble| unanswered(&trouble, remote))
    };
    let answer = ask("/users/me").await?;
    let is_ours = error_of(&answer.json()).is_some();
    if is_ours && (answer.status == 404 || answer.status >= 500) {
        return ask("/v1/models").await;
    }
    Ok(answer)
}

fn describe(answer: &Answer) -> String {
    let body = answer.json();
    let Some(name) = body["username"].as_str() else {
        return "the gateway takes it".to_owned();
    };
    let who = if body["id"].is_null() { "key" } else { "user" };
    let used = body["tokens_used"].as_u64().unwrap_or(0);
    match body["token_limit"].as_u64() {
        Some(limit) => format!("{who} {name}, {used} of {limit} tokens used"),
        None => format!("{who} {name}, no token limit"),
    }
}
