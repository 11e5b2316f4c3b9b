//! The tables of the house rules.

/// Modules of `src` and their layers. A module uses lower layers only; `sluicegate_compat` is below all of them.
pub const LAYERS: &[(&str, u8)] = &[
    ("audit", 0),
    ("budgets", 0),
    ("causes", 0),
    ("clock", 0),
    ("ids", 0),
    ("lifecycle", 0),
    ("media", 0),
    ("store", 0),
    ("web", 0),
    ("catalog", 1),
    ("engine", 1),
    ("placement", 1),
    ("tasks", 1),
    ("tenants", 1),
    ("pools", 2),
    ("sessions", 2),
    ("admission", 3),
    ("gateway", 4),
    ("api", 5),
    ("app", 6),
    ("cli", 6),
    ("config", 6),
    ("main", 6),
    ("telemetry", 6),
];

/// Edges within a layer: from, to, why.
pub const ALLOWED_EDGES: &[(&str, &str, &str)] = &[
    ("app", "config", "the composition root builds everything from the checked configuration"),
    ("audit", "clock", "an action is recorded with its time"),
    ("budgets", "clock", "a budget's period begins with a day or a month"),
    ("budgets", "ids", "a budget is a tenant's or a key's"),
    ("cli", "app", "`serve` runs the gateway"),
    ("cli", "config", "flags are a layer of the configuration, and `config check` shows it"),
    ("cli", "telemetry", "logging starts before anything that logs"),
    ("main", "cli", "the program is its command line"),
    ("store", "audit", "what is done is filed with what it changes, in one transaction"),
    ("store", "lifecycle", "the writer is a task with a name and an end at shutdown, and commits are blocking work"),
    ("telemetry", "config", "the log's format and level are settings"),
    ("web", "clock", "an event says when it was sent"),
    ("web", "causes", "why a server cannot be reached is told in words"),
];

/// What may be used in some places only.
pub struct Fence {
    /// The files that the fence is for.
    pub within: &'static str,
    /// What is behind it.
    pub paths: &'static [&'static str],
    /// Where it may be used.
    pub inside: &'static [&'static str],
    pub reason: &'static str,
}

pub const FENCES: &[Fence] = &[
    Fence {
        within: "src/",
        paths: &[
            "axum",
            "http",
            "http_body",
            "http_body_util",
            "hyper",
            "hyper_util",
            "tower",
            "tower_http",
            "tower_http_cors",
        ],
        inside: &["src/api", "src/app"],
        reason: "nothing below `api` knows HTTP, so a second protocol is a second edge and not a second gateway",
    },
    Fence {
        within: "src/",
        paths: &["mistralrs"],
        inside: &["src/engine/mistral"],
        reason: "mistral.rs has process-wide state and panics of its own; `engine::mistral` fences both in",
    },
    Fence {
        within: "src/",
        paths: &["nvml_wrapper"],
        inside: &["src/engine/mistral/gpu"],
        reason: "only an engine on a GPU has something to ask its driver",
    },
    Fence {
        within: "src/",
        paths: &["reqwest"],
        inside: &["src/engine/remote", "src/web", "src/catalog/web", "src/cli"],
        reason: "the gateway calls out to models elsewhere and to addresses it is given, with limits in time and bytes; the command line is a client of its own",
    },
    Fence {
        within: "src/",
        paths: &["gcra"],
        inside: &["src/api/throttle"],
        reason: "limits on tasks give back what is not used, and are `admission`'s; refusals alone are counted by whom they are told",
    },
    Fence {
        within: "src/",
        paths: &["rustls", "tokio_rustls", "x509_cert"],
        inside: &["src/app/server/tls", "src/store/postgres/tls"],
        reason: "one file decides which TLS is served and holds the key, and one whom the store believes to be its database",
    },
    Fence {
        within: "src/",
        paths: &["sluicegate_compat::openai", "sluicegate_compat::anthropic"],
        inside: &["src/api"],
        reason: "dialects stay at the edge: below it there is one request type and one event type",
    },
    Fence {
        within: "src/",
        paths: &["rusqlite", "tokio_postgres"],
        inside: &["src/store"],
        reason: "one module knows the tables; everybody else hands it plain rows, so another database is one change",
    },
    Fence {
        within: "src/",
        paths: &["clap", "clap_complete"],
        inside: &["src/cli"],
        reason: "flags become `config::Overrides` at once",
    },
    Fence {
        within: "src/",
        paths: &["std::env", "dirs"],
        inside: &["src/config", "src/cli"],
        reason: "a setting has one place; code that reads the environment elsewhere cannot be configured or tested",
    },
    Fence {
        within: "src/",
        paths: &["prometheus"],
        inside: &["*/metrics.rs", "src/pools/metrics", "src/telemetry"],
        reason: "metrics are fields of a struct whose methods name real events, so label sets stay closed",
    },
    Fence {
        within: "src/",
        paths: &[
            "tokio::spawn",
            "tokio::task::spawn",
            "tokio::task::spawn_blocking",
            "tokio::task::spawn_local",
            "tokio::task::JoinSet",
            "task::spawn",
            "task::spawn_blocking",
            "std::thread::spawn",
            "std::thread::Builder",
            "thread::spawn",
        ],
        inside: &["src/lifecycle"],
        reason: "only `lifecycle` spawns: every task has a name, an owner and an end at shutdown",
    },
    Fence {
        within: "src/",
        paths: &["tokio::sync::mpsc::unbounded_channel", "mpsc::unbounded_channel", "std::sync::mpsc"],
        inside: &[],
        reason: "every queue has a bound; what is over it is refused and not remembered",
    },
    Fence {
        within: "compat/",
        paths: &[
            "tokio",
            "axum",
            "hyper",
            "std::env",
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
        ],
        inside: &[],
        reason: "translation is pure: no clock, no I/O, no runtime, so a body in gives the same body out everywhere",
    },
];

/// Statics that are meant: file, line, why.
pub const ALLOWED_STATICS: &[(&str, &str, &str)] =
    &[("src/main.rs", "static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;", "a process has one allocator")];

/// Lines of a file at most.
pub const LONGEST: usize = 500;

/// Longer files, each with the reason for which it is one idea.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// What stands at the top of the repository, beside dotfiles. `target` is what cargo leaves.
pub const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "compat",
    "examples",
    "openapi",
    "src",
    "target",
    "tests",
];

/// Words for what is not done. Put together here, so that this file does not contain them.
pub fn unfinished() -> impl Iterator<Item = String> {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["to", "do!"], ["un", "implemented!"]]
        .into_iter()
        .map(|parts| parts.concat())
}
