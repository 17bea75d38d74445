//! The composition root: builds the parts, owns every task, and ends them in order.

mod identity;
mod neighbour;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{KeyRing, OwnKey, Users};
use crate::budget::Budgets;
use crate::config::{Config, UpstreamConfig};
use crate::google::Google;
use crate::http::{Bodies, Cors, Gateway, Surface, service};
use crate::server::{self, Ending, Settings};
use crate::store::Store;
use crate::telemetry::log::{self, RefusalLog};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstreams;
use crate::usage::Ledger;

/// Of the drain time this much is kept for rows, after streams were cut.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// Between the cut and the flush: what was cut writes its last event and settles.
const CUT_TIME: Duration = Duration::from_secs(1);
/// Files kept free for the database, the log and the keys.
const SPARE_FILES: u64 = 64;
const MAX_CONNECTIONS: u64 = 50_000;

/// A gateway that is built but does not listen yet.
pub struct App {
    gateway: Arc<Gateway>,
    config: Config,
}

impl App {
    /// Builds every part: opens the sink and loads the keys.
    ///
    /// # Errors
    /// What cannot work: no sink, a keys file that must be there and is not.
    pub async fn build(mut config: Config) -> anyhow::Result<Self> {
        let google = Arc::new(Google::new(&config.google));
        let (own_keys, shown) = own_keys(&config.upstreams.upstreams);
        let holds_budgets = config.database.holds_budgets(config.instance.on_cloud_run);
        let keys = KeyRing::new(&config.keys, &google, own_keys, holds_budgets);
        let instance = identity::complete(config.instance.clone(), &google);
        let store = Store::open(&config.database);
        let (loaded, instance, store) = tokio::join!(keys.load(), instance, store);
        loaded?;
        let store = store.context("cannot use the database of users and budgets")?;
        let store = store.map(Arc::new);
        if let Some(project) = &instance.project {
            log::know_project(project);
        }
        config.instance = instance;
        let upstreams = Upstreams::new(
            &config.upstreams,
            &config.limits,
            &google,
            config.instance.on_cloud_run,
            &shown,
        )?;
        let users = match &store {
            Some(store) => Some(Users::open(&config, store.clone()).await?),
            None => None,
        };
        let lease = config.accounts.lease;
        let gateway = Gateway {
            keys,
            users,
            budgets: store.clone().map(|store| Budgets::new(store, lease)),
            upstreams,
            ledger: Arc::new(Ledger::open(&config, &google, store.as_deref()).await?),
            metrics: Arc::new(Metrics::new()),
            refusals: RefusalLog::new(),
            bodies: Bodies::new(&config.limits),
            cors: Cors::new(&config.cors_origins),
            limits: config.limits.clone(),
            instance: config.instance.clone(),
            public_models: config.public_models,
            store,
            cut: CancellationToken::new(),
        };
        Ok(Self {
            gateway: Arc::new(gateway),
            config,
        })
    }

