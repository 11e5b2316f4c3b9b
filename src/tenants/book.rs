//! What is known of tenants and keys, in memory: plain data, with no clock and no I/O.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_compat::native::{BudgetView, KeyView, Policy, Scope, TenantView};

use super::declared::Declared;
use super::{Denied, Identity, KeyDigest, Rights, Scopes, Secret};
use crate::ids::{KeyId, TenantId};
use crate::store::{ApiKeyRow, TenantRow, signed};

#[derive(Debug, Default)]
pub(super) struct Book {
    pub tenants: HashMap<TenantId, Known>,
    pub keys: HashMap<KeyId, Entry>,
    /// Of the last change that was taken in.
    pub version: i64,
    /// There was a key once: from then on everybody has to have one.
    pub closed: bool,
    /// What the configuration has beside that.
    pub declared: Declared,
}

/// A tenant.
#[derive(Debug)]
pub(super) struct Known {
    pub row: TenantRow,
    pub policy: Arc<Policy>,
    declared: bool,
}

/// A key.
#[derive(Debug)]
pub(super) struct Entry {
    pub digest: KeyDigest,
    scopes: Scopes,
    pub tenant: TenantId,
    pub row: ApiKeyRow,
    pub policy: Arc<Policy>,
    declared: bool,
}

impl Book {
    pub fn take_tenant(&mut self, row: TenantRow) {
        self.version = self.version.max(row.version);
        let id = TenantId::from(row.id.as_str());
        if row.deleted {
            self.tenants.remove(&id);
        } else {
            self.tenants.insert(id, Known::of(row, false));
        }
    }

    pub fn take_key(&mut self, row: ApiKeyRow) {
        self.version = self.version.max(row.version);
        self.closed = true;
        let id = KeyId::from(row.id.as_str());
        let mut row = row;
        row.last_used_ms = row.last_used_ms.max(self.keys.get(&id).and_then(|known| known.row.last_used_ms));
        match Entry::of(row, false) {
            Some(entry) => drop(self.keys.insert(id, entry)),
            None => drop(self.keys.remove(&id)),
        }
    }

    pub fn identify(&self, sent: &str, now_ms: u64) -> Result<Identity, Denied> {
        let entry = self.entry(&Secret::parse(sent).ok_or(Denied::Malformed)?).ok_or(Denied::Unknown)?;
        if entry.row.expires_ms.is_some_and(|expires_ms| signed(now_ms) >= expires_ms) {
            return Err(Denied::Expired);
        }
        let tenant = self.tenant(&entry.tenant).ok_or(Denied::Unknown)?;
        if tenant.row.suspended {
            return Err(Denied::Suspended);
        }
        let weight = u32::try_from(tenant.row.weight).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let rights = Rights { tenant: Arc::clone(&tenant.policy), key: Arc::clone(&entry.policy) };
        let (tenant, key) = (entry.tenant.clone(), Some(entry.id()));
        Ok(Identity { tenant, weight, key, rights, scopes: entry.scopes })
    }
}

impl Book {
    /// The owner of a good key of a suspended tenant, with no scope.
    pub fn suspended(&self, sent: &str) -> Option<Identity> {
        let entry = self.entry(&Secret::parse(sent)?)?;
        let (tenant, key) = (entry.tenant.clone(), Some(entry.id()));
        let (rights, scopes) = (Rights::default(), Scopes::default());
        Some(Identity { tenant, weight: NonZeroU32::MIN, key, rights, scopes })
    }
}

impl Book {
    /// A tenant, stored or declared.
    pub fn tenant(&self, id: &TenantId) -> Option<&Known> {
        self.declared.tenants.get(id).or_else(|| self.tenants.get(id))
    }

    /// A key, stored or declared.
    pub fn key(&self, id: &KeyId) -> Option<&Entry> {
        self.declared.keys.get(id).or_else(|| self.keys.get(id))
    }

    pub fn each_tenant(&self) -> impl Iterator<Item = &Known> {
        let stored = self.tenants.iter().filter(|(id, _)| !self.declared.tenants.contains_key(*id));
        self.declared.tenants.values().chain(stored.map(|(_, known)| known))
    }

    pub fn each_key(&self) -> impl Iterator<Item = &Entry> {
        let stored = self.keys.iter().filter(|(id, _)| !self.declared.keys.contains_key(*id));
        self.declared.keys.values().chain(stored.map(|(_, entry)| entry))
    }

    /// Notes when a key was used last.
    pub fn used(&mut self, id: &KeyId, at_ms: i64) {
        for keys in [&mut self.keys, &mut self.declared.keys] {
            if let Some(entry) = keys.get_mut(id) {
                entry.row.last_used_ms = Some(at_ms);
            }
        }
    }

    /// What is known of a key that somebody has sent.
    fn entry(&self, secret: &Secret) -> Option<&Entry> {
        let digest = secret.digest();
        let stored = self.keys.get(secret.id()).filter(|entry| entry.digest.is(&digest));
        stored.or_else(|| self.declared.with_digest(&digest))
    }
}

impl Entry {
    /// `None` where it was deleted, or cannot be read: it lets nobody in.
    pub fn of(row: ApiKeyRow, declared: bool) -> Option<Self> {
        let digest = KeyDigest::parse(&row.digest).filter(|_| !row.deleted)?;
        let scopes: Vec<_> = row.scopes.split(' ').filter_map(Scope::parse).collect();
        let tenant = TenantId::from(row.tenant_id.as_str());
        let policy = Arc::new(read(&row.policy));
        Some(Self { digest, scopes: Scopes::of(&scopes), tenant, row, policy, declared })
    }

    fn id(&self) -> KeyId {
        KeyId::from(self.row.id.as_str())
    }

    pub fn shown(&self) -> KeyView {
        KeyView {
            id: self.row.id.clone(),
            tenant_id: self.row.tenant_id.clone(),
            name: self.row.name.clone(),
            scopes: self.scopes.names(),
            expires_ms: self.row.expires_ms.map(i64::cast_unsigned),
            allowed_models: self.policy.allowed_models.clone(),
            allowed_pools: self.policy.allowed_pools.clone(),
            limits: self.policy.limits,
            budgets: self.policy.budgets.iter().cloned().map(BudgetView::from).collect(),
            created_ms: self.row.created_ms.cast_unsigned(),
            last_used_ms: self.row.last_used_ms.map(i64::cast_unsigned),
            declared: self.declared,
        }
    }
}

impl Known {
    pub fn of(row: TenantRow, declared: bool) -> Self {
        let policy = Arc::new(read(&row.policy));
        Self { row, policy, declared }
    }

    pub fn shown(&self) -> TenantView {
        let policy = &self.policy;
        TenantView {
            id: self.row.id.clone(),
            name: self.row.name.clone(),
            weight: u32::try_from(self.row.weight).unwrap_or(1),
            suspended: self.row.suspended,
            priority_ceiling: policy.priority_ceiling,
            default_priority: policy.default_priority,
            allowed_models: policy.allowed_models.clone(),
            limits: policy.limits,
            budgets: policy.budgets.iter().cloned().map(BudgetView::from).collect(),
            created_ms: self.row.created_ms.cast_unsigned(),
            declared: self.declared,
        }
    }
}

/// A policy as rows have it. One that cannot be read allows nothing: it may be from a later version, which knows what it forbids.
pub(super) fn read(policy: &str) -> Policy {
    serde_json::from_str(policy).unwrap_or_else(|error| {
        tracing::error!(%error, "a policy cannot be read, and whose it is may use no model");
        Policy { allowed_models: Some(Vec::new()), ..Policy::default() }
    })
}
