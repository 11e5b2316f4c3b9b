//! The commands that look after tenants and keys: of a running gateway where there is a key for it, else on the store that the
//! configuration names. A gateway that runs on that store sees what they change within a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use sluicegate_compat::native::Scope;

use super::administration::Administration;
use super::arguments::FileArguments;
use super::operate::{Target, text};
use super::policy::{PolicyArguments, PriorityArguments};
use super::table::Table;
use crate::clock::unix_ms;
use crate::tenants::Secret;

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
#[derive(Debug, Clone, Args)]
pub(super) struct StoreArguments {
    /// Work on the store that this configuration file names. Without it: on the gateway, where there is a key for it, else on the store
    /// that the file in SLUICEGATE_CONFIG names, or only defaults
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
    /// Make a key in the place of one, with the same rights, and print it; it is shown this once
    Rotate {
        /// The id of the key: what stands between sk-sg- and the next hyphen
        id: String,
        /// How long the old key stays good, such as 30s, 15m, 12h or 7d; without it, not at all
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_ms)]
        overlap: u64,
    },
    /// Print the line that declares a key in the configuration, which does not have the key itself; reads it from standard input
    Hash {
        /// Make a new key and print it first; it is stored nowhere
        #[arg(long)]
        new: bool,
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

/// Which key there is a hash of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashOf {
    New,
    /// From standard input.
    Read,
}

impl KeyArguments {
    /// Whether it works on nothing but what it reads, or makes.
    pub fn hashes(&self) -> Option<HashOf> {
        match self.command {
            KeyCommand::Hash { new: true } => Some(HashOf::New),
            KeyCommand::Hash { new: false } => Some(HashOf::Read),
            _ => None,
        }
    }
}

impl StoreArguments {
    pub fn settings(&self) -> super::arguments::Settings {
        FileArguments { config: self.config.clone() }.settings()
    }

    /// Whether a running gateway is meant.
    pub fn asks_a_gateway(&self, target: &Target) -> bool {
        target.api_key.is_some() && self.config.is_none()
    }
}

