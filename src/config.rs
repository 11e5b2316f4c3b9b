//! The configuration: one TOML file, over it the environment, over that the flags; parsed into types, with every mistake
//! reported at once and each with its place.
//!
//! | module | job |
//! | --- | --- |
//! | `defaults.toml` | every setting with its default, also the documentation of the file |
//! | `layers` | file, environment and flags become one document, which remembers who set what |
//! | `shape` | the document as plain types, as the file writes it |
//! | `read` | document to shape, with all wrong types and unknown keys |
//! | `check` | shape to [`Config`], with all values that are out of range or do not fit together |
//! | `mistake` | what is wrong, and where |
//! | `source` | where it comes from, so that it can be read again |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluicegate_compat::native::{Modality, RateLimits, Workload};
use tracing::level_filters::LevelFilter;

use crate::api::{Cors, Proxies, RefusalRate};
use crate::budgets::Left;
use crate::catalog::{self, Catalog, HubAccess, Storage, WebAccess};
use crate::engine::remote::{Limits, Secret};
use crate::gateway::MediaSettings;
use crate::store;
use crate::tenants::Declarations;
use crate::web::Webhook;

mod check;
mod key;
mod layers;
mod mistake;
mod read;
mod shape;
mod source;

pub use mistake::{Mistake, Mistakes, Place};
pub use shape::{Http2, LogFormat, Policy, RemoteEngine, UnknownFields};
pub use source::Source;

/// The checked configuration: whatever is in it can be served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute; need not exist yet.
    pub data_dir: PathBuf,
    pub server: Server,
    /// Where the database is.
    pub store: store::Location,
    /// How long its server may be away; zero: the gateway ends with its connection.
    pub longest_away: Duration,
    pub telemetry: Telemetry,
    pub admission: Admission,
    pub catalog: Catalog,
    /// What of it is served, and which paths it may name.
    pub catalog_policy: catalog::Policy,
    pub hub: HubAccess,
    pub web: WebAccess,
    /// No model that is downloaded has more bytes.
    pub max_model_bytes: u64,
    /// At least one, in the order of the file; ids differ.
    pub pools: Vec<Pool>,
    pub sessions: Sessions,
    pub media: MediaSettings,
    pub limits: RateLimits,
    pub ledger: Ledger,
    /// Who is told of budgets; `None`: nobody.
    pub webhook: Option<Webhook>,
    /// How long it is recorded what administrators did.
    pub audit_retention: Duration,
    /// Tenants and keys that stand here.
    pub declared: Declarations,
}

/// What tasks have used that have ended.
#[derive(Debug, Clone, Copy)]
pub struct Ledger {
    /// Whether it is entered anywhere.
    pub enabled: bool,
    /// How long entries stay.
    pub retention: Duration,
}

/// The sockets.
#[derive(Debug, Clone)]
pub struct Server {
    /// Port 0 picks a free one.
    pub listen: SocketAddr,
    /// `None`: without encryption.
    pub tls: Option<Tls>,
    pub http2: Http2,
    /// Whose word about the addresses of clients counts.
    pub proxies: Proxies,
    /// How many refused keys an address may send; `None`: any number.
    pub failed_logins: Option<RefusalRate>,
    /// Pages of other origins that may read answers; `None`: none.
    pub cors: Option<Cors>,
    /// Of whole answers; never of event streams.
    pub compression: bool,
    /// What becomes of a request with a field that has no effect, in the dialects but the native one, which refuses it always.
    pub unknown_fields: UnknownFields,
    pub max_body_bytes: usize,
    pub max_connections: usize,
    /// Of one address, and of IPv6 of one /64; 0: no bound of its own.
    pub max_connections_per_address: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long the body of a request may be silent, and how much longer it may take than its size explains.
    pub body_timeout: Duration,
    /// How long a client may read nothing of what there is for it.
    pub write_timeout: Duration,
    /// How long running tasks may take to end at shutdown.
    pub drain_deadline: Duration,
}

/// The files of a certificate, both PEM; absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those between it and the authority that clients know.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Logs and metrics.
#[derive(Debug, Clone)]
pub struct Telemetry {
    pub log_format: LogFormat,
    pub log_level: LevelFilter,
    /// Whether `/metrics` needs no key.
    pub metrics_open: bool,
    /// Whether the log has the addresses of clients.
    pub log_clients: bool,
}

/// What holds for every task.
#[derive(Debug, Clone)]
pub struct Admission {
    /// How long events and answers of an ended task stay.
    pub retention: Duration,
    /// How much of them stays at most, in bytes.
    pub retention_max_bytes: u64,
    pub idempotency_ttl: Duration,
    /// For requests that name none, where the context leaves as much.
    pub default_max_tokens: u32,
    /// Whether pools with `on_demand` are given models that tasks ask for.
    pub on_demand: bool,
    /// Tasks that wait for models at most.
    pub provision_waiting: usize,
    /// Models at most that tasks bring by a reference, and bytes of each.
    pub provision_references: usize,
    pub provision_reference_bytes: u64,
    /// From the first task that asks for a model until it is loaded.
    pub provision_deadline: Duration,
}

