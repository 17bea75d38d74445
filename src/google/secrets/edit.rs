//! Changes of a secret's payload that lose nobody's change, though adding a version has no
//! compare-and-set.
//!
//! Writers agree on a lock. Who adds without it (by hand, or after it was frozen for longer than the
//! lock holds) is noticed by the number of the version: if it is not the next one, the change is made
//! again on top of what came in between.
//!
//! Does not know what a payload means, and puts no part of one into an error.

mod lock;

use std::ops::Range;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use google_cloud_secretmanager_v1::model;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::calls::{Refused, Why};
use super::{Fault, SecretVersion, Secrets};
use crate::config::SecretRef;
use lock::Lock;

/// The most that a version may hold.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
/// How long a change waits for other writers, quotas and outages before it gives up.
pub const EDIT_WAIT: Duration = Duration::from_mins(1);
/// Once a version was added, so much is left to make it right and to let go of the lock.
const FINISH_WAIT: Duration = Duration::from_secs(20);
/// How long an addition without an answer may take to show, before it is sent again.
const ARRIVAL_WAIT: Duration = Duration::from_secs(3);
/// Pauses are drawn from a range, in milliseconds, so that writers do not march in step. Two versions
/// may be added in a second.
const PAUSE_MS: Range<u64> = 250..750;
/// How often a change is made again because others write without the lock.
const MOST_REDONE: usize = 8;
const RELEASE_WAIT: Duration = Duration::from_secs(5);
const UNCHANGED: &str = "nothing was changed";

/// One change of a payload, under way.
struct Edit<'a> {
    secrets: &'a Secrets,
    /// `projects/P/secrets/S`
    path: String,
    holder: String,
    touches: u64,
    lock: Option<Lock>,
    /// The last version that is known to have been added under the lock.
    newest: u64,
    stop: &'a CancellationToken,
    give_up_at: Instant,
    /// A version was added, or may have been: what was begun is finished.
    begun: bool,
}

/// What a change starts from.
struct Base {
    number: u64,
    /// `None`: no version was ever added.
    payload: Option<Bytes>,
}

impl Secrets {
    /// Makes the secret; whether it was not there before.
    ///
    /// # Errors
    /// In words.
    pub async fn create(&self, secret: &SecretRef) -> anyhow::Result<bool> {
        let path = self.path(secret).await?;
        match self.make(&path).await {
            Ok(()) => Ok(true),
            Err(refused) if refused.why == Why::Exists => Ok(false),
            Err(refused) => Err(refused.fault.into()),
        }
    }

    /// Whether the secret is there.
    ///
    /// # Errors
    /// When that cannot be found out, in words.
    pub async fn exists(&self, secret: &SecretRef) -> anyhow::Result<bool> {
        let path = self.path(secret).await?;
        match self.get(&path).await {
            Ok(_) => Ok(true),
            Err(refused) if refused.why == Why::Missing => Ok(false),
            Err(refused) => Err(refused.fault.into()),
        }
    }

