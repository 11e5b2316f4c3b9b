//! The composition root: everything is built here, top to bottom, and taken down in phases.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use sluicegate_compat::native::KeyRequest;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admission::{self, Accounts, Admission, BudgetUnknown, Limiter};
use crate::api::{self, Api, FailedLogins, RefusedActions, Settings};
use crate::audit::{Act, Action, Actor};
use crate::budgets::Budgets;
use crate::catalog::LiveCatalog;
use crate::config::{self, Config, SectionDigest, Source};
use crate::engine::{LoadError, Loader};
use crate::gateway::{
    Gateway, KeptPool, Parts, ProvisionSettings, Waiting, take_in, take_in_models, take_in_pools, take_in_prices,
};
use crate::ids::{ModelId, PoolId};
use crate::lifecycle::{Lifecycle, OnPanic};
use crate::pools::{Floor, Policy, Pool, PoolMetrics, PoolSpec, Watchdog};
use crate::sessions::{self, Sessions};
use crate::store::{Location, OpenError, Outage, Store, StoreError, StoreMetrics};
use crate::tasks::{Clock, Holder, Journal, Registry, Retention, Stage};
use crate::tenants::{ChangeError, DeclareError, Tenants};

mod declared;
mod greeting;
mod load;
mod metrics;
mod reload;
mod server;
mod sweeper;
mod webhooks;

pub use metrics::MetricsError;
pub use server::TlsError;
use sweeper::Sweeper;

/// How often changes of tenants and keys by other processes are looked for.
const LOOK_FOR_CHANGES: Duration = Duration::from_millis(500);

/// When keys were used last is filed once in so many of these times.
const LOOKS_PER_FILING: u32 = 60;

/// Sessions that nothing uses at most.
const MOST_IDLE_SESSIONS: usize = 100_000;

/// How long connections get to send what they have, once every task has ended.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// How long engines get to free their memory.
const UNLOAD_DEADLINE: Duration = Duration::from_secs(5);

/// How long the store gets to write what it has.
const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// What the command line says beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Gets the address that is listened on, once the gateway is ready.
    pub port_file: Option<PathBuf>,
    /// Where the configuration comes from, with what it amounted to: it is read again while the gateway serves.
    pub source: Option<(Source, BTreeMap<String, SectionDigest>)>,
}

