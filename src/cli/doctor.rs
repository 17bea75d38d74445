//! `tollgate doctor`: walks to a gateway and through it, hop by hop, as a real client does, and says
//! which hop is broken and what mends it. Knows the order of the hops; each has a module.

mod address;
mod chat;
mod key;
mod models;
mod report;
mod stream;
mod tool_call;

use std::time::Duration;

use super::remote::{self, Remote};
use crate::secret::Secret;
use report::{Broken, Passed, Report};

const NOTES: &str = "\
The hops: address (name, connection, TLS, Tollgate, ready), key, models, chat, stream, tool_call.
What comes after a broken one is skipped. At the most five tiny calls reach the model; they cost
the key some two hundred tokens, and wake a model server that sleeps.

Examples:
  TOLLGATE_API_KEY=sk-... tollgate doctor http://127.0.0.1:8000
  pass show tollgate | tollgate doctor https://tollgate-abc.run.app --key -
  tollgate doctor http://127.0.0.1:8000 --model opencode-llm --json | jq .failed

Exit codes: 0 every hop passed, 1 one did not, 64 wrong arguments.";

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct DoctorArgs {
    /// Where clients reach the gateway, with or without /v1
    url: String,
    /// The API key; - reads it from standard input, so that no process list shows it. By default
    /// `TOLLGATE_API_KEY`, or the file that `TOLLGATE_API_KEY_FILE` names; else a terminal is asked
    #[arg(long, value_name = "K", allow_hyphen_values = true, value_parser = as_secret)]
    key: Option<Secret<String>>,
    /// The model to call; by default the first of the list
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Seconds that the first chat may wait for a model server that starts
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
}

/// What a hop finds; `T` is for the hops after it.
type Outcome<T> = Result<Passed<T>, Broken>;

/// Walks, and prints each hop as it is done.
///
/// # Errors
/// A hop is broken; or a `clap::Error` for arguments that cannot be meant.
pub async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let base = remote::parse_base(&args.url)
        .map_err(|wrong| super::refuse(&format!("the URL {wrong}")))?;
    let key = key::find(args.key.clone())?;
    let mut remote = Remote::new(base, key)?;
    let mut report = Report::new(args.json);
    walk(&mut remote, &args, &mut report).await?;
    report.finish(&remote)
}

fn as_secret(text: &str) -> Result<Secret<String>, &'static str> {
    if text.trim().is_empty() {
        return Err("it is empty; is the variable set that it comes from?");
    }
    Ok(Secret::new(text.trim().to_owned()))
}

/// Ends at the first broken hop.
async fn walk(remote: &mut Remote, args: &DoctorArgs, report: &mut Report) -> anyhow::Result<()> {
    let wait = Duration::from_secs(args.wait);
    let outcome = address::check(remote, wait).await;
    let Some(guard) = report.note(remote, outcome)? else {
        return Ok(());
    };
    let outcome = key::check(remote, guard).await;
    let Some(()) = report.note(remote, outcome)? else {
        return Ok(());
    };
    let outcome = models::check(remote, args.model.as_deref()).await;
    let Some(model) = report.note(remote, outcome)? else {
        return Ok(());
    };
    report.name_model(&model);
    let outcome = chat::check(remote, &model, wait).await;
    let Some(()) = report.note(remote, outcome)? else {
        return Ok(());
    };
    let outcome = stream::check(remote, &model).await;
    let Some(()) = report.note(remote, outcome)? else {
        return Ok(());
    };
    let outcome = tool_call::check(remote, &model).await;
    report.note(remote, outcome)?;
    Ok(())
}
