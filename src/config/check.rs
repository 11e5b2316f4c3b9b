//! From the shape to [`Config`]: ranges, what must fit together, and what this version does not serve.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluicegate_compat::native::{MOST_OF_A_LIMIT, RateLimits};
use tracing::level_filters::LevelFilter;

use super::key::Key;
use super::layers::Layers;
use super::shape::{self, LogLevel, MediaFetch, Provision, Shape};
use super::{Admission, Config, Ledger, Mistakes, Sessions, Telemetry};
use crate::budgets::Left;
use crate::catalog::{FileRoots, HubAccess, Policy, Token, WebAccess};
use crate::gateway::MediaSettings;
use crate::store::{DatabaseUrl, Location};
use crate::web::{Hosts, Reach};

mod declared;
mod models;
mod pools;
mod remote;
mod server;
mod webhook;

/// Before a download that was cut goes on.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// No time in the configuration is longer: a year, in ms.
const LONGEST_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// Checks everything, and adds what is wrong to `mistakes`; what is returned counts only where that stays empty.
pub(super) fn check(shape: Option<Shape>, layers: &Layers, mistakes: &mut Mistakes) -> Option<Config> {
    let shape = shape?;
    let mut check = Check { layers, mistakes };
    check.absent_features(&shape);
    let data_dir = check.data_dir(&shape.data_dir);
    let store = check.store(&shape.store.url, &data_dir);
    let longest_away = check.ms("store.longest_away_ms", shape.store.longest_away_ms, 0);
    let server = check.server(&shape.server);
    let telemetry = telemetry(&shape.telemetry);
    let admission = check.admission(&shape.admission);
    let (hub, web) = (check.hub(&shape.catalog.hub), check.web(&shape.catalog.web));
    let least = shape.catalog.max_model_bytes > 0;
    check.ensure(least, "catalog.max_model_bytes", "at least 1");
    let budget = shape.sessions.budget.as_ref();
    let budget =
        budget.map_or_else(Left::default, |&shape::Budget { tokens, time_ms, cost }| Left { tokens, time_ms, cost });
    let sessions = Sessions { ttl: check.ms("sessions.ttl_ms", shape.sessions.ttl_ms, 1), budget };
    let media = check.media(&shape.media);
    let limits = check.limits("limits", &shape.limits);
    let ledger = Ledger {
        enabled: shape.ledger.enabled,
        retention: check.ms("ledger.retention_ms", shape.ledger.retention_ms, 1),
    };
    let webhook = check.webhook(&shape.budgets);
    let audit_retention = check.ms("audit.retention_ms", shape.audit.retention_ms, 1);
    let declared = check.declared(&shape.tenants, &shape.keys);
    let catalog = check.models(&shape.catalog, &web.hosts);
    let roots = FileRoots(shape.catalog.allowed_file_roots.iter().map(PathBuf::from).collect());
    let catalog_policy =
        Policy { strict: shape.catalog.trust == shape::Trust::Strict, roots, hosts: web.hosts.clone() };
    let pools = check.pools(&shape.pools, catalog.as_ref());
    Some(Config {
        data_dir,
        server,
        store,
        longest_away,
        telemetry,
        admission,
        catalog: catalog?,
        catalog_policy,
        hub,
        web,
        max_model_bytes: shape.catalog.max_model_bytes,
        pools,
        sessions,
        media,
        limits,
        ledger,
        webhook,
        audit_retention,
        declared,
    })
}

/// Collects mistakes with their places.
struct Check<'a> {
    layers: &'a Layers,
    mistakes: &'a mut Mistakes,
}