/// Why the gateway did not start. The message is one line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error("server.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    #[error("{0}")]
    Model(#[from] LoadError),
    #[error("cannot write {path}: {error}", path = path.display())]
    PortFile { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Store(#[from] OpenError),
    #[error("cannot read what is stored: {0}")]
    Stored(#[from] StoreError),
    #[error("{0}")]
    Declared(#[from] DeclareError),
    #[error("cannot make the first API key: {0}")]
    FirstKey(ChangeError),
    #[error("{0}")]
    Metrics(#[from] MetricsError),
    #[error("a vital part of the gateway failed; the log says which")]
    Failed,
}

/// Serves until a signal ends it.
///
/// # Errors
///
/// [`StartError`]; the process should end with exit code 1.
pub fn run(config: Config, options: ServeOptions) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::Runtime)?;
    let served = runtime.block_on(serve(config, options));
    // An engine's thread may be in the middle of a round; it ends with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

/// What of the configuration only a look at other files tells.
///
/// # Errors
///
/// What `serve` would not start with.
pub fn check(config: &Config) -> Result<(), StartError> {
    config.server.tls.as_ref().map_or(Ok(()), server::Tls::check).map_err(StartError::Tls)
}

async fn serve(config: Config, options: ServeOptions) -> Result<(), StartError> {
    let lifecycle = Lifecycle::new();
    lifecycle.listen_for_signals().map_err(StartError::Signals)?;
    let listener = listen(config.server.listen).await?;
    if let Some(path) = &options.port_file {
        // What an earlier run left there would be taken for this one's. Where it cannot be removed, writing says so.
        let _ = std::fs::remove_file(path);
    }
    let address = listener.local_addr().map_err(|error| cannot_listen(config.server.listen, &error))?;
    let tls = config.server.tls.as_ref().map(|files| server::Tls::start(files, config.server.http2, &lifecycle));
    let tls = tls.transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let app = App::build(&config, &lifecycle).await?;
    if !config.server.listen.ip().is_loopback() && app.tenants.is_open() {
        let request = KeyRequest { name: Some("made at the first start".to_owned()), ..KeyRequest::default() };
        let act = Arc::new(Act::new(Action::CREATE_KEY, &Actor::Startup, None, ""));
        let (_, secret) = app.tenants.acting(&act).create_admin_key(request).await.map_err(StartError::FirstKey)?;
        greeting::print_first_key(&secret);
    }
    if let Some((source, sections)) = options.source {
        declared::Follower::new(source, sections, Arc::clone(&app.tenants)).follow(&lifecycle);
    }
    let server = app.accept(&config, listener, tls);
    tokio::select! {
        started = app.start() => started?,
        () = lifecycle.draining().cancelled() => return app.shut_down(&config, server).await,
    }
    if let Some(path) = options.port_file {
        greeting::write_port_file(&path, address).map_err(|error| StartError::PortFile { path, error })?;
    }
    greeting::print(&app.gateway, &format!("{scheme}://{address}"), app.tenants.is_open());
    lifecycle.draining().cancelled().await;
    app.shut_down(&config, server).await
}

/// The parts of a gateway that is built and not yet started.
pub struct App {
    pub gateway: Arc<Gateway>,
    pub router: axum::Router,
    lifecycle: Lifecycle,
    tasks: Arc<Registry>,
    sweeper: Arc<Sweeper>,
    pub budgets: Budgets,
    pub store: Store,
    pub tenants: Arc<Tenants>,
    pub pools: Vec<Arc<Pool>>,
    /// What waited when an earlier process ended, until the pools can take it.
    left: Mutex<Vec<Waiting>>,
    /// What was done to pools in an earlier process.
    kept_pools: HashMap<PoolId, KeptPool>,
    /// Other processes may change tenants and keys.
    shared_store: bool,
}

impl App {
    /// Builds every part of the gateway, with nothing running yet.
    ///
    /// # Errors
    ///
    /// Where the store cannot be opened; also when two metrics have the same name, which a test rules out.
    pub async fn build(config: &Config, lifecycle: &Lifecycle) -> Result<Self, StartError> {
        let turns = Arc::default();
        let loader = |pool: &_, catalog: &_| load::loader(pool, config, lifecycle, catalog, &turns);
        Self::build_with(config, lifecycle, loader).await
    }

    /// As [`build`](App::build), with engines from `loader`.
    ///
    /// # Errors
    ///
    /// As [`build`](App::build).
    pub async fn build_with(
        config: &Config,
        lifecycle: &Lifecycle,
        loader: impl Fn(&config::Pool, &Arc<LiveCatalog>) -> Arc<dyn Loader>,
    ) -> Result<Self, StartError> {
        let metrics::All {
            pools: pool_metrics,
            catalog: catalog_metrics,
            sessions: session_metrics,
            store: store_metrics,
            provision: provision_metrics,
            http: http_metrics,
            budgets: budget_metrics,
        } = metrics::register()?;
        let catalog = LiveCatalog::new(config.catalog.clone(), config.catalog_policy.clone(), catalog_metrics);
        let store = open_store(config, store_metrics, lifecycle).await?;
        take_in_models(&catalog, &store, lifecycle).await?;
        take_in_prices(&catalog, &store).await?;
        let (journal, kept) = Journal::open(store.clone(), config.ledger.enabled).await?;
        let keys = journal.keys().await?;
        let tenants = Arc::new(Tenants::open(store.clone()).await?);
        tenants.declare(&config.declared).await?;
        tenants.record_declared().await?;
        let retention = Retention {
            time: config.admission.retention,
            bytes: usize::try_from(config.admission.retention_max_bytes).unwrap_or(usize::MAX),
        };
        let tasks = Registry::with_journal(retention, journal);
        let budgets = Budgets::telling(webhooks::start(lifecycle, budget_metrics, config.webhook.clone()));
        let accounts = Accounts::new(budgets.clone(), Arc::clone(&tenants), store.clone());
        let sessions = sessions::Settings {
            ttl: config.sessions.ttl,
            most_idle: MOST_IDLE_SESSIONS,
            budget: config.sessions.budget,
        };
        let (sessions, holds) = Sessions::open(sessions, budgets.clone(), session_metrics, store.clone()).await?;
        // What tasks had reserved of the budgets of their tenants and keys is reserved there again.
        let waiting = kept.iter().filter(|task| !matches!(task.stage, Stage::Ended { .. }));
        let owners = waiting.map(|task| task.spec.owners()).chain(holds.holders().map(Holder::owners));
        for owners in owners {
            match accounts.ready(&owners).await {
                Err(BudgetUnknown::Store { error, .. }) => return Err(error.into()),
                // The others can go on.
                Err(error) => tracing::error!(%error, "tasks of an earlier process go on without a budget"),
                Ok(()) => {}
            }
        }
        let left = take_in(&tasks, &sessions, kept, holds);
        let configured: Vec<_> = config.pools.iter().map(load::configured).collect();
        let kept_pools = take_in_pools(&configured, &store).await?;
        let build_pool = |pool| build_pool(pool, loader(pool, &catalog), lifecycle, &pool_metrics);
        let pools: Vec<_> = config.pools.iter().map(build_pool).collect();
        let limiter = Arc::new(Limiter::default());
        let admission = Admission {
            registry: Arc::clone(&tasks),
            sessions: Arc::clone(&sessions),
            budgets: budgets.clone(),
            accounts,
            limiter: Arc::clone(&limiter),
            default_limits: config.limits,
            lifecycle: lifecycle.clone(),
            metrics: pool_metrics.clone(),
            default_max_tokens: config.admission.default_max_tokens,
        };
        let gateway = Arc::new(Gateway::new(Parts {
            lifecycle: lifecycle.clone(),
            catalog,
            storage: config.storage(),
            provision: provision(config),
            media: config.media.clone(),
            provision_metrics,
            store: store.clone(),
            pools: pools.clone(),
            admission,
            registry: Arc::clone(&tasks),
            sessions: Arc::clone(&sessions),
            idempotency_ttl: config.admission.idempotency_ttl,
            metrics: pool_metrics,
            started_unix_s: Clock::now().unix_ms / 1000,
        }));
        gateway.remember(&keys);
        let settings = Settings {
            refuse_unknown: config.server.unknown_fields == crate::config::UnknownFields::Refuse,
            compression: config.server.compression,
            max_body_bytes: config.server.max_body_bytes,
            body_timeout: config.server.body_timeout,
            loopback: config.server.listen.ip().is_loopback(),
            metrics_open: config.telemetry.metrics_open,
            log_clients: config.telemetry.log_clients,
        };
        let failed_logins = config.server.failed_logins.map(|rate| Arc::new(FailedLogins::new(rate)));
        let refused_actions = Arc::new(RefusedActions::of_keys());
        let router = api::router(Api::from(api::Shared {
            gateway: Arc::clone(&gateway),
            tenants: Arc::clone(&tenants),
            http_metrics,
            proxies: config.server.proxies.clone(),
            failed_logins: failed_logins.clone(),
            refused_actions: Arc::clone(&refused_actions),
            cors: config.server.cors.clone(),
            settings,
        }));
        let sweeper = Sweeper {
            tasks: Arc::clone(&tasks),
            sessions,
            limiter,
            budgets: budgets.clone(),
            failed_logins,
            refused_actions,
            store: store.clone(),
            idempotency_ttl: config.admission.idempotency_ttl,
            ledger_retention: config.ledger.retention,
            audit_retention: config.audit_retention,
        };
        Ok(Self {
            gateway,
            router,
            lifecycle: lifecycle.clone(),
            tasks,
            sweeper: Arc::new(sweeper),
            budgets,
            store,
            tenants,
            pools,
            left: Mutex::new(left),
            kept_pools,
            shared_store: config.store != Location::Memory,
        })
    }

    /// Loads every pool's model, and starts to take tasks.
    ///
    /// # Errors
    ///
    /// The first model that cannot be loaded.
    pub async fn start(&self) -> Result<(), StartError> {
        let (sweeper, ended) = (Arc::clone(&self.sweeper), self.lifecycle.forced().clone());
        self.lifecycle.spawn("retention", OnPanic::Shutdown, async move { sweeper.run(ended).await });
        self.watch_tenants();
        let kept = |pool: &Pool| self.kept_pools.get(pool.id()).and_then(|kept| kept.model.as_ref());
        try_join_all(self.pools.iter().map(|pool| pool.start(kept(pool)))).await?;
        self.gateway.register_again();
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        self.gateway.queue_again(left, &self.kept_pools).await;
        Ok(())
    }

    /// Takes in what other processes change of tenants and keys, and files when keys were used last.
    fn watch_tenants(&self) {
        let (tenants, ended) = (Arc::clone(&self.tenants), self.lifecycle.forced().clone());
        let shared = self.shared_store;
        self.lifecycle.spawn("tenants", OnPanic::Shutdown, async move {
            let mut ticks = interval(LOOK_FOR_CHANGES);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for tick in 1_u32.. {
                if ended.run_until_cancelled(ticks.tick()).await.is_none() {
                    return tenants.file_use();
                }
                match if shared { tenants.refresh().await } else { Ok(()) } {
                    Ok(()) => {}
                    Err(StoreError::Closed) => return,
                    // What is known holds until it is back, which the log has said.
                    Err(StoreError::Away) => {}
                    Err(error) => tracing::warn!(%error, "tenants and keys stay as they were known last"),
                }
                if tick.is_multiple_of(LOOKS_PER_FILING) {
                    tenants.file_use();
                }
            }
        });
    }

    /// Tasks that have not ended.
    pub fn live_tasks(&self) -> usize {
        self.tasks.live().len()
    }

    fn accept(&self, config: &Config, listener: TcpListener, tls: Option<server::Tls>) -> server::Server {
        server::Server::start(listener, tls, self.router.clone(), &config.server, &self.lifecycle)
    }

    /// Takes the gateway down.
    async fn shut_down(self, config: &Config, server: server::Server) -> Result<(), StartError> {
        // 1. Not ready, and no new tasks: `/readyz` and admission look at the same token. Readers are still served.
        tracing::info!(phase = 1, tasks = self.live_tasks(), "draining");
        // 2. What is queued or runs may end by itself, until the deadline or a second signal.
        tokio::select! {
            () = self.tasks.drained() => {}
            () = tokio::time::sleep(config.server.drain_deadline) => {
                tracing::warn!(phase = 2, tasks = self.live_tasks(), "the drain deadline has come");
            }
            () = self.lifecycle.forced().cancelled() => {}
        }
        // 3. Nothing starts any more. What is left ends now, each task with its last event, but for those that wait and that
        //    the next process finds in the journal.
        self.lifecycle.force();
        for task in self.tasks.live() {
            if !(task.is_kept() && task.log.park()) {
                task.fail(admission::shutting_down());
            }
        }
        // 4. No more connections; the open ones get to send those last events.
        let flush = server.close().then(|()| self.lifecycle.wait_for_begun());
        let flushed = timeout(FLUSH_DEADLINE, flush).await.is_ok();
        // 5. Engines free their memory.
        let unload = async {
            for pool in &self.pools {
                pool.unload().await;
            }
        };
        let unloaded = timeout(UNLOAD_DEADLINE, unload).await.is_ok();
        // 6. Nothing is left that could have something to keep.
        let stored = timeout(STORE_DEADLINE, self.store.close()).await.is_ok();
        tracing::info!(phase = 6, flushed, unloaded, stored, "ended");
        if self.lifecycle.failed() { Err(StartError::Failed) } else { Ok(()) }
    }
}

async fn open_store(config: &Config, metrics: StoreMetrics, lifecycle: &Lifecycle) -> Result<Store, OpenError> {
    if config.longest_away.is_zero() {
        return Store::open(&config.store, lifecycle).await;
    }
    let outage = Outage { longest: config.longest_away, folder: config.data_dir.clone(), metrics };
    Store::open_to_outlast(&config.store, outage, lifecycle).await
}

fn provision(config: &Config) -> ProvisionSettings {
    let targets = config.pools.iter().filter(|pool| pool.on_demand && config.admission.on_demand);
    ProvisionSettings {
        targets: targets.map(|pool| PoolId::from(pool.id.as_str())).collect(),
        most_waiting: config.admission.provision_waiting,
        most_guests: config.admission.provision_references,
        deadline: config.admission.provision_deadline,
    }
}

fn build_pool(pool: &config::Pool, loader: Arc<dyn Loader>, lifecycle: &Lifecycle, metrics: &PoolMetrics) -> Arc<Pool> {
    let spec = PoolSpec {
        id: PoolId::from(pool.id.as_str()),
        engine: load::engine_name(&pool.engine),
        replicas: pool.replicas,
        queue_capacity: pool.queue_capacity,
        queue_policy: match pool.queue_policy {
            config::Policy::Reject => Policy::Reject,
            config::Policy::DropLru => Policy::DropLru,
            config::Policy::ShedBatch => Policy::ShedBatch,
        },
        batch_floor: Floor::new(pool.batch_floor),
        watchdog: Watchdog { wall: pool.watchdog_wall, idle: pool.watchdog_idle, load: pool.watchdog_load },
    };
    Pool::new(spec, ModelId::from(pool.model.as_str()), loader, lifecycle.clone(), metrics.clone())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> StartError {
    let reason = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is taken; choose another with --listen, or 127.0.0.1:0 for a free one".to_owned()
        }
        _ => error.to_string(),
    };
    StartError::Listen { address, reason }
}
