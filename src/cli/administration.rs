//! Where tenants, keys and usage are looked after: a running gateway, over its admin API, or the store, beside a gateway that may run
//! on it. What is asked for and what comes back is the same JSON in both ways.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use sluicegate_compat::native::{
    ErrorEnvelope, KeyRequest, NewKey, RotateRequest, Scope, TenantPatch, TenantRequest, UsageView,
};

use super::client::Gateway;
use super::operate::{Target, text};
use crate::audit::{Act, Action, Actor};
use crate::config::Config;
use crate::gateway::{UsageFilter, add_up, usage_table};
use crate::lifecycle::Lifecycle;
use crate::store::{DEFAULT_TENANT, Location, Store};
use crate::tenants::{ChangeError, Tenants};

/// Where the work is done.
pub(super) enum Administration {
    Gateway(Gateway),
    Store(Open),
}

/// The store that the configuration names.
pub(super) struct Open {
    store: Store,
    tenants: Tenants,
}

impl Administration {
    /// A running gateway.
    ///
    /// # Errors
    ///
    /// Where the target is none.
    pub fn of_gateway(target: &Target) -> Result<Self, String> {
        target.gateway().map(Self::Gateway)
    }

    /// The store of this configuration.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened from here.
    pub async fn of_store(config: &Config) -> Result<Self, String> {
        if config.store == Location::Memory {
            return Err(
                "the store of this configuration is in memory, where only the gateway itself can reach it".to_owned()
            );
        }
        let lifecycle = Lifecycle::new();
        let store = Store::open_beside(&config.store, &lifecycle).await.map_err(|error| error.to_string())?;
        let tenants = Tenants::open(store.clone()).await.map_err(|error| error.to_string())?;
        if let Err(error) = tenants.declare(&config.declared).await {
            // So that what is in the way can be taken away.
            eprintln!("sluicegate: what the configuration declares is left out: {error}");
        }
        Ok(Self::Store(Open { store, tenants }))
    }

    /// Lets go of it.
    pub async fn close(self) {
        if let Self::Store(open) = self {
            open.store.close().await;
        }
    }

    /// Makes the tenant of this request, and returns it.
    ///
    /// # Errors
    ///
    /// One line, for the operator; as everywhere here.
    pub async fn create_tenant(&self, request: &Value) -> Result<Value, String> {
        match self {
            Self::Gateway(gateway) => gateway.post(&["v2", "admin", "tenants"], Some(request)).await,
            Self::Store(open) => {
                let request = TenantRequest::parse(&bytes(request)).map_err(told)?;
                let work = async |tenants: &Tenants| tenants.create_tenant(&request).await;
                open.record(Action::CREATE_TENANT, &request.id, work).await.and_then(value)
            }
        }
    }