impl Check<'_> {
    fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let key = Key::dotted(key);
        self.mistakes.add(self.layers.place(&key), &key, message);
    }

    fn ensure(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.refuse(key, message);
        }
    }

    fn ms(&mut self, key: &str, ms: u64, least: u64) -> Duration {
        self.ensure((least..=LONGEST_MS).contains(&ms), key, &format!("{least} to {LONGEST_MS} ms"));
        Duration::from_millis(ms.min(LONGEST_MS))
    }

    /// A number of things; `least` to `most`.
    fn count(&mut self, key: &str, count: u64, least: u64, most: u64) -> usize {
        self.ensure((least..=most).contains(&count), key, &format!("{least} to {most}"));
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn absent_features(&mut self, shape: &Shape) {
        let some = shape.admission.provision == Provision::Refuse || shape.pools.iter().any(|pool| pool.on_demand);
        self.ensure(
            some,
            "admission.provision",
            "\"on-demand\" needs a pool with `on_demand = true` to give models to",
        );
    }

    fn limits(&mut self, key: &str, limits: &shape::Limits) -> RateLimits {
        let &shape::Limits { requests_per_minute, tokens_per_minute, tokens_in_flight, concurrency } = limits;
        let limits = RateLimits { requests_per_minute, tokens_per_minute, tokens_in_flight, concurrency };
        for (name, limit) in limits.named() {
            let sound = limit.is_none_or(|limit| (1..=MOST_OF_A_LIMIT).contains(&limit));
            let why = format!("1 to {MOST_OF_A_LIMIT}; leave it out for no limit");
            self.ensure(sound, &format!("{key}.{name}"), &why);
        }
        limits
    }

    fn data_dir(&mut self, text: &str) -> PathBuf {
        let home = self.layers.home().map(Path::to_owned).or_else(dirs::home_dir);
        let path = match (text.strip_prefix('~'), home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            (Some(_), _) => {
                self.refuse("data_dir", "there is no home folder for ~; write an absolute path");
                return PathBuf::new();
            }
            (None, _) => PathBuf::from(text),
        };
        std::path::absolute(&path).unwrap_or_else(|error| {
            self.refuse("data_dir", error.to_string());
            path
        })
    }

    /// Never shows the address, which may hold a password.
    fn store(&mut self, url: &str, data_dir: &Path) -> Location {
        match url.strip_prefix("sqlite:") {
            Some("") => return Location::in_folder(data_dir),
            Some(":memory:") => return Location::Memory,
            Some(path) if path.contains(['?', '#']) => {
                self.refuse("store.url", "takes no parameters; leave out what begins with ? or #");
            }
            Some(path) if path.starts_with('/') && !path.ends_with('/') => return Location::File(PathBuf::from(path)),
            Some(_) => self.refuse("store.url", "the path after sqlite: is that of a file, and absolute"),
            None if url.starts_with("postgres:") || url.starts_with("postgresql:") => match DatabaseUrl::parse(url) {
                Ok(url) => return Location::Postgres(url),
                Err(mistake) => self.refuse("store.url", mistake),
            },
            None => self.refuse(
                "store.url",
                "\"sqlite:\", \"sqlite:/path/file.db\", \"sqlite::memory:\" or \"postgres://user:password@host:5432/database\"",
            ),
        }
        Location::Memory
    }

    fn admission(&mut self, admission: &shape::Admission) -> Admission {
        self.ensure(admission.default_max_tokens > 0, "admission.default_max_tokens", "at least 1");
        Admission {
            retention: self.ms("admission.retention_ms", admission.retention_ms, 1),
            retention_max_bytes: admission.retention_max_bytes,
            idempotency_ttl: self.ms("admission.idempotency_ttl_ms", admission.idempotency_ttl_ms, 1),
            default_max_tokens: admission.default_max_tokens,
            on_demand: admission.provision == Provision::OnDemand,
            provision_waiting: self.count("admission.provision_waiting", admission.provision_waiting, 1, 1_000_000),
            provision_references: self.count("admission.provision_references", admission.provision_references, 0, 256),
            provision_reference_bytes: admission.provision_reference_bytes,
            provision_deadline: self.ms("admission.provision_deadline_ms", admission.provision_deadline_ms, 1),
        }
    }

    fn hub(&mut self, hub: &shape::Hub) -> HubAccess {
        let host = hub.endpoint.strip_prefix("https://").or_else(|| hub.endpoint.strip_prefix("http://"));
        let sound = host.is_some_and(|host| !host.is_empty() && !host.contains(['@', '?', '#', ' ']));
        self.ensure(
            sound,
            "catalog.hub.endpoint",
            "an address such as https://huggingface.co, without user or password",
        );
        let visible = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        self.ensure(
            hub.token.as_ref().is_none_or(visible),
            "catalog.hub.token",
            "a token is visible ASCII without spaces",
        );
        HubAccess {
            endpoint: hub.endpoint.trim_end_matches('/').to_owned(),
            token: hub.token.clone().map(Token),
            stall: self.ms("catalog.hub.stall_ms", hub.stall_ms, 1),
            retry_pause: RETRY_PAUSE,
        }
    }

    fn media(&mut self, media: &shape::Media) -> MediaSettings {
        MediaSettings {
            fetch: match media.fetch {
                MediaFetch::None => None,
                MediaFetch::Trusted => Some(Reach::Trusted),
                MediaFetch::Public => Some(Reach::Public),
            },
            hosts: self.hosts("media.trusted_hosts", &media.trusted_hosts),
            deadline: self.ms("media.fetch_deadline_ms", media.fetch_deadline_ms, 1),
            most_items: self.count("media.max_items", media.max_items, 0, 1024),
            most_bytes: self.count("media.max_bytes", media.max_bytes, 0, 1 << 32),
        }
    }

    fn hosts(&mut self, key: &str, hosts: &[String]) -> Hosts {
        for (index, host) in hosts.iter().enumerate() {
            let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let host = (!host.is_empty() && host.bytes().all(named)) || host.parse::<IpAddr>().is_ok();
            let key = format!("{key}.{index}");
            self.ensure(host, &key, "a name or an address without a port, such as models.internal or ::1");
        }
        Hosts::new(hosts.iter().cloned())
    }

    fn web(&mut self, web: &shape::Web) -> WebAccess {
        WebAccess {
            hosts: self.hosts("catalog.web.trusted_hosts", &web.trusted_hosts),
            stall: self.ms("catalog.web.stall_ms", web.stall_ms, 1),
            retry_pause: RETRY_PAUSE,
        }
    }
}

fn telemetry(telemetry: &shape::Telemetry) -> Telemetry {
    let log_level = match telemetry.log_level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Telemetry {
        log_format: telemetry.log_format,
        log_level,
        metrics_open: telemetry.metrics_open,
        log_clients: telemetry.log_clients,
    }
}
