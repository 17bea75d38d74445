//! `tollgate opencode-config`: a configuration of OpenCode for a gateway, from its list of models; or what
//! the form of Openwork asks for. Knows how these clients read their limits, and never prints a key.

use std::io::Write as _;

use anyhow::anyhow;
use serde_json::{Map, Value, json};

use super::refuse;
use super::remote::models::{self, Model};
use super::remote::remedy::Broken;
use super::remote::{Remote, parse_base};
use crate::config::{CLIENT_KEY, client_key, local_url};

/// An id that begins with `opencode` or `openai` would be treated in ways of its own.
const PROVIDER: &str = "tollgate";
/// OpenCode asks for no more than this, whatever the limit says.
const MOST_OUTPUT: u64 = 32_000;
/// Share of the context that is left to the answer: what OpenCode keeps free when it compacts.
const OUTPUT_SHARE: u64 = 4;

const NOTES: &str = "\
The key is not in it: OpenCode takes it from TOLLGATE_API_KEY when it runs. The list of models is
asked with that key, too, if it is set (where PUBLIC_MODELS is false it must be).

Examples:
  tollgate opencode-config > opencode.json
  tollgate opencode-config --url https://tollgate-abc.run.app > opencode.json
  tollgate opencode-config --openwork

Exit codes: 0 fine, 1 there is no model to name (standard error says what to do), 64 wrong use.";

/// Arguments of `opencode-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct OpencodeConfigArgs {
    /// Where clients reach the gateway, with or without /v1; by default the one that HOST and PORT make
    #[arg(long)]
    url: Option<String>,
    /// Send the key as X-API-Key, for where something on the way takes Authorization for itself, as
    /// `gcloud run services proxy` does
    #[arg(long)]
    x_api_key: bool,
    /// Print what Openwork's form for a custom provider asks for
    #[arg(long)]
    openwork: bool,
}

/// Asks the gateway and prints.
///
/// # Errors
/// There is no list, or nothing on it; a `clap::Error` for a URL that is none.
pub async fn run(args: OpencodeConfigArgs) -> anyhow::Result<()> {
    let url = match args.url {
        Some(url) => url,
        None => local_url()?
            .ok_or_else(|| refuse("with PORT=0 the system chooses the port: name it with --url"))?,
    };
    let base = parse_base(&url).map_err(|wrong| refuse(&format!("the URL {wrong}")))?;
    let mut remote = Remote::new(base, client_key()?)?;
    if args.x_api_key {
        remote.use_x_api_key();
    }
    let models = models::list(&remote).await;
    let models = models.map_err(|broken| failure(&remote, &broken))?;
    if models.is_empty() {
        return Err(failure(&remote, &models::none()));
    }
    warn(&models, &remote);
    let text = if args.openwork {
        openwork(&remote, &models)
    } else {
        serde_json::to_string_pretty(&opencode(&remote, &models, args.x_api_key))? + "\n"
    };
    super::print(&text)
}

fn failure(remote: &Remote, broken: &Broken) -> anyhow::Error {
    anyhow!(
        "no configuration for {}: {}\ndo: {}",
        remote.shown_base(),
        remote.clean(&broken.saw),
        broken.todo
    )
}

/// Says what the configuration lacks.
fn warn(models: &[Model], remote: &Remote) {
    let without: Vec<&str> = models
        .iter()
        .filter(|model| model.context.is_none())
        .map(|model| model.id.as_str())
        .collect();
    if without.is_empty() {
        return;
    }
    // A closed terminal leaves nobody to tell.
    let _unread = writeln!(
        std::io::stderr(),
        "warning: the context length of {} is not known, so there is no `limit`: OpenCode will not know when to shorten a long conversation.\n\
         do: wake the model server (`tollgate doctor {}`) and run this again; for a server that does not tell its context write `limit` by hand",
        remote.clean(&without.join(", ")),
        remote.shown_base()
    );
}

fn opencode(remote: &Remote, models: &[Model], in_x_api_key: bool) -> Value {
    let key = format!("{{env:{CLIENT_KEY}}}");
    let mut options = json!({"baseURL": format!("{}/v1", remote.shown_base())});
    if in_x_api_key {
        options["headers"] = json!({"X-API-Key": key});
    } else {
        options["apiKey"] = json!(key);
    }
    let entries: Map<String, Value> = models
        .iter()
        .map(|model| (model.id.clone(), entry(model)))
        .collect();
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": "Tollgate",
        "options": options,
        "models": entries,
    });
    let mut config = json!({
        "$schema": "https://opencode.ai/config.json",
        "provider": {PROVIDER: provider},
    });
    if let Some(first) = models.first() {
        config["model"] = json!(format!("{PROVIDER}/{}", first.id));
    }
    config
}

fn entry(model: &Model) -> Value {
    let name = match &model.root {
        Some(root) => format!("{} ({root})", model.id),
        None => model.id.clone(),
    };
    let mut entry = json!({"name": name});
    if let Some(context) = model.context {
        let output = (context / OUTPUT_SHARE).clamp(1, MOST_OUTPUT);
        entry["limit"] = json!({"context": context, "output": output});
    }
    entry
}

/// The fields of the form, one a line; the model's id is typed after it connects.
fn openwork(remote: &Remote, models: &[Model]) -> String {
    let mut lines = vec![
        "Provider Name: Tollgate".to_owned(),
        format!("Server URL: {}/v1", remote.shown_base()),
        format!("API Key: the value of {CLIENT_KEY} (`tollgate keys add NAME` makes one)"),
    ];
    lines.extend(
        models
            .iter()
            .map(|model| format!("Model ID: {}", remote.clean(&model.id))),
    );
    lines.join("\n") + "\n"
}
