//! What is known of tenants and keys, in memory: plain data, with no clock and no I/O.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sluicegate_compat::native::{BudgetView, KeyView, Policy, Scope, TenantView};

use super::declared::Declared;
use super::key::Presented;
use super::{Denied, Identity, KeyDigest, Rights, Scopes};
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
    pub id: KeyId,
    pub digest: KeyDigest,
    scopes: Scopes,
    pub tenant: TenantId,
    pub row: ApiKeyRow,
    pub policy: Arc<Policy>,
    declared: bool,
    /// When it was used last in this process. The row has what is filed of that.
    used_ms: AtomicI64,
}

/// No time is earlier.
const NEVER: i64 = i64::MIN;

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
        let known = self.keys.remove(&id);
        if let Some(entry) = Entry::of(row, false) {
            self.keys.insert(id, entry.used_like(known.as_ref()));
        }
    }

    pub fn identify(&self, sent: &str, now_ms: u64) -> Result<Identity, Denied> {
        let presented = Presented::parse(sent).ok_or(Denied::Malformed)?;
        let unknown = || if presented.is_whole() { Denied::Unknown } else { Denied::Malformed };
        let entry = self.entry(presented).ok_or_else(unknown)?;
        if entry.row.expires_ms.is_some_and(|expires_ms| signed(now_ms) >= expires_ms) {
            return Err(Denied::Expired);
        }
        let tenant = self.tenant(&entry.tenant).ok_or(Denied::Unknown)?;
        if tenant.row.suspended {
            return Err(Denied::Suspended);
        }
        let weight = u32::try_from(tenant.row.weight).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let rights = Rights { tenant: Arc::clone(&tenant.policy), key: Arc::clone(&entry.policy) };
        entry.used_ms.fetch_max(signed(now_ms), Ordering::Relaxed);
        let (tenant, key) = (entry.tenant.clone(), Some(entry.id.clone()));
        Ok(Identity { tenant, weight, key, rights, scopes: entry.scopes })
    }
}

impl Book {
    /// The owner of a good key of a suspended tenant, with no scope.
    pub fn suspended(&self, sent: &str) -> Option<Identity> {
        let entry = self.entry(Presented::parse(sent)?)?;
        let (tenant, key) = (entry.tenant.clone(), Some(entry.id.clone()));
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

    /// When keys were used last, of those where that is not filed.
    pub fn unfiled_use(&self) -> Vec<(KeyId, i64)> {
        let keys = self.keys.values().chain(self.declared.keys.values());
        let unfiled = keys.filter(|entry| entry.last_used_ms() > entry.row.last_used_ms);
        unfiled.filter_map(|entry| Some((entry.id.clone(), entry.last_used_ms()?))).collect()
    }

    /// Notes that it is filed when a key was used last.
    pub fn filed(&mut self, id: &KeyId, at_ms: i64) {
        for keys in [&mut self.keys, &mut self.declared.keys] {
            if let Some(entry) = keys.get_mut(id) {
                entry.row.last_used_ms = entry.row.last_used_ms.max(Some(at_ms));
            }
        }
    }

    /// What is known of a key that somebody has sent.
    fn entry(&self, presented: Presented<'_>) -> Option<&Entry> {
        let digest = presented.digest();
        let stored = self.keys.get(presented.id()).filter(|entry| entry.digest.is(&digest));
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
        let (id, used_ms) = (KeyId::from(row.id.as_str()), AtomicI64::new(NEVER));
        Some(Self { id, digest, scopes: Scopes::of(&scopes), tenant, row, policy, declared, used_ms })
    }

    /// It was used when the one was whose place it takes.
    #[must_use]
    pub fn used_like(mut self, known: Option<&Self>) -> Self {
        if let Some(known) = known {
            self.row.last_used_ms = self.row.last_used_ms.max(known.row.last_used_ms);
            self.used_ms = AtomicI64::new(known.used_ms.load(Ordering::Relaxed));
        }
        self
    }

    /// When it was used last, as far as that is known here.
    pub fn last_used_ms(&self) -> Option<i64> {
        let here = Some(self.used_ms.load(Ordering::Relaxed)).filter(|at_ms| *at_ms != NEVER);
        here.max(self.row.last_used_ms)
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
            last_used_ms: self.last_used_ms().map(i64::cast_unsigned),
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
