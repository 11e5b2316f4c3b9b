//! The commands that look after tenants and keys, on the store that the configuration names. A gateway that runs on that store sees
//! what they change within a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use sluicegate_compat::native::{
    KeyRequest, KeyView, Priority, Scope, TenantPatch, TenantRequest, TenantView, Violation,
};

use super::arguments::FileArguments;
use super::policy::{PolicyArguments, PriorityArguments};
use super::table::Table;
use crate::config::Config;
use crate::lifecycle::Lifecycle;
use crate::store::{Location, Store};
use crate::tenants::Tenants;

#[derive(Debug, Args)]
pub(super) struct TenantArguments {
    #[command(flatten)]
    pub file: StoreArguments,
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    #[command(flatten)]
    pub file: StoreArguments,
    #[command(subcommand)]
    command: KeyCommand,
}

/// The configuration, wherever it stands in the command.
#[derive(Debug, Args)]
pub(super) struct StoreArguments {
    /// The configuration file that names the store; without it the one that SLUICEGATE_CONFIG names, or only defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Make a tenant
    Create {
        /// What it is called in requests, usage and logs: letters, digits, dots, underscores and hyphens
        id: String,
        /// What people call it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Its share of the queue beside others, 1 to 1000000
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
        #[command(flatten)]
        priorities: PriorityArguments,
        #[command(flatten)]
        policy: PolicyArguments,
    },
    /// List the tenants
    List,
    /// Change what is given; models, limits and budgets are replaced all together
    Change {
        /// The id of the tenant
        id: String,
        /// What people call it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Its share of the queue beside others, 1 to 1000000
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
        #[command(flatten)]
        priorities: PriorityArguments,
        #[command(flatten)]
        policy: PolicyArguments,
    },
    /// Refuse whatever it asks; what it has running goes on
    Suspend {
        /// The id of the tenant
        id: String,
    },
    /// Undo a suspension
    Resume {
        /// The id of the tenant
        id: String,
    },
    /// Remove it, with all of its keys
    Delete {
        /// The id of the tenant
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it; it is shown this once and kept nowhere
    #[command(group(ArgGroup::new("whose").required(true).args(["tenant", "admin"])))]
    Create {
        /// Whose it is
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        /// A key for everything, of the tenant `default`, which is made where it is missing
        #[arg(long, conflicts_with = "scopes")]
        admin: bool,
        /// What it is good for; may be given several times; without it, infer
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<ScopeArgument>,
        /// What people call it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// For how many days it is good; without it, until it is revoked
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
        #[command(flatten)]
        policy: PolicyArguments,
        /// A pool that tasks may run in; may be given several times; without it, every pool
        #[arg(long = "pool", value_name = "ID", conflicts_with = "admin")]
        pools: Vec<String>,
    },
    /// List the keys, without what is secret of them
    List {
        /// Those of one tenant
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
    },
    /// Show a key, without what is secret of it
    Show {
        /// The id of the key: what stands between sk-sg- and the next hyphen
        id: String,
    },
    /// Revoke a key for good
    Revoke {
        /// The id of the key: what stands between sk-sg- and the next hyphen
        id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeArgument {
    /// Tasks, in every dialect, and what belongs to them
    Infer,
    /// Looking, and changing nothing
    Read,
    /// Pools, the catalog, workers, tenants and keys
    Admin,
    /// GET /metrics
    Metrics,
}

impl From<ScopeArgument> for Scope {
    fn from(argument: ScopeArgument) -> Self {
        match argument {
            ScopeArgument::Infer => Self::Infer,
            ScopeArgument::Read => Self::Read,
            ScopeArgument::Admin => Self::Admin,
            ScopeArgument::Metrics => Self::Metrics,
        }
    }
}

impl StoreArguments {
    pub fn settings(&self) -> super::arguments::Settings {
        FileArguments { config: self.config.clone() }.settings()
    }
}

/// Runs `sluicegate tenant …`.
///
/// # Errors
///
/// One line, for the operator.
pub(super) async fn tenant(config: &Config, json: bool, arguments: TenantArguments) -> Result<(), String> {
    let open = Open::store(config).await?;
    let done = tenant_command(&open.tenants, json, arguments.command).await;
    open.close().await;
    done
}

async fn tenant_command(tenants: &Tenants, json: bool, command: TenantCommand) -> Result<(), String> {
    match command {
        TenantCommand::Create { id, name, weight, priorities, policy } => {
            let request = tenant_request(id, name, weight, &priorities, &policy);
            request.check().map_err(|wrong| refused(&wrong))?;
            let made = tenants.create_tenant(&request).await.map_err(|error| error.to_string())?;
            say(json, &made, || format!("tenant {} made", made.id));
            Ok(())
        }
        TenantCommand::List => {
            let (all, keys) = (tenants.tenants(), tenants.keys(None));
            if json {
                all.iter().for_each(print_json);
                return Ok(());
            }
            let mut of: BTreeMap<&str, usize> = BTreeMap::new();
            keys.iter().for_each(|key| *of.entry(&key.tenant_id).or_default() += 1);
            let mut table = Table::new(["TENANT", "NAME", "WEIGHT", "KEYS", "STATE"]);
            for tenant in &all {
                let keys = of.get(tenant.id.as_str()).copied().unwrap_or_default();
                let state = if tenant.suspended { "suspended" } else { "active" };
                let name = tenant.name.clone().unwrap_or_default();
                table.row([tenant.id.clone(), name, tenant.weight.to_string(), keys.to_string(), state.to_owned()]);
            }
            super::print(&table.to_string());
            Ok(())
        }
        TenantCommand::Change { id, name, weight, priorities, policy } => {
            let request = tenant_request(id.clone(), name, weight, &priorities, &policy);
            request.check().map_err(|wrong| refused(&wrong))?;
            let TenantRequest {
                name, weight, priority_ceiling, default_priority, allowed_models, limits, budgets, ..
            } = request;
            let patch = TenantPatch {
                name: name.map(Some),
                weight,
                suspended: None,
                priority_ceiling: priority_ceiling.map(Some),
                default_priority: default_priority.map(Some),
                allowed_models: allowed_models.map(Some),
                limits: limits.map(Some),
                budgets: budgets.map(Some),
            };
            if patch == TenantPatch::default() {
                return Err(
                    "name what is to be changed; `sluicegate tenant change --help` says what there is".to_owned()
                );
            }
            change(tenants, json, &id, "changed", patch).await
        }
        TenantCommand::Suspend { id } => change(tenants, json, &id, "suspended", suspension(true)).await,
        TenantCommand::Resume { id } => change(tenants, json, &id, "resumed", suspension(false)).await,
        TenantCommand::Delete { id } => {
            tenants.delete_tenant(&id, None).await.map_err(|error| error.to_string())?;
            say(json, &json!({"id": id, "deleted": true}), || format!("tenant {id} and its keys deleted"));
            Ok(())
        }
    }
}

fn tenant_request(
    id: String,
    name: Option<String>,
    weight: Option<u32>,
    priorities: &PriorityArguments,
    policy: &PolicyArguments,
) -> TenantRequest {
    TenantRequest {
        id,
        name,
        weight,
        suspended: None,
        priority_ceiling: priorities.priority_ceiling.map(Priority::from),
        default_priority: priorities.default_priority.map(Priority::from),
        allowed_models: policy.models(),
        limits: policy.limits(),
        budgets: policy.budgets(),
    }
}

fn suspension(suspended: bool) -> TenantPatch {
    TenantPatch { suspended: Some(suspended), ..TenantPatch::default() }
}

async fn change(tenants: &Tenants, json: bool, id: &str, done: &str, patch: TenantPatch) -> Result<(), String> {
    tenants.change_tenant(id, None, patch).await.map_err(|error| error.to_string())?;
    let changed: Option<TenantView> = tenants.tenant(id);
    say(json, &changed, || format!("tenant {id} {done}"));
    Ok(())
}

/// Runs `sluicegate key …`.
///
/// # Errors
///
/// One line, for the operator.
pub(super) async fn key(config: &Config, json: bool, arguments: KeyArguments) -> Result<(), String> {
    let open = Open::store(config).await?;
    let done = key_command(&open.tenants, json, arguments.command).await;
    open.close().await;
    done
}

async fn key_command(tenants: &Tenants, json: bool, command: KeyCommand) -> Result<(), String> {
    let unknown = |id: &str| format!("there is no key {id:?}");
    match command {
        KeyCommand::Create { tenant, admin: _, scopes, name, days, policy, pools } => {
            let scopes = if scopes.is_empty() { vec![ScopeArgument::Infer] } else { scopes };
            let request = KeyRequest {
                tenant_id: tenant.clone().unwrap_or_default(),
                scopes: scopes.into_iter().map(Scope::from).collect(),
                name,
                expires_ms: days.map(expiry),
                allowed_models: policy.models(),
                allowed_pools: (!pools.is_empty()).then_some(pools),
                limits: policy.limits(),
                budgets: policy.budgets(),
            };
            request.check().map_err(|wrong| refused(&wrong))?;
            let made = match tenant {
                Some(_) => tenants.create_key(&request).await,
                None => tenants.create_admin_key(request).await,
            };
            let (view, secret) = made.map_err(|error| error.to_string())?;
            let mut shown = serde_json::to_value(&view).map_err(|error| error.to_string())?;
            shown["key"] = secret.reveal().into();
            say(json, &shown, || {
                format!(
                    "{}\n\nThis is the key {} of {}. It is not shown again.",
                    secret.reveal(),
                    view.id,
                    view.tenant_id
                )
            });
            Ok(())
        }
        KeyCommand::List { tenant } => {
            let keys = tenants.keys(tenant.as_deref());
            if json {
                keys.iter().for_each(print_json);
                return Ok(());
            }
            let mut table = Table::new(["KEY", "TENANT", "NAME", "SCOPES", "EXPIRES", "LAST USED"]);
            for key in keys {
                let (scopes, name) = (scopes_of(&key), key.name.clone().unwrap_or_default());
                let (expires, used) = (when(key.expires_ms, "never"), when(key.last_used_ms, "never"));
                table.row([key.id, key.tenant_id, name, scopes, expires, used]);
            }
            super::print(&table.to_string());
            Ok(())
        }
        KeyCommand::Show { id } => {
            let key = tenants.key(&id).ok_or_else(|| unknown(&id))?;
            say(json, &key, || {
                let (expires, used) = (when(key.expires_ms, "never"), when(key.last_used_ms, "never"));
                let name = key.name.as_deref().unwrap_or("none");
                let (tenant, scopes) = (&key.tenant_id, scopes_of(&key));
                format!("key {id} of {tenant}\nname: {name}\nscopes: {scopes}\nexpires: {expires}\nlast used: {used}")
            });
            Ok(())
        }
        KeyCommand::Revoke { id } => {
            tenants.revoke_key(&id, None).await.map_err(|error| error.to_string())?;
            say(json, &json!({"id": id, "revoked": true}), || format!("key {id} revoked"));
            Ok(())
        }
    }
}

fn scopes_of(key: &KeyView) -> String {
    key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

/// So many days from now, as a Unix time in ms.
fn expiry(days: u32) -> u64 {
    let at = SystemTime::now() + Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long ago, or in how long, in words.
fn when(at_ms: Option<u64>, never: &str) -> String {
    let Some(at) = at_ms else { return never.to_owned() };
    let at = UNIX_EPOCH + Duration::from_millis(at);
    let now = SystemTime::now();
    match at.duration_since(now) {
        Ok(left) => format!("in {}", indicatif::HumanDuration(left)),
        Err(past) => format!("{} ago", indicatif::HumanDuration(past.duration())),
    }
}

/// The store that the configuration names, open beside a gateway that may run on it.
struct Open {
    store: Store,
    tenants: Tenants,
}

impl Open {
    async fn store(config: &Config) -> Result<Self, String> {
        if config.store == Location::Memory {
            return Err(
                "the store of this configuration is in memory, where only the gateway itself can reach it".to_owned()
            );
        }
        let lifecycle = Lifecycle::new();
        let store = Store::open_beside(&config.store, &lifecycle).await.map_err(|error| error.to_string())?;
        let tenants = Tenants::open(store.clone()).await.map_err(|error| error.to_string())?;
        Ok(Self { store, tenants })
    }

    async fn close(self) {
        self.store.close().await;
    }
}

fn refused(wrong: &Violation) -> String {
    format!("{}: {}", wrong.param, wrong.message)
}

fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) {
    if json { print_json(value) } else { super::print(&text()) }
}

fn print_json(value: &impl Serialize) {
    super::print(&serde_json::to_string(value).unwrap_or_default());
}
