//! `tollgate usage`.

use std::path::PathBuf;

/// Arguments of `usage`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// What keeps it from doing so.
pub async fn run(_args: Args, _database: PathBuf) -> anyhow::Result<()> {
    Ok(())
}
