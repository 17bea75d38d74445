//! The secret that tokens are signed with, where none is configured: made once, kept in the data
//! directory.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::Secret;

const FILE_NAME: &str = "jwt-secret";
const LEAST_BYTES: usize = 32;

/// Reads the secret, or makes it. Processes that start together end up with the same one.
///
/// # Errors
/// When the file cannot be read or made, or holds too little.
pub fn read_or_make(directory: &Path) -> anyhow::Result<Secret<String>> {
    let path = directory.join(FILE_NAME);
    let read = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(directory, &path).with_context(|| format!("cannot make {}", path.display()))?;
            fs::read_to_string(&path)
        }
        read => read,
    };
    let text = read.with_context(|| format!("cannot read {}", path.display()))?;
    let text = text.trim();
    ensure!(
        text.len() >= LEAST_BYTES,
        "{} holds less than {LEAST_BYTES} bytes; remove it to have a new one made, which ends all sessions",
        path.display()
    );
    Ok(Secret::new(text.to_owned()))
}

/// Puts a whole file in place, unless somebody was faster.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut secret = [0_u8; 32];
    rand::fill(&mut secret);
    let draft = directory.join(format!(".{FILE_NAME}.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let linked = file
        .write_all(URL_SAFE_NO_PAD.encode(secret).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn many_that_start_together_agree_and_leave_nothing_else_behind() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        let secrets: HashSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| read_or_make(&directory).unwrap().expose().clone()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(secrets.len(), 1);
        assert!(secrets.iter().all(|secret| secret.len() == 43));
        let files: Vec<_> = fs::read_dir(&directory).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let mode = files[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_with_too_little_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "short\n").unwrap();
        let error = read_or_make(folder.path()).unwrap_err().to_string();
        assert!(error.contains("less than 32 bytes") && !error.contains("short"));
    }
}
