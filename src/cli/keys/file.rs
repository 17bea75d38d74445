//! The keys file as something to edit: read within bounds, locked, replaced in one step. Does not
//! know what it holds, and prints nothing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use super::place::EMPTY;
use crate::auth::MAX_PAYLOAD_BYTES;

/// How long a writer waits for the others.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it looks whether they are done.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Reads the file; one that does not exist holds nothing.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    match read_bounded(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(EMPTY.to_vec()),
        bytes => bytes.with_context(|| format!("cannot read {}", describe(path))),
    }
}

/// Replaces the content, under its lock, by what `change` makes of it.
///
/// # Errors
/// The file cannot be read or written, or `change` fails; then the file is as before.
pub(super) async fn edit(
    path: &Path,
    change: impl FnOnce(&[u8]) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<()> {
    let path = resolve(path)?;
    let _lock = lock(&path).await?;
    let content = change(&read(&path)?)?;
    replace(&path, &content).with_context(|| format!("cannot write {}", describe(&path)))
}

pub(super) fn describe(path: &Path) -> String {
    format!("the keys file {}", path.display())
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
