//! The keys file as something to edit: locked, checked as the gateway would, replaced in one step.
//! Does not know what a change is for, and prints nothing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::Instant;

use crate::auth::{KeySet, MAX_PAYLOAD_BYTES, Payload, Rejected};

/// How long a writer waits for the others.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it looks whether they are done.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// What a keys file holds.
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
            set: KeySet::parse(bytes, None).map_err(fault)?,
        })
    }
}

/// Reads the file; one that does not exist holds nothing.
///
/// # Errors
/// It cannot be read, or is no key set.
pub(super) fn read(path: &Path) -> anyhow::Result<Content> {
    let place = format!("the keys file {}", path.display());
    let bytes = match read_bounded(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
        bytes => bytes.with_context(|| format!("cannot read {place}"))?,
    };
    Content::parse(&bytes, &place)
}

/// Changes the file under its lock and returns what `change` returns, with the entries that the
/// gateway leaves out now as it did before. Entries that `change` does not touch stay as they are
/// written.
///
/// # Errors
/// The file cannot be read or written, `change` fails, or the gateway would leave out an entry
/// because of the change; then the file is as before.
pub(super) async fn edit<T>(
    path: &Path,
    change: impl FnOnce(&mut Content) -> anyhow::Result<T>,
) -> anyhow::Result<(T, Vec<Rejected>)> {
    let path = resolve(path)?;
    let _lock = lock(&path).await?;
    let mut content = read(&path)?;
    let result = change(&mut content)?;
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
    replace(&path, text.as_bytes())
        .with_context(|| format!("cannot write the keys file {}", path.display()))?;
    Ok((result, after.rejected))
}

/// One byte beyond the bound is read, so that the check finds the content too large.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_PAYLOAD_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file itself, so that a link to it stays a link; makes its directory.
fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(target) = fs::canonicalize(path) {
        return Ok(target);
    }
    let directory = directory_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let directory = fs::canonicalize(directory)
        .with_context(|| format!("cannot use the directory {}", directory.display()))?;
    let name = path
        .file_name()
        .with_context(|| format!("{} names no file", path.display()))?;
    Ok(directory.join(name))
}

fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Takes the lock of a file: a file of its own beside it, because the keys file is replaced. It is
/// never removed, since a writer that waits may hold the removed one; the lock ends with the handle.
async fn lock(path: &Path) -> anyhow::Result<File> {
    let place = beside(path, "lock");
    let file = private()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&place);
    let file = file.with_context(|| format!("cannot open the lock file {}", place.display()))?;
    let give_up_at = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            Err(TryLockError::WouldBlock) => bail!(
                "nothing was changed: another program has kept the lock on {} for {} seconds",
                place.display(),
                LOCK_WAIT.as_secs(),
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", place.display()));
            }
        }
    }
}

/// Puts a new content in the place of the old one: readers see the one or the other, whole. Only
/// called under the lock, so the temporary file can only be a leftover of a writer that died.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, "tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().create_new(true).write(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory_of(path))?.sync_all()
}

/// `keys.json` becomes `.keys.json.SUFFIX`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Files that only their owner may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}
