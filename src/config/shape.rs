//! The document as plain types: names and nesting as the file writes them, values not yet checked. What the defaults hold
//! is required here, because they lie below every document.

/// The whole document.
#[derive(Debug, eserde::Deserialize)]
pub(super) struct Shape {
    pub data_dir: String,
    pub server: Server,
    pub store: Store,
    pub telemetry: Telemetry,
    pub admission: Admission,
    pub catalog: Catalog,
    pub pools: Vec<Pool>,
    pub sessions: Sessions,
    pub media: Media,
    pub limits: Limits,
    pub ledger: Ledger,
    #[serde(default)]
    pub budgets: Budgets,
    pub audit: Audit,
    #[serde(default)]
    pub tenants: Vec<Declared>,
    #[serde(default)]
    pub keys: Vec<Declared>,
}

/// What the admin API takes, read as it reads it.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Declared(pub toml::Value);

eserde::impl_edeserialize_compat!(Declared);

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Server {
    pub listen: String,
    pub http2: Http2,
    pub compression: bool,
    pub unknown_fields: UnknownFields,
    pub max_body_bytes: u64,
    pub max_connections: u64,
    pub max_connections_per_address: u64,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub drain_deadline_ms: u64,
    #[serde(default)]
    pub tls: Option<Tls>,
    pub trusted_proxies: Vec<String>,
    pub forwarded_header: ForwardedHeader,
    pub failed_logins: FailedLogins,
    pub cors: Cors,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Cors {
    pub origins: Vec<String>,
    pub max_age_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct FailedLogins {
    pub burst: u32,
    pub per_minute: u32,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Tls {
    #[serde(default)]
    pub cert: Option<String>,
    #[serde(default)]
    pub key: Option<String>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Store {
    pub url: String,
    pub longest_away_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Telemetry {
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    pub metrics_open: bool,
    pub log_clients: bool,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Admission {
    pub retention_ms: u64,
    pub retention_max_bytes: u64,
    pub idempotency_ttl_ms: u64,
    pub default_max_tokens: u32,
    pub provision: Provision,
    pub provision_waiting: u64,
    pub provision_references: u64,
    pub provision_reference_bytes: u64,
    pub provision_deadline_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Catalog {
    pub trust: Trust,
    pub allowed_file_roots: Vec<String>,
    pub max_model_bytes: u64,
    pub hub: Hub,
    pub web: Web,
    #[serde(default)]
    pub models: Vec<Model>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Hub {
    pub endpoint: String,
    pub stall_ms: u64,
    #[serde(default)]
    pub token: Option<String>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Web {
    pub trusted_hosts: Vec<String>,
    pub stall_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub digest: Option<String>,
    #[serde(default)]
    pub quantization: Option<String>,
    #[serde(default)]
    pub price: Option<Price>,
    #[serde(default)]
    pub limits: Option<Limits>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Price {
    #[serde(default)]
    pub input_per_mtok: u64,
    #[serde(default)]
    pub cached_input_per_mtok: u64,
    #[serde(default)]
    pub output_per_mtok: u64,
    #[serde(default)]
    pub engine_second: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Pool {
    #[serde(default)]
    pub id: Option<String>,
    pub model: String,
    pub engine: Engine,
    pub device: Devices,
    pub replicas: u32,
    pub gpu_memory_share: f64,
    pub slots: u32,
    pub on_demand: bool,
    pub queue: Queue,
    pub watchdog: Watchdog,
    pub scripted: Scripted,
    #[serde(default)]
    pub remote: Option<Remote>,
}

/// A device, or several.
#[derive(Debug)]
pub(super) struct Devices(pub Vec<String>);

impl<'de> serde::Deserialize<'de> for Devices {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = toml::Value::deserialize(deserializer)?;
        let text = |value| if let toml::Value::String(text) = value { Some(text) } else { None };
        let devices = match written {
            toml::Value::String(one) => Some(vec![one]),
            toml::Value::Array(several) => several.into_iter().map(text).collect(),
            _ => None,
        };
        devices.map(Self).ok_or_else(|| serde::de::Error::custom("a device is a text, several are a list of texts"))
    }
}

eserde::impl_edeserialize_compat!(Devices);

#[derive(Debug, Default, eserde::Deserialize)]
pub(super) struct Remote {
    #[serde(default)]
    pub base_url: Option<String>,
    #[serde(default)]
    pub api_key_env: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub tokenizer: Option<String>,
    #[serde(default)]
    pub engine: Option<RemoteEngine>,
    #[serde(default)]
    pub context_length: Option<u32>,
    #[serde(default)]
    pub workloads: Option<Vec<Workload>>,
    #[serde(default)]
    pub modalities: Option<Vec<Modality>>,
    #[serde(default)]
    pub media_tokens: Option<u32>,
    #[serde(default)]
    pub connect_ms: Option<u64>,
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    #[serde(default)]
    pub idle_ms: Option<u64>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Queue {
    pub capacity: u64,
    pub policy: Policy,
    pub batch_floor: f64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Watchdog {
    pub wall_ms: u64,
    pub idle_ms: u64,
    pub load_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Scripted {
    pub first_token_ms: u64,
    pub token_ms: u64,
    pub tokens: Vec<String>,
    pub repeat: bool,
    pub fail_after: u32,
    pub workloads: Vec<Workload>,
    pub modalities: Vec<Modality>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Sessions {
    pub ttl_ms: u64,
    #[serde(default)]
    pub budget: Option<Budget>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Budget {
    #[serde(default)]
    pub tokens: Option<u64>,
    #[serde(default)]
    pub time_ms: Option<u64>,
    #[serde(default)]
    pub cost: Option<u64>,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Media {
    pub fetch: MediaFetch,
    pub trusted_hosts: Vec<String>,
    pub fetch_deadline_ms: u64,
    pub max_items: u64,
    pub max_bytes: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Ledger {
    pub enabled: bool,
    pub retention_ms: u64,
}

#[derive(Debug, eserde::Deserialize)]
pub(super) struct Audit {
    pub retention_ms: u64,
}

#[derive(Debug, Default, eserde::Deserialize)]
pub(super) struct Budgets {
    #[serde(default)]
    pub webhook_url: Option<String>,
    #[serde(default)]
    pub webhook_secret_env: Option<String>,
}

#[derive(Debug, Default, eserde::Deserialize)]
pub(super) struct Limits {
    #[serde(default)]
    pub requests_per_minute: Option<u64>,
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
    #[serde(default)]
    pub tokens_in_flight: Option<u64>,
    #[serde(default)]
    pub concurrency: Option<u64>,
}

/// An enum that the file writes as one of a few words.
///
/// Read through a string: eserde loses its place in the document when a derived enum does not know a word.
macro_rules! words {
    ($($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                match word.as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(serde::de::Error::custom(format!("{word:?} is none of {}", [$(concat!("\"", $word, "\"")),+].join(", ")))),
                }
            }
        }

        eserde::impl_edeserialize_compat!($name);
    )+};
}

words! {
    /// Whether HTTP/2 is spoken, to clients that begin with it.
    pub enum Http2 {
        Auto = "auto",
        Off = "off",
    }

    /// Where proxies write whom they speak for.
    pub(super) enum ForwardedHeader {
        XForwardedFor = "x-forwarded-for",
        Forwarded = "forwarded",
    }

    /// What becomes of a request with a field that has no effect.
    pub enum UnknownFields {
        Ignore = "ignore",
        Refuse = "refuse",
    }

    /// How log lines look.
    pub enum LogFormat {
        Text = "text",
        Json = "json",
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
    }

    pub(super) enum LogLevel {
        Off = "off",
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }

    pub(super) enum Provision {
        Refuse = "refuse",
        OnDemand = "on-demand",
    }

    pub(super) enum Trust {
        Permissive = "permissive",
        Strict = "strict",
    }

    pub(super) enum Engine {
        Mistralrs = "mistralrs",
        Remote = "remote",
        Scripted = "scripted",
    }

    /// What can be asked of a pool's model.
    pub(super) enum Workload {
        Completion = "completion",
        Embedding = "embedding",
        Rerank = "rerank",
    }

    /// What a message may hold.
    pub(super) enum Modality {
        Text = "text",
        Image = "image",
        Audio = "audio",
    }

    /// Which addresses in messages are asked for what is there.
    pub enum MediaFetch {
        /// None: a message holds what it shows.
        None = "none",
        /// Those of `trusted_hosts`.
        Trusted = "trusted",
        /// Those, and every public one.
        Public = "public",
    }

    /// The program behind a remote engine.
    pub enum RemoteEngine {
        Remote = "remote",
        LlamaCpp = "llamacpp",
        Vllm = "vllm",
        Tgi = "tgi",
        Triton = "triton",
    }

    /// What happens to a task that comes to a full queue.
    pub enum Policy {
        Reject = "reject",
        DropLru = "drop-lru",
        ShedBatch = "shed-batch",
    }
}