/// One queue and the engine behind it.
#[derive(Debug, Clone)]
pub struct Pool {
    pub id: String,
    /// The id of an entry in [`Config::catalog`].
    pub model: String,
    pub engine: Engine,
    /// Where its replicas run, in turn; at least one.
    pub devices: Vec<Device>,
    /// Part of a GPU's memory that each replica on one has for weights and cache, above 0 to 1.
    pub gpu_memory_share: f32,
    /// Sequences at once; `None`: as many as the engine likes.
    pub slots: Option<u32>,
    /// It may be given models that tasks ask for.
    pub on_demand: bool,
    /// Engines, each with its own copy of the model and its slots, on all devices together.
    pub replicas: usize,
    /// Tasks that may wait, at least 1.
    pub queue_capacity: usize,
    /// What happens to a task that comes to a full queue.
    pub queue_policy: Policy,
    /// Part of the work that batch tasks get while interactive ones wait, 0 to below 1.
    pub batch_floor: f64,
    /// A task that runs longer is ended.
    pub watchdog_wall: Duration,
    /// A task whose engine is silent for longer is ended.
    pub watchdog_idle: Duration,
    /// A model whose loading takes longer is given up.
    pub watchdog_load: Duration,
}

/// What runs a pool's model.
#[derive(Debug, Clone, PartialEq)]
pub enum Engine {
    Mistralrs,
    Scripted(Script),
    Remote(Remote),
}

/// An OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Without a slash at its end, such as `http://127.0.0.1:9000/v1`.
    pub base_url: String,
    pub api_key: Option<Secret>,
    /// The model's name there.
    pub model: String,
    /// A `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    pub engine: RemoteEngine,
    /// Tokens of prompt and output together.
    pub context_length: u32,
    /// What the server is used for; at least one.
    pub workloads: Vec<Workload>,
    /// What messages to it may hold; text always.
    pub modalities: Vec<Modality>,
    /// As how many tokens an image or a recording counts.
    pub media_tokens: u32,
    pub limits: Limits,
}

/// What the scripted engine plays.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    pub first_token: Duration,
    /// Between two tokens.
    pub token: Duration,
    /// The answer's tokens, at least one.
    pub tokens: Vec<String>,
    /// From the start again at the end, up to the request's limit.
    pub repeat: bool,
    /// The engine fails after so many tokens; `None`: never.
    pub fail_after: Option<u32>,
    /// At least one.
    pub workloads: Vec<Workload>,
    /// What messages may hold; text always.
    pub modalities: Vec<Modality>,
}

/// Where a pool's model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The first GPU, or the CPU where there is none.
    Auto,
    Cpu,
    Cuda(u32),
}

/// Tasks that belong together.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// How long a session lives without use.
    pub ttl: Duration,
    /// What the tasks of a new session may use in all.
    pub budget: Left,
}

/// What flags set; each wins over file and environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub listen: Option<String>,
    /// A folder, a `.gguf` file, `hf:org/repo`, or a name of the catalog; for the only pool.
    pub model: Option<String>,
    /// For the only pool.
    pub engine: Option<String>,
    pub log_format: Option<String>,
}

impl Config {
    /// Reads `file` if there is one, then what `environment` says (`SLUICEGATE_SERVER__LISTEN`, …), then the flags.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, Mistakes> {
        Effective::load(file, environment, overrides).map(|effective| effective.config)
    }

    /// Where models are kept and how servers that have them are reached.
    pub fn storage(&self) -> Storage {
        Storage {
            data_dir: self.data_dir.clone(),
            hub: self.hub.clone(),
            web: self.web.clone(),
            roots: self.catalog_policy.roots.clone(),
            max_model_bytes: self.max_model_bytes,
            max_guest_bytes: self.admission.provision_reference_bytes,
        }
    }
}

/// A configuration together with the text that it amounts to.
#[derive(Debug, Clone)]
pub struct Effective {
    pub config: Config,
    /// TOML with every setting, defaults included; secrets are shown as `***`.
    pub text: String,
    /// What each part of it amounts to, by its name.
    pub sections: BTreeMap<String, SectionDigest>,
}

/// Stands for what is in a part of the configuration, secrets included.
pub type SectionDigest = [u8; 32];

impl Effective {
    /// As [`Config::load`].
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, Mistakes> {
        let layers = layers::Layers::gather(file, environment, overrides)?;
        let (shape, mut mistakes) = read::read(&layers);
        let config = check::check(shape, &layers, &mut mistakes);
        match config {
            Some(config) if mistakes.is_empty() => {
                Ok(Self { config, text: layers.show(), sections: layers.sections() })
            }
            _ => Err(mistakes.in_order()),
        }
    }
}
