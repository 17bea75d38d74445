//! `tollgate usage`.

/// Arguments of `usage`.
#[derive(Debug, clap::Args)]
pub struct UsageArgs {}

/// Runs the verb.
///
/// # Errors
/// What keeps it from doing so.
pub async fn run(_args: UsageArgs) -> anyhow::Result<()> {
    Ok(())
}