/// A time with its unit.
fn duration_ms(text: &str) -> Result<u64, String> {
    let unknown = || "a number and ms, s, m, h or d, such as 15m".to_owned();
    let at = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(unknown)?;
    let (number, unit) = text.split_at(at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(unknown()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or_else(unknown)
}

/// Runs `sluicegate tenant …`.
///
/// # Errors
///
/// One line, for the operator.
pub(super) async fn tenant(at: &Administration, json: bool, arguments: TenantArguments) -> Result<(), String> {
    match arguments.command {
        TenantCommand::Create { id, name, weight, priorities, policy } => {
            let mut request = tenant_fields(name, weight, &priorities, &policy);
            request.insert("id".to_owned(), id.as_str().into());
            let made = at.create_tenant(&Value::Object(request)).await?;
            say(json, &made, || format!("tenant {id} made"));
        }
        TenantCommand::List => {
            let all = at.tenants().await?;
            if json {
                all.iter().for_each(print_json);
                return Ok(());
            }
            let keys = at.keys(None).await?;
            let mut of: BTreeMap<String, usize> = BTreeMap::new();
            keys.iter().for_each(|key| *of.entry(text(&key["tenant_id"])).or_default() += 1);
            let mut table = Table::new(["TENANT", "NAME", "WEIGHT", "KEYS", "STATE"]);
            for tenant in &all {
                let id = text(&tenant["id"]);
                let keys = of.get(&id).copied().unwrap_or_default();
                let state = if tenant["suspended"] == true { "suspended" } else { "active" };
                let name = tenant["name"].as_str().unwrap_or_default().to_owned();
                table.row([id, name, text(&tenant["weight"]), keys.to_string(), state.to_owned()]);
            }
            super::print(&table.to_string());
        }
        TenantCommand::Change { id, name, weight, priorities, policy } => {
            let patch = tenant_fields(name, weight, &priorities, &policy);
            if patch.is_empty() {
                return Err(
                    "name what is to be changed; `sluicegate tenant change --help` says what there is".to_owned()
                );
            }
            change(at, json, &id, "changed", &Value::Object(patch)).await?;
        }
        TenantCommand::Suspend { id } => change(at, json, &id, "suspended", &json!({ "suspended": true })).await?,
        TenantCommand::Resume { id } => change(at, json, &id, "resumed", &json!({ "suspended": false })).await?,
        TenantCommand::Delete { id } => {
            at.delete_tenant(&id).await?;
            say(json, &json!({ "id": id, "deleted": true }), || format!("tenant {id} and its keys deleted"));
        }
    }
    Ok(())
}

/// What is given, as the admin API takes it.
fn tenant_fields(
    name: Option<String>,
    weight: Option<u32>,
    priorities: &PriorityArguments,
    policy: &PolicyArguments,
) -> Map<String, Value> {
    let mut fields = policy.fields();
    let priority = |argument: Option<_>| argument.map(|argument| super::arguments::name_of(argument).into());
    let own: [(&str, Option<Value>); 4] = [
        ("name", name.map(Value::from)),
        ("weight", weight.map(Value::from)),
        ("priority_ceiling", priority(priorities.priority_ceiling)),
        ("default_priority", priority(priorities.default_priority)),
    ];
    fields.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    fields
}

async fn change(at: &Administration, json: bool, id: &str, done: &str, patch: &Value) -> Result<(), String> {
    let changed = at.change_tenant(id, patch).await?;
    say(json, &changed, || format!("tenant {id} {done}"));
    Ok(())
}

/// Runs `sluicegate key hash`.
///
/// # Errors
///
/// One line, for the operator, without what was read.
pub(super) fn hash(json: bool, of: HashOf) -> Result<(), String> {
    let new = of == HashOf::New;
    let key = if new { Secret::new().map_err(|error| error.to_string())? } else { read_key()? };
    let hash = format!("sha256:{}", key.digest());
    let mut shown = json!({ "hash": hash });
    if new {
        shown["key"] = key.reveal().into();
    }
    say(json, &shown, || {
        let line = format!("hash = \"{hash}\"");
        if new { format!("{}\n{line}", key.reveal()) } else { line }
    });
    Ok(())
}

fn read_key() -> Result<Secret, String> {
    let text = super::operate::stdin()?;
    Secret::parse(text.trim()).ok_or_else(|| "standard input has no whole API key (sk-sg-…)".to_owned())
}

/// Runs `sluicegate key …`.
///
/// # Errors
///
/// One line, for the operator.
pub(super) async fn key(at: &Administration, json: bool, arguments: KeyArguments) -> Result<(), String> {
    match arguments.command {
        KeyCommand::Create { tenant, admin: _, scopes, name, days, policy, pools } => {
            let scopes = if scopes.is_empty() { vec![ScopeArgument::Infer] } else { scopes };
            let scopes: Vec<_> = scopes.into_iter().map(|scope| Scope::from(scope).as_str()).collect();
            let mut request = policy.fields();
            let own = [
                ("name", name.map(Value::from)),
                ("expires_ms", days.map(|days| expiry(days).into())),
                ("allowed_pools", (!pools.is_empty()).then(|| pools.into())),
            ];
            request.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            let made = match tenant {
                Some(tenant) => {
                    request.insert("tenant_id".to_owned(), tenant.into());
                    request.insert("scopes".to_owned(), scopes.into());
                    at.create_key(&Value::Object(request)).await?
                }
                None => at.create_admin_key(Value::Object(request)).await?,
            };
            say_key(json, &made);
        }
        KeyCommand::List { tenant } => {
            let keys = at.keys(tenant.as_deref()).await?;
            if json {
                keys.iter().for_each(print_json);
                return Ok(());
            }
            let mut table = Table::new(["KEY", "TENANT", "NAME", "SCOPES", "EXPIRES", "LAST USED"]);
            for key in keys {
                let name = key["name"].as_str().unwrap_or_default().to_owned();
                let (expires, used) = (when(&key["expires_ms"]), when(&key["last_used_ms"]));
                table.row([text(&key["id"]), text(&key["tenant_id"]), name, scopes_of(&key), expires, used]);
            }
            super::print(&table.to_string());
        }
        KeyCommand::Show { id } => {
            let key = at.key(&id).await?;
            say(json, &key, || {
                let (expires, used) = (when(&key["expires_ms"]), when(&key["last_used_ms"]));
                let name = key["name"].as_str().unwrap_or("none");
                let (tenant, scopes) = (text(&key["tenant_id"]), scopes_of(&key));
                format!("key {id} of {tenant}\nname: {name}\nscopes: {scopes}\nexpires: {expires}\nlast used: {used}")
            });
        }
        KeyCommand::Rotate { id, overlap } => {
            let made = at.rotate_key(&id, overlap).await?;
            say_key(json, &made);
        }
        KeyCommand::Hash { new } => hash(json, if new { HashOf::New } else { HashOf::Read })?,
        KeyCommand::Revoke { id } => {
            at.revoke_key(&id).await?;
            say(json, &json!({ "id": id, "revoked": true }), || format!("key {id} revoked"));
        }
    }
    Ok(())
}

/// The key alone for programs, and what it is for people.
fn say_key(json: bool, made: &Value) {
    say(json, made, || text(&made["key"]));
    let (id, tenant) = (text(&made["id"]), text(&made["tenant_id"]));
    eprintln!("This is the key {id} of {tenant}. It is not shown again.");
}

fn scopes_of(key: &Value) -> String {
    key["scopes"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",")
}

/// So many days from now, as a Unix time in ms.
fn expiry(days: u32) -> u64 {
    unix_ms().saturating_add(u64::from(days) * 24 * 60 * 60 * 1000)
}

/// How long ago, or in how long, in words.
fn when(at_ms: &Value) -> String {
    let Some(at) = at_ms.as_u64() else { return "never".to_owned() };
    let at = UNIX_EPOCH + Duration::from_millis(at);
    let now = SystemTime::now();
    match at.duration_since(now) {
        Ok(left) => format!("in {}", indicatif::HumanDuration(left)),
        Err(past) => format!("{} ago", indicatif::HumanDuration(past.duration())),
    }
}

fn say(json: bool, value: &Value, text: impl FnOnce() -> String) {
    if json { print_json(value) } else { super::print(&text()) }
}

fn print_json(value: &Value) {
    super::print(&value.to_string());
}

#[cfg(test)]
mod tests {
    use super::duration_ms;

    #[test]
    fn times_have_units() {
        let times = ["250ms", "30s", "15m", "12h", "7d", "0s"].map(|text| duration_ms(text).unwrap());
        assert_eq!(times, [250, 30_000, 900_000, 43_200_000, 604_800_000, 0]);
        for wrong in ["", "5", "h", "1w", "-1s", "1.5h", "99999999999999999999s", "999999999999999999d"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }
}
