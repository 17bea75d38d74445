//! The lock of a secret: an annotation, set and removed under the secret's etag. A lock that nobody has
//! touched for [`LEASE`] by the waiting writer's own clock is broken, so that no two clocks are ever
//! compared; a live holder touches it while it works. Does not know what it protects.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::bail;
use google_cloud_secretmanager_v1::model;
use tokio::time::{Duration, Instant};

use super::super::calls::{Refused, Why};
use super::{EDIT_WAIT, Edit};

/// How long a lock holds that nobody touches. Longer than a touch and a call take together.
const LEASE: Duration = Duration::from_secs(15);
/// A lock older than this is touched before a version is added.
const TOUCH_AFTER: Duration = Duration::from_secs(5);
/// How often a writer looks whether the lock is free. All writers of a project together may read ten
/// times in a second.
const WAIT_MS: Range<u64> = 500..1500;
const RELEASE_TRIES: usize = 3;

/// The annotation that is the lock: who holds it and how often it was touched.
const LOCK: &str = "tollgate-lock";
/// The annotation with the number of the last version that was added under the lock.
const NEWEST: &str = "tollgate-newest-version";

/// The lock as we wrote it last.
pub(super) struct Lock {
    etag: String,
    annotations: HashMap<String, String>,
    touched_at: Instant,
}

impl Edit<'_> {
    pub(super) async fn take_lock(&mut self) -> anyhow::Result<()> {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            let secret = self.secret().await.map_err(|refused| refused.fault)?;
            let holder = secret.annotations.get(LOCK).cloned();
            let is_free = match (&holder, &seen) {
                (None, _) => true,
                // An answer to us was lost.
                (Some(held), _) if held.starts_with(&self.holder) => true,
                (Some(held), Some((before, since))) if held == before => since.elapsed() >= LEASE,
                (Some(held), _) => {
                    seen = Some((held.clone(), Instant::now()));
                    false
                }
            };
            if is_free {
                match self.write_lock(secret.etag, secret.annotations).await {
                    Ok(()) => return Ok(()),
                    Err(refused) if refused.is_passing() || refused.why == Why::Changed => {}
                    Err(refused) => return Err(refused.fault.into()),
                }
            }
            if self.stop.is_cancelled() {
                bail!("interrupted");
            }
            if Instant::now() >= self.give_up_at {
                bail!(
                    "other writers have kept {} for {} seconds",
                    self.path,
                    EDIT_WAIT.as_secs()
                );
            }
            self.pause(WAIT_MS).await;
        }
    }

    /// Makes the lock ours, or touches it.
    async fn write_lock(
        &mut self,
        etag: String,
        mut annotations: HashMap<String, String>,
    ) -> Result<(), Refused> {
        self.touches += 1;
        let value = format!("{}/{}", self.holder, self.touches);
        annotations.insert(LOCK.to_owned(), value);
        let touched_at = Instant::now();
        let secret = self
            .secrets
            .annotate(&self.path, &etag, annotations)
            .await?;
        let newest = secret.annotations.get(NEWEST);
        let newest = newest.and_then(|number| number.parse().ok());
        self.newest = self.newest.max(newest.unwrap_or_default());
        self.lock = Some(Lock {
            etag: secret.etag,
            annotations: secret.annotations,
            touched_at,
        });
        Ok(())
    }

    /// Makes sure that the lock outlives the next call.
    ///
    /// # Errors
    /// It is not ours any more, or that cannot be found out.
    pub(super) async fn touch_lock(&mut self) -> anyhow::Result<()> {
        let is_fresh = |lock: &Lock| lock.touched_at.elapsed() < TOUCH_AFTER;
        while let Some(lock) = self.lock.take_if(|lock| !is_fresh(lock)) {
            match self
                .write_lock(lock.etag.clone(), lock.annotations.clone())
                .await
            {
                Ok(()) => return Ok(()),
                Err(refused) if refused.why == Why::Final => return Err(refused.fault.into()),
                Err(_) => {}
            }
            let secret = self.secret().await.map_err(|refused| refused.fault)?;
            self.lock = self.own(secret, lock.touched_at);
            if self.is_over() {
                break;
            }
        }
        if self.lock.is_none() {
            bail!(
                "another writer has broken the lock of {}, because this one was held up; do it again",
                self.path
            );
        }
        Ok(())
    }

    /// The lock, if the secret says that it is still ours.
    fn own(&self, secret: model::Secret, touched_at: Instant) -> Option<Lock> {
        let held = secret.annotations.get(LOCK)?;
        held.starts_with(&self.holder).then_some(Lock {
            etag: secret.etag,
            annotations: secret.annotations,
            touched_at,
        })
    }

    /// Lets go of the lock. If that fails it ends by itself.
    pub(super) async fn release(&mut self) {
        for _ in 0..RELEASE_TRIES {
            let Some(mut lock) = self.lock.take() else {
                return;
            };
            lock.annotations.remove(LOCK);
            if self.newest > 0 {
                lock.annotations
                    .insert(NEWEST.to_owned(), self.newest.to_string());
            }
            let released = self
                .secrets
                .annotate(&self.path, &lock.etag, lock.annotations);
            if released.await.is_ok() {
                return;
            }
            // Somebody else may have changed the secret, or the answer was lost.
            if let Ok(secret) = self.secrets.get(&self.path).await {
                self.lock = self.own(secret, lock.touched_at);
            }
        }
    }
}
