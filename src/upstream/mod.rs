//! The model servers: which one takes a call, what it is sent, and what its answer means. Knows
//! nothing of who calls.

mod access;
mod affinity;
mod alive;
mod balance;
mod bound;
mod catalogue;
mod chat;
mod client;
mod counters;
mod endpoint;
mod estimate;
mod failure;
mod fit;
mod forward;
mod group;
mod headers;
mod json;
mod length;
mod models;
mod object;
mod options;
mod progress;
mod reason;
mod request;
mod routing;
mod send;
mod sse;
mod state;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod trip;
mod unserved;
mod verdict;

pub use affinity::Affinity;
pub use bound::{Bound, DECISIVE};
pub use catalogue::Catalogue;
pub use client::Client;
pub use counters::{Comparison, Meter};
pub use endpoint::Endpoint;
pub use failure::Refusal;
pub use headers::{clean_incoming, outgoing};
pub use json::Capture;
pub use models::{Knowledge, ModelCard, unknown_model};
pub use object::Object;
pub use progress::{Passage, Progress};
pub use request::{Payload, Request};
pub use send::{Answer, Exchange};
pub use sse::{EVENT_BYTES, Splitter};
pub use state::State;
pub use stream::{Api, Stream};
pub use target::{Busy, Target, Wake};
pub use tokens::Tokens;
pub use verdict::{Asked, End};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reqwest::Url;
use tokio::sync::{Notify, Semaphore};

use access::{Access, ApiKey};
use balance::Balance;
use client::read_bounded;
use group::Group;
use target::Setup;

use crate::config::{Limits, UpstreamConfig, UpstreamsConfig};
use crate::google::{Fault, Google};

/// Calls that may wait for a target at once; each holds its body meanwhile.
const ROOM: usize = 1000;

/// All model servers of this gateway.
pub struct Upstreams {
    groups: Vec<Group>,
    targets: Vec<Arc<Target>>,
    balance: Balance,
    /// Of all groups.
    aliases: BTreeMap<String, String>,
    limits: Limits,
    /// Where calls wait for a target.
    room: Arc<Semaphore>,
    /// Told when calls that wait should look again.
    changed: Arc<Notify>,
    on_cloud_run: bool,
}

/// Whether a private target can be shown who the gateway is.
pub struct Proof {
    /// The target's origin.
    pub audience: String,
    /// Whose token it is; `None` where none is sent.
    pub outcome: Result<Option<String>, Fault>,
}

impl Upstreams {
    /// Builds the client; asks nobody. The key of an upstream is sent only while the flag of the
    /// same place in `may_show` is true.
    ///
    /// # Errors
    /// When a key cannot be a header, or the system's certificates cannot be read.
    pub fn new(
        config: &UpstreamsConfig,
        limits: &Limits,
        google: &Arc<Google>,
        on_cloud_run: bool,
        may_show: &[Arc<AtomicBool>],
    ) -> anyhow::Result<Self> {
        let changed = Arc::new(Notify::new());
        let client = Client::new()?;
        let mut groups = Vec::new();
        for (index, upstream) in config.upstreams.iter().enumerate() {
            let flag = may_show.get(index).cloned().unwrap_or_default();
            let key = upstream.api_key.as_ref();
            let api_key = key.map(|key| ApiKey::new(key, flag)).transpose()?;
            let scales = |base: &Url| {
                let told = upstream.scale_to_zero;
                told.unwrap_or_else(|| access::is_cloud_run(base))
            };
            let setup = |base: &Url| Setup {
                client: client.clone(),
                api_key: api_key.clone(),
                access: Access::new(upstream.auth, base, google, on_cloud_run),
                scales_to_zero: scales(base),
                max_concurrent: upstream.max_concurrent,
                max_model_len: upstream.max_model_len,
                idle: upstream.idle.unwrap_or(limits.upstream_idle),
                start_limit: limits.cold_start_wait,
                changed: changed.clone(),
            };
            groups.push(group(upstream, setup)?);
        }
        let targets = groups
            .iter()
            .flat_map(|group: &Group| group.targets.clone());
        Ok(Self {
            targets: targets.collect(),
            groups,
            balance: Balance::default(),
            aliases: config.aliases.clone(),
            limits: limits.clone(),
            room: Arc::new(Semaphore::new(ROOM)),
            changed,
            on_cloud_run,
        })
    }

    /// Every target of every group.
    #[must_use]
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Every target with the name of its group.
    pub fn named_targets(&self) -> impl Iterator<Item = (&str, &Arc<Target>)> {
        self.groups.iter().flat_map(|group| {
            let targets = group.targets.iter();
            targets.map(|target| (group.name.as_str(), target))
        })
    }

    /// Calls that wait for a target.
    #[must_use]
    pub fn waiting(&self) -> usize {
        ROOM - self.room.available_permits()
    }

    /// Gets a token for each target that is shown one, and tells what came of it.
    pub async fn prove_identity(&self) -> Vec<Proof> {
        let private = self.targets.iter().filter_map(|target| target.access());
        let proofs = private.map(|access| async {
            let outcome = access.header().await;
            Proof {
                audience: access.audience().to_owned(),
                outcome: outcome.map(|token| token.map(|_| access.account())),
            }
        });
        futures_util::future::join_all(proofs).await
    }

    /// Ends what goes on beside the calls.
    pub async fn close(&self) {
        let private = self.targets.iter().filter_map(|target| target.access());
        futures_util::future::join_all(private.map(Access::close)).await;
    }
}

fn group(upstream: &UpstreamConfig, setup: impl Fn(&Url) -> Setup) -> anyhow::Result<Group> {
    let targets = upstream.urls.iter().map(|url| {
        let target = Target::new(url.clone(), &setup)?;
        Ok(Arc::new(target))
    });
    Ok(Group {
        name: upstream.name.clone(),
        targets: targets.collect::<anyhow::Result<Vec<_>>>()?,
        models: upstream.models.clone(),
        aliases: upstream.aliases.clone(),
        max_model_len: upstream.max_model_len,
        fallback: upstream.fallback.clone(),
    })
}
