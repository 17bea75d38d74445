//! `tollgate keys`.

/// Arguments of `keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {}

/// Runs the verb.
///
/// # Errors
/// What keeps it from doing so.
pub fn run(_args: KeysArgs) -> anyhow::Result<()> {
    Ok(())
}