    /// Serves on `listeners` until `shutdown` is over, then drains: streams end or are cut, rows
    /// reach the sink.
    pub async fn run(
        self,
        listeners: Vec<(TcpListener, Surface)>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self { gateway, config } = self;
        let ending = Ending::default();
        let tasks = TaskTracker::new();
        let settings = Settings {
            h2c: config.h2c,
            client_stall: config.limits.client_stall,
            max_connections: max_connections(),
        };
        let servers = TaskTracker::new();
        for (listener, surface) in listeners {
            let shared = gateway.clone();
            let service_of = move |peer| service(shared.clone(), surface, peer);
            let metrics = gateway.metrics.clone();
            servers.spawn(server::serve(
                listener,
                service_of,
                settings.clone(),
                metrics,
                ending.clone(),
            ));
        }
        servers.close();
        let ledger = gateway.ledger.clone();
        let writing = CancellationToken::new();
        let written = writing.clone();
        tasks.spawn(async move { written.run_until_cancelled(Box::pin(ledger.run())).await });
        let (settling, settled) = (gateway.clone(), writing.clone());
        tasks.spawn(async move {
            if let Some(budgets) = &settling.budgets {
                settled.run_until_cancelled(Box::pin(budgets.run())).await;
            }
        });
        let (watching, watched) = (gateway.clone(), writing.clone());
        tasks.spawn(async move {
            let watch = Box::pin(watching.upstreams.watch_counters());
            watched.run_until_cancelled(watch).await
        });
        shutdown.await;
        drain(&gateway, &ending, &servers, config.limits.drain).await;
        writing.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// The keys that model servers are shown, each variable's once, and for each upstream whether its
/// key may be shown.
fn own_keys(upstreams: &[UpstreamConfig]) -> (Vec<OwnKey>, Vec<Arc<AtomicBool>>) {
    let mut keys: BTreeMap<&str, OwnKey> = BTreeMap::new();
    let mut shown = Vec::with_capacity(upstreams.len());
    for upstream in upstreams {
        shown.push(match &upstream.api_key {
            Some(key) => {
                let name = upstream.api_key_env.as_str();
                let own_key = keys.entry(name);
                let own_key = own_key.or_insert_with(|| OwnKey::of(name, key.expose()));
                own_key.is_apart()
            }
            None => Arc::default(),
        });
    }
    (keys.into_values().collect(), shown)
}

/// Builds the gateway, listens and serves until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from serving.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let address = SocketAddr::new(config.host, config.port);
    // Before anything else: whoever asks for a taken port learns it at once. But nobody gets in
    // before there is something to get.
    let mut taken = vec![Taken::bind(address, "PORT", Surface::All).await?];
    if let Some(port) = config.metrics_port {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        taken.push(Taken::bind(address, "METRICS_PORT", Surface::Metrics).await?);
    }
    let shutdown = signals()?;
    let app = App::build(config).await?;
    let mut listeners = Vec::new();
    for taken in taken {
        listeners.push(taken.listen().await?);
    }
    let bound = listeners[0].0.local_addr().unwrap_or(address);
    let upstreams: Vec<&str> = app
        .gateway
        .upstreams
        .targets()
        .iter()
        .map(|target| target.url())
        .collect();
    tracing::info!(address = %bound, upstream = upstreams.join(","), version = env!("CARGO_PKG_VERSION"), "tollgate listens");
    app.run(listeners, shutdown).await;
    Ok(())
}

/// An address that is ours and where nobody gets in yet.
struct Taken {
    socket: TcpSocket,
    address: SocketAddr,
    /// What chose the port.
    variable: &'static str,
    surface: Surface,
}

impl Taken {
    async fn bind(
        address: SocketAddr,
        variable: &'static str,
        surface: Surface,
    ) -> anyhow::Result<Self> {
        match server::bind(address) {
            Ok(socket) => Ok(Self {
                socket,
                address,
                variable,
                surface,
            }),
            Err(error) => Err(refusal(error, address, variable).await),
        }
    }

    async fn listen(self) -> anyhow::Result<(TcpListener, Surface)> {
        match server::listen(self.socket) {
            Ok(listener) => Ok((listener, self.surface)),
            Err(error) => Err(refusal(error, self.address, self.variable).await),
        }
    }
}

/// Why an address cannot be had, and what to do if another program is there.
async fn refusal(error: io::Error, address: SocketAddr, variable: &str) -> anyhow::Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        return anyhow::anyhow!(neighbour::describe(address, variable).await);
    }
    anyhow::Error::new(error).context(format!("cannot listen on {address}"))
}

/// The order of the end: no new connections; what is under way ends or, with three seconds left,
/// is cut; rows go to the sink in what time remains.
async fn drain(gateway: &Gateway, ending: &Ending, servers: &TaskTracker, limit: Duration) {
    let began = Instant::now();
    tracing::info!(
        in_flight = gateway.metrics.in_flight(),
        limit_s = limit.as_secs(),
        "shutting down"
    );
    ending.stop.cancel();
    let cut_at = began + limit.saturating_sub(SETTLE_TIME);
    if timeout_at(cut_at, servers.wait()).await.is_err() {
        tracing::warn!(
            in_flight = gateway.metrics.in_flight(),
            "time is up: cutting what is under way"
        );
        gateway.cut.cancel();
        if timeout(CUT_TIME.min(limit), servers.wait()).await.is_err() {
            tracing::warn!(
                in_flight = gateway.metrics.in_flight(),
                "clients that do not read are left behind"
            );
            // Their calls settle as they are dropped.
            ending.abandon.cancel();
            let rest = (began + limit).saturating_duration_since(Instant::now());
            let _ = timeout(rest.min(CUT_TIME), servers.wait()).await;
        }
    }
    let left = (began + limit).saturating_duration_since(Instant::now());
    let settle = async {
        if let Some(budgets) = &gateway.budgets {
            budgets.drain(left).await;
        }
    };
    tokio::join!(gateway.ledger.drain(left), settle);
    gateway.keys.close().await;
    if let Some(users) = &gateway.users {
        users.close().await;
    }
    if let Some(store) = &gateway.store {
        store.close().await;
    }
    gateway.upstreams.close().await;
    tracing::info!(
        took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "shut down"
    );
}

/// Ends with the first SIGTERM or SIGINT from now on.
///
/// # Errors
/// When the process cannot listen for them.
pub(crate) fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// As many connections as there are files for: each may need one more upstream.
fn max_connections() -> usize {
    let soft = rlimit::increase_nofile_limit(2 * MAX_CONNECTIONS + SPARE_FILES).unwrap_or(1024);
    usize::try_from((soft.saturating_sub(SPARE_FILES) / 2).clamp(16, MAX_CONNECTIONS)).unwrap_or(16)
}