    pub async fn tenants(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::Gateway(gateway) => list(gateway.get(&["v2", "admin", "tenants"], &[]).await?, "tenants"),
            Self::Store(open) => open.tenants.tenants().into_iter().map(value).collect(),
        }
    }

    /// Changes what the patch has, and returns the tenant.
    pub async fn change_tenant(&self, id: &str, patch: &Value) -> Result<Value, String> {
        match self {
            Self::Gateway(gateway) => gateway.patch(&["v2", "admin", "tenants", id], patch).await,
            Self::Store(open) => {
                let patch = TenantPatch::parse(&bytes(patch)).map_err(told)?;
                let work = async |tenants: &Tenants| tenants.change_tenant(id, None, patch).await;
                open.record(Action::CHANGE_TENANT, id, work).await?;
                value(open.tenants.tenant(id))
            }
        }
    }

    pub async fn delete_tenant(&self, id: &str) -> Result<(), String> {
        match self {
            Self::Gateway(gateway) => gateway.delete(&["v2", "admin", "tenants", id]).await,
            Self::Store(open) => {
                let work = async |tenants: &Tenants| tenants.delete_tenant(id, None).await;
                open.record(Action::DELETE_TENANT, id, work).await
            }
        }
    }

    /// Makes the key of this request, and returns it with the key itself.
    pub async fn create_key(&self, request: &Value) -> Result<Value, String> {
        match self {
            Self::Gateway(gateway) => gateway.post(&["v2", "admin", "keys"], Some(request)).await,
            Self::Store(open) => {
                let request = KeyRequest::parse(&bytes(request)).map_err(told)?;
                let work = async |tenants: &Tenants| tenants.create_key(&request).await;
                let (view, key) = open.record(Action::CREATE_KEY, "", work).await?;
                value(NewKey { view, key: key.reveal().to_owned() })
            }
        }
    }

    /// As [`create_key`](Self::create_key), a key for everything of the tenant `default`, which is made where it is missing.
    pub async fn create_admin_key(&self, mut request: Value) -> Result<Value, String> {
        request["tenant_id"] = DEFAULT_TENANT.into();
        request["scopes"] = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        match self {
            Self::Gateway(_) => {
                if self.tenants().await?.iter().all(|tenant| tenant["id"] != DEFAULT_TENANT) {
                    self.create_tenant(&json!({ "id": DEFAULT_TENANT })).await?;
                }
                self.create_key(&request).await
            }
            Self::Store(open) => {
                let request = KeyRequest::parse(&bytes(&request)).map_err(told)?;
                let work = async |tenants: &Tenants| tenants.create_admin_key(request).await;
                let (view, key) = open.record(Action::CREATE_KEY, "", work).await?;
                value(NewKey { view, key: key.reveal().to_owned() })
            }
        }
    }

    /// Of one tenant, or of all.
    pub async fn keys(&self, tenant: Option<&str>) -> Result<Vec<Value>, String> {
        match self {
            Self::Gateway(gateway) => {
                let query: Vec<_> = tenant.map(|tenant| ("tenant_id", tenant.to_owned())).into_iter().collect();
                list(gateway.get(&["v2", "admin", "keys"], &query).await?, "keys")
            }
            Self::Store(open) => open.tenants.keys(tenant).into_iter().map(value).collect(),
        }
    }

    pub async fn key(&self, id: &str) -> Result<Value, String> {
        match self {
            Self::Gateway(gateway) => gateway.get(&["v2", "admin", "keys", id], &[]).await,
            Self::Store(open) => open.tenants.key(id).map_or_else(|| Err(told(ChangeError::no_key(id).into())), value),
        }
    }

    /// Makes a key in the place of one that is good for so many ms more at most, and returns it with the key itself.
    pub async fn rotate_key(&self, id: &str, overlap_ms: u64) -> Result<Value, String> {
        let request = json!({ "overlap_ms": overlap_ms });
        match self {
            Self::Gateway(gateway) => gateway.post(&["v2", "admin", "keys", id, "rotate"], Some(&request)).await,
            Self::Store(open) => {
                let overlap_ms = RotateRequest::parse(&bytes(&request)).map_err(told)?.overlap_ms.unwrap_or(0);
                let work = async |tenants: &Tenants| tenants.rotate_key(id, None, overlap_ms).await;
                let (view, key) = open.record(Action::ROTATE_KEY, id, work).await?;
                value(NewKey { view, key: key.reveal().to_owned() })
            }
        }
    }

    pub async fn revoke_key(&self, id: &str) -> Result<(), String> {
        match self {
            Self::Gateway(gateway) => gateway.delete(&["v2", "admin", "keys", id]).await,
            Self::Store(open) => {
                let work = async |tenants: &Tenants| tenants.revoke_key(id, None).await;
                open.record(Action::REVOKE_KEY, id, work).await
            }
        }
    }

    /// What tasks have used that have ended.
    pub async fn usage(&self, filter: UsageFilter) -> Result<Value, String> {
        match self {
            Self::Gateway(gateway) => gateway.get(&["v2", "usage"], &query(&filter)).await,
            Self::Store(open) => value(open.usage(filter).await?),
        }
    }

    /// The same as CSV, with a line of names first.
    pub async fn usage_csv(&self, filter: UsageFilter) -> Result<String, String> {
        match self {
            Self::Gateway(gateway) => {
                let mut query = query(&filter);
                query.push(("format", "csv".to_owned()));
                gateway.text(&["v2", "usage"], &query).await
            }
            Self::Store(open) => {
                let group_by = filter.group_by.clone();
                let table = usage_table(open.usage(filter).await?, &group_by).map_err(|error| error.to_string())?;
                Ok(String::from_utf8_lossy(&table).into_owned())
            }
        }
    }
}

impl Open {
    /// Does something, and records what has become of it.
    async fn record<T>(
        &self,
        action: Action,
        target: &str,
        work: impl AsyncFnOnce(&Tenants) -> Result<T, ChangeError>,
    ) -> Result<T, String> {
        let act = Arc::new(Act::new(action, &Actor::Cli, None, ""));
        act.about(target);
        match work(&self.tenants.acting(&act)).await {
            // It is recorded together with what it has changed.
            Ok(done) => Ok(done),
            Err(error) => {
                let error = ErrorEnvelope::from(error);
                self.store.acted(act.answered(error.http_status())).await.map_err(|error| error.to_string())?;
                Err(told(error))
            }
        }
    }

    async fn usage(&self, filter: UsageFilter) -> Result<UsageView, String> {
        add_up(&self.store, filter).await.map_err(told)
    }
}

fn query(filter: &UsageFilter) -> Vec<(&'static str, String)> {
    let UsageFilter { from_ms, to_ms, tenant, key, model, pool, group_by } = filter.clone();
    let names: Vec<_> = group_by.iter().map(|grouping| grouping.as_str()).collect();
    let all = [
        ("from_ms", from_ms.map(|ms| ms.to_string())),
        ("to_ms", to_ms.map(|ms| ms.to_string())),
        ("tenant_id", tenant),
        ("key_id", key),
        ("model", model),
        ("pool_id", pool),
        ("group_by", (!names.is_empty()).then(|| names.join(","))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// As the client of a gateway tells it.
fn told(error: ErrorEnvelope) -> String {
    format!("{}: {}", error.code.as_str(), error.message)
}

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

fn value(view: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(view).map_err(|error| error.to_string())
}

fn list(mut answer: Value, name: &str) -> Result<Vec<Value>, String> {
    match answer[name].take() {
        Value::Array(list) => Ok(list),
        other => Err(format!("the gateway answers {} where a list belongs", text(&other))),
    }
}