    /// Replaces the payload by what `change` makes of it (of nothing, if there is no version yet)
    /// and returns the number of the new version. `change` runs again whenever another writer came
    /// first. `stop` ends the change if nothing was added yet.
    ///
    /// # Errors
    /// In words: `change` fails, the secret is not there or its latest version is disabled, there is
    /// no permission, or others or an outage stood in the way for [`EDIT_WAIT`]. The text says so if
    /// it is not known whether the change was made.
    pub async fn edit(
        &self,
        secret: &SecretRef,
        stop: &CancellationToken,
        mut change: impl FnMut(Option<&[u8]>) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<u64> {
        let mut edit = Edit {
            secrets: self,
            path: self.path(secret).await?,
            holder: uuid::Uuid::now_v7().to_string(),
            touches: 0,
            lock: None,
            newest: 0,
            stop,
            give_up_at: Instant::now() + EDIT_WAIT,
            begun: false,
        };
        edit.take_lock().await.context(UNCHANGED)?;
        let result = edit.change(&mut change).await;
        // A key waits to be shown. A lock that stays ends by itself.
        let _late = timeout(RELEASE_WAIT, edit.release()).await;
        result
    }
}

impl Edit<'_> {
    async fn change(
        &mut self,
        change: &mut impl FnMut(Option<&[u8]>) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<u64> {
        let mut base = self.read_newest().await.context(UNCHANGED)?;
        let mut payload = Bytes::from(change(base.payload.as_deref())?);
        for _ in 0..MOST_REDONE {
            let number = self.add(&payload, base.number).await?;
            self.newest = number;
            let Some(other) = self.find_other(&base, number, &payload).await? else {
                return Ok(number);
            };
            payload = match change(Some(&other)) {
                Ok(payload) => Bytes::from(payload),
                Err(cause) => {
                    // Ours must not hide what came in between.
                    self.newest = self.add(&other, number).await.with_context(|| {
                        format!("{} lacks what another writer added just before", self.path)
                    })?;
                    return Err(cause);
                }
            };
            base = Base {
                number,
                payload: Some(other),
            };
        }
        bail!(
            "others add versions to {} all the time and without its lock; look at its last versions: one of them may lack an entry",
            self.path
        )
    }

    /// The newest version, which `latest` may not be yet. A number is always answered truly.
    async fn read_newest(&mut self) -> anyhow::Result<Base> {
        let latest = match self.version(None).await {
            Err(refused) if refused.why == Why::Missing => None,
            latest => Some(latest.map_err(|refused| refused.fault)?),
        };
        let newest = self.newest;
        let version = match latest {
            Some(version) if version.number >= newest => version,
            None if newest == 0 => {
                return Ok(Base {
                    number: 0,
                    payload: None,
                });
            }
            _ => {
                let named = self.version(Some(newest)).await;
                named.map_err(|refused| refused.fault)?
            }
        };
        Ok(Base {
            number: version.number,
            payload: Some(version.payload.expose().clone()),
        })
    }

    /// Adds a version, once: after a call without an answer it is first looked for.
    async fn add(&mut self, payload: &Bytes, base: u64) -> anyhow::Result<u64> {
        let mut is_unsure = false;
        loop {
            match self.touch_lock().await {
                Err(cause) if !self.begun => return Err(cause.context(UNCHANGED)),
                // What was begun is finished without it: the numbers tell who came between.
                _ => {}
            }
            if self.stop.is_cancelled() && !self.begun {
                bail!("{UNCHANGED}: interrupted");
            }
            let refused = match self.secrets.add(&self.path, payload.clone()).await {
                Ok(number) => {
                    self.begin();
                    return Ok(number);
                }
                Err(refused) => refused,
            };
            if refused.why == Why::Unsure {
                self.begin();
                is_unsure = true;
                if let Some(number) = self.await_arrival(payload, base).await {
                    return Ok(number);
                }
            }
            if !refused.is_passing() || self.is_over() {
                let unsure = format!(
                    "it is not known whether {} has the change: `tollgate keys list` shows it (a key whose text was not shown is replaced by `tollgate keys rotate`)",
                    self.path
                );
                let cause = anyhow::Error::new(refused.fault);
                return Err(match (is_unsure, self.begun) {
                    (true, _) => cause.context(unsure),
                    (false, false) => cause.context(UNCHANGED),
                    (false, true) => cause,
                });
            }
            self.pause(PAUSE_MS).await;
        }
    }

    /// From here on a signal stops nothing, and there is some time left.
    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.give_up_at = Instant::now() + FINISH_WAIT;
        }
    }

    /// Looks for a version with this very payload above `base`, until it is there or will hardly
    /// come any more.
    async fn await_arrival(&mut self, payload: &Bytes, base: u64) -> Option<u64> {
        let until = (Instant::now() + ARRIVAL_WAIT).min(self.give_up_at);
        let mut number = base + 1;
        loop {
            match self.secrets.version(&self.path, Some(number)).await {
                Ok(version) if version.payload.expose() == payload => return Some(number),
                Ok(_) => number += 1,
                Err(refused) if refused.why == Why::Changed => number += 1,
                Err(_) if Instant::now() >= until => return None,
                Err(_) => self.pause(PAUSE_MS).await,
            }
        }
    }

    /// The newest payload that another writer added between what we read and what we added.
    async fn find_other(
        &mut self,
        base: &Base,
        added: u64,
        payload: &Bytes,
    ) -> anyhow::Result<Option<Bytes>> {
        for number in (base.number + 1..added).rev() {
            match self.version(Some(number)).await {
                Ok(version) => {
                    let other = version.payload.expose();
                    if other != payload && Some(other) != base.payload.as_ref() {
                        return Ok(Some(other.clone()));
                    }
                }
                // Disabled or destroyed: somebody took it back.
                Err(refused) if matches!(refused.why, Why::Changed | Why::Missing) => {}
                Err(refused) => {
                    return Err(anyhow::Error::new(refused.fault).context(format!(
                        "version {added} of {} has the change, but may lack what another writer added just before as version {number}",
                        self.path
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Asked again, for as long as there is hope and time.
    async fn secret(&self) -> Result<model::Secret, Refused> {
        loop {
            match self.heed(self.secrets.get(&self.path)).await {
                Err(refused) if refused.is_passing() && !self.is_over() => {
                    self.pause(PAUSE_MS).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// As [`Edit::secret`].
    async fn version(&self, number: Option<u64>) -> Result<SecretVersion, Refused> {
        loop {
            match self.heed(self.secrets.version(&self.path, number)).await {
                Err(refused) if refused.is_passing() && !self.is_over() => {
                    self.pause(PAUSE_MS).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// A call that is given up when it is to stop.
    async fn heed<T>(&self, call: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = self.stop.cancelled(), if !self.begun => Err(Refused {
                why: Why::Final,
                fault: Fault::transient("interrupted"),
            }),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.give_up_at || (self.stop.is_cancelled() && !self.begun)
    }

    async fn pause(&self, range_ms: Range<u64>) {
        let pause = sleep(Duration::from_millis(rand::random_range(range_ms)));
        if self.begun {
            pause.await;
        } else {
            tokio::select! {
                () = pause => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}
