//! The composition root.

use crate::config::Config;

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// What keeps it from serving.
pub async fn run(_config: Config) -> anyhow::Result<()> {
    Ok(())
}
