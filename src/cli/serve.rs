//! `tollgate serve`: configuration, log, gateway.

use super::flags::Flags;
use crate::app;
use crate::config::Config;
use crate::telemetry::log;

const NOTES: &str = "\
Secrets have no flag: set VLLM_API_KEY, or VLLM_API_KEY_FILE with the name of a file (so too
DATABASE_URL and JWT_SECRET_KEY). Flags win over the environment, and that over ./.env, which is
not read on Cloud Run. `tollgate check` prints what is in effect.

Exit codes: 0 after a drain, 1 failed while running, 64 wrong flags or configuration.";

/// Arguments of `serve`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = NOTES)]
pub struct ServeArgs {
    #[command(flatten)]
    flags: Flags,
}

/// Serves until SIGTERM.
///
/// # Errors
/// A [`crate::config::ConfigError`], or what ended the gateway.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = Config::load(args.flags.0)?;
    log::init(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    app::run(config).await
}
