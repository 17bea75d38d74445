//! Where key sets come from. Reads bytes; does not know what they mean, and logs nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use super::payload::MAX_PAYLOAD_BYTES;
use crate::config::SecretRef;
use crate::google::{Fault, Secrets};

/// A place that holds the payload of a key set.
pub(super) enum Source {
    File(KeyFile),
    Secret(KeySecret),
    #[cfg(test)]
    Script(std::sync::Arc<script::Script>),
}

/// The keys file.
pub(super) struct KeyFile {
    pub path: PathBuf,
    /// The user named it, so it must exist.
    pub explicit: bool,
    /// It was there once: then its absence is a fault and no empty set.
    seen: AtomicBool,
}

/// The secret in Secret Manager.
pub(super) struct KeySecret {
    secret: SecretRef,
    secrets: Secrets,
}

/// What a source answered.
pub(super) struct Fetched {
    pub content: Bytes,
    /// Of the secret's version; a file has none.
    pub number: Option<u64>,
    /// The file is not there and need not be.
    pub missing: bool,
}

impl Source {
    pub fn file(path: PathBuf, explicit: bool) -> Self {
        Self::File(KeyFile {
            path,
            explicit,
            seen: AtomicBool::new(false),
        })
    }

    pub fn secret(secret: SecretRef, secrets: Secrets) -> Self {
        Self::Secret(KeySecret { secret, secrets })
    }

    /// Reads the payload as it is now.
    pub async fn fetch(&self) -> Result<Fetched, Fault> {
        match self {
            Self::File(file) => file.fetch().await,
            Self::Secret(secret) => secret.fetch().await,
            #[cfg(test)]
            Self::Script(script) => script.fetch().await,
        }
    }

    /// The place in words, for logs and administrators.
    pub fn describe(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Secret(secret) => format!("the secret {}", secret.secret),
            #[cfg(test)]
            Self::Script(_) => "script".to_owned(),
        }
    }
}

impl KeySecret {
    async fn fetch(&self) -> Result<Fetched, Fault> {
        let version = self.secrets.access(&self.secret).await?;
        Ok(Fetched {
            content: version.payload.expose().clone(),
            number: Some(version.number),
            missing: false,
        })
    }
}

impl KeyFile {
    async fn fetch(&self) -> Result<Fetched, Fault> {
        match read_bounded(&self.path).await {
            Ok(content) => {
                self.seen.store(true, Ordering::Relaxed);
                Ok(Fetched {
                    content: content.into(),
                    number: None,
                    missing: false,
                })
            }
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && !self.explicit
                    && !self.seen.load(Ordering::Relaxed) =>
            {
                Ok(Fetched {
                    content: Bytes::from_static(b"{}"),
                    number: None,
                    missing: true,
                })
            }
            Err(error) => Err(Fault {
                permanent: matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::PermissionDenied
                        | ErrorKind::IsADirectory
                        | ErrorKind::NotADirectory
                ),
                text: format!(
                    "the keys file {} cannot be read: {error}",
                    self.path.display()
                ),
            }),
        }
    }
}

/// One byte beyond the bound is read, so that the payload's own check finds it too large.
async fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = tokio::fs::File::open(path).await?;
    let mut content = Vec::new();
    file.take(MAX_PAYLOAD_BYTES as u64 + 1)
        .read_to_end(&mut content)
        .await?;
    Ok(content)
}

#[cfg(test)]
pub(super) mod script {
    //! A source that tests steer: what it answers and how long it takes.

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{Fault, Fetched};

    pub struct Script {
        answer: Mutex<(Duration, Result<String, String>)>,
        /// The version that answers carry.
        number: Mutex<Option<u64>>,
        fetches: AtomicUsize,
    }

    impl Script {
        pub fn new(content: &str) -> Self {
            Self {
                answer: Mutex::new((Duration::ZERO, Ok(content.to_owned()))),
                number: Mutex::default(),
                fetches: AtomicUsize::new(0),
            }
        }

        /// Fetches that begin from now on end after `delay` with this content.
        pub fn answer(&self, delay: Duration, content: &str) {
            *self.answer.lock().unwrap() = (delay, Ok(content.to_owned()));
        }

        /// Fetches that begin from now on bring this version.
        pub fn answer_version(&self, number: u64, content: &str) {
            *self.number.lock().unwrap() = Some(number);
            self.answer(Duration::ZERO, content);
        }

        /// Fetches that begin from now on fail after `delay`.
        pub fn fail(&self, delay: Duration) {
            *self.answer.lock().unwrap() = (delay, Err("scripted fault".to_owned()));
        }

        /// How many fetches have begun.
        pub fn fetches(&self) -> usize {
            self.fetches.load(Ordering::SeqCst)
        }

        pub async fn fetch(&self) -> Result<Fetched, Fault> {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            let (delay, answer) = self.answer.lock().unwrap().clone();
            let number = *self.number.lock().unwrap();
            tokio::time::sleep(delay).await;
            match answer {
                Ok(content) => Ok(Fetched {
                    content: content.into(),
                    number,
                    missing: false,
                }),
                Err(text) => Err(Fault::transient(text)),
            }
        }
    }
}
