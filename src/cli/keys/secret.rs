//! The secret in Secret Manager as something to edit: its size, its waits, its messages. Does not
//! know what it holds.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use super::place::EMPTY;
use crate::config::{GoogleConfig, SecretRef};
use crate::google::{EDIT_WAIT, Fault, Google, MAX_SECRET_BYTES, Secrets};

/// From this size on it is said how much room is left.
const NEARLY_FULL_BYTES: usize = 56 << 10;
/// A wait longer than this is told of.
const SILENT_WAIT: Duration = Duration::from_secs(2);

/// A secret that holds a key set.
pub(super) struct KeySecret {
    secret: SecretRef,
    secrets: Secrets,
    /// It is made if it is not there.
    may_create: bool,
}

impl KeySecret {
    /// The secret in its own project, else in that of the configuration or of this machine.
    ///
    /// # Errors
    /// When the project is not known.
    pub async fn open(
        mut secret: SecretRef,
        config: &GoogleConfig,
        may_create: bool,
    ) -> anyhow::Result<Self> {
        let google = Arc::new(Google::new(config));
        if secret.project.is_none() {
            let project = google.project().await;
            let project = project.context("--project is not given")?;
            secret.project = Some(project.to_owned());
        }
        Ok(Self {
            secret,
            secrets: Secrets::new(google),
            may_create,
        })
    }

    /// Reads the payload.
    pub async fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self.secrets.access(&self.secret).await {
            Ok(version) => Ok(version.payload.expose().to_vec()),
            Err(fault) => Err(self.explain(fault.into()).await),
        }
    }

    /// Replaces the payload by what `change` makes of it, without losing what others write.
    pub async fn edit(
        &self,
        notes: &mut impl Write,
        mut change: impl FnMut(&[u8]) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<()> {
        if let Some(version) = self.secret.version {
            bail!(
                "nothing was changed: the gateway reads version {version} and no other, so a change would not reach it; name the secret with --secret to add a version all the same"
            );
        }
        if self.may_create
            && !self.secrets.exists(&self.secret).await?
            && self.secrets.create(&self.secret).await?
        {
            tell(
                notes,
                &format!(
                    "{self} was made; grant roles/secretmanager.secretAccessor on it to the account that the gateway runs as"
                ),
            );
        }
        let mut size_bytes = 0;
        let changed = |payload: Option<&[u8]>| {
            let payload = change(payload.unwrap_or(EMPTY))?;
            size_bytes = payload.len();
            if size_bytes > MAX_SECRET_BYTES {
                bail!(
                    "nothing was changed: the new key set has {size_bytes} bytes, and a secret holds at most {MAX_SECRET_BYTES}; revoke keys that are not used any more"
                );
            }
            Ok(payload)
        };
        let stop = CancellationToken::new();
        let edit = self.secrets.edit(&self.secret, &stop, changed);
        if let Err(cause) = self.attend(edit, &stop, notes).await {
            return Err(self.explain(cause).await);
        }
        if size_bytes >= NEARLY_FULL_BYTES {
            tell(
                notes,
                &format!(
                    "warning: the key set has {size_bytes} bytes, and a secret holds at most {MAX_SECRET_BYTES}: revoke keys that are not used any more before it is full"
                ),
            );
        }
        Ok(())
    }

    /// Waits for a change; says so if that takes long, and passes a signal to end on: who is killed
    /// leaves a lock behind.
    async fn attend(
        &self,
        edit: impl Future<Output = anyhow::Result<u64>>,
        stop: &CancellationToken,
        notes: &mut impl Write,
    ) -> anyhow::Result<u64> {
        let mut signals = Box::pin(crate::app::signals()?);
        let mut edit = Box::pin(edit);
        let mut silence = Box::pin(sleep(SILENT_WAIT));
        let mut is_told = false;
        loop {
            tokio::select! {
                result = &mut edit => return result,
                () = &mut silence, if !is_told => {
                    is_told = true;
                    let wait = EDIT_WAIT.as_secs();
                    tell(notes, &format!("waiting for Secret Manager or other writers of {self}, for at most {wait} seconds"));
                }
                () = &mut signals, if !stop.is_cancelled() => stop.cancel(),
            }
        }
    }

    /// If the secret is not there, that is the fault, and there is a way to make it.
    async fn explain(&self, cause: anyhow::Error) -> anyhow::Error {
        let is_permanent = cause
            .downcast_ref::<Fault>()
            .is_some_and(|fault| fault.permanent);
        if is_permanent && matches!(self.secrets.exists(&self.secret).await, Ok(false)) {
            return anyhow!(
                "{self} does not exist; `tollgate keys add NAME --create` with the same flags makes it"
            );
        }
        cause
    }
}

/// A note that nobody can read any more must not end what is under way: a key would be lost.
fn tell(notes: &mut impl Write, note: &str) {
    let _unread = writeln!(notes, "{note}");
}

impl fmt::Display for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret {}", self.secret)
    }
}
