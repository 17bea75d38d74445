//! Where keys live, as something to edit: a change is made on the entries as they are written, and
//! checked as the gateway would. Does not know what a change is for.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};

use super::file;
use super::secret::KeySecret;
use crate::auth::{KeySet, Payload, Rejected};

/// The payload of a key set without keys.
pub(super) const EMPTY: &[u8] = b"{}";

/// A place that holds a key set.
pub(super) enum Place {
    File(PathBuf),
    Secret(KeySecret),
}

/// What a place holds.
pub(super) struct Content {
    /// The entries as written.
    pub payload: Payload,
    /// The entries as the gateway takes them.
    pub set: KeySet,
}

impl Content {
    fn parse(bytes: &[u8], place: &str) -> anyhow::Result<Self> {
        let fault = |fault| anyhow!("{place} {fault}");
        Ok(Self {
            payload: Payload::parse(bytes).map_err(fault)?,
            // Which database the gateways have that read it is not known here.
            set: KeySet::parse(bytes, None, true).map_err(fault)?,
        })
    }
}

impl Place {
    /// Reads the key set.
    ///
    /// # Errors
    /// It cannot be read, or is no key set.
    pub async fn read(&self) -> anyhow::Result<KeySet> {
        let bytes = match self {
            Self::File(path) => file::read(path)?,
            Self::Secret(secret) => secret.read().await?,
        };
        Ok(Content::parse(&bytes, &self.to_string())?.set)
    }

    /// Changes the key set and returns the entries that the gateway leaves out now as it did before.
    /// Entries that `change` does not touch stay as they are written. `change` may run several times,
    /// each time on what another writer left.
    ///
    /// # Errors
    /// The place cannot be read or written, `change` fails, or the gateway would leave out an entry
    /// because of the change; then all is as before, unless the text says that this is not known.
    pub async fn edit(
        &self,
        notes: &mut impl Write,
        mut change: impl FnMut(&mut Content) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Rejected>> {
        let name = self.to_string();
        let mut left_out = Vec::new();
        let changed = |bytes: &[u8]| {
            let (bytes, rejected) = changed(bytes, &name, &mut change)?;
            left_out = rejected;
            Ok(bytes)
        };
        match self {
            Self::File(path) => file::edit(path, changed).await?,
            Self::Secret(secret) => secret.edit(notes, changed).await?,
        }
        Ok(left_out)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&file::describe(path)),
            Self::Secret(secret) => write!(f, "{secret}"),
        }
    }
}

/// The payload after a change, and what the gateway leaves out of it.
fn changed(
    bytes: &[u8],
    place: &str,
    change: &mut impl FnMut(&mut Content) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<u8>, Vec<Rejected>)> {
    let mut content = Content::parse(bytes, place)?;
    change(&mut content)?;
    let text = content.payload.to_text();
    let after = Content::parse(text.as_bytes(), "nothing was changed: the new key set")?.set;
    // No change mends one entry and spoils another, so the count tells.
    if after.rejected.len() > content.set.rejected.len() {
        let is_new = |fault: &&Rejected| !content.set.rejected.contains(fault);
        let words = after
            .rejected
            .iter()
            .find(is_new)
            .map(|fault| format!(" ({}: {})", fault.name, fault.reason));
        bail!(
            "nothing was changed: the gateway would not take the new key set whole{}",
            words.unwrap_or_default()
        );
    }
    Ok((text.into_bytes(), after.rejected))
}
