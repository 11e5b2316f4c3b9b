//! Changes of tenants and keys: made in the store, where nobody else has made another meanwhile, and then taken in.

use sluicegate_compat::native::{KeyPatch, KeyRequest, KeyView, Policy, Scope, TenantPatch, TenantRequest, TenantView};

use super::book::{Book, read};
use super::{ChangeError, Periods, Scopes, Secret, Tenants, unix_ms};
use crate::audit::Action;
use crate::ids::{KeyId, TenantId};
use crate::store::{ApiKeyRow, Changed, DEFAULT_TENANT, Home, TenantChange, TenantRow, signed};

/// How often a change is tried that others come before.
const TRIES: u32 = 8;

impl Tenants {
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_tenant(&self, request: &TenantRequest) -> Result<TenantView, ChangeError> {
        let _undeclared = self.declaring.read().await;
        if self.home(&request.id) == Home::Declared {
            return Err(ChangeError::Declared("tenant", request.id.clone()));
        }
        check_zones(&request.policy())?;
        self.refresh().await?;
        // Keys that were made for a tenant which was declared then.
        if self.read(|book| book.keys.values().any(|entry| entry.tenant.as_str() == request.id)) {
            return Err(ChangeError::Exists(request.id.clone()));
        }
        let row = TenantRow {
            id: request.id.clone(),
            name: request.name.clone(),
            weight: i64::from(request.weight.unwrap_or(1)),
            suspended: request.suspended.unwrap_or(false),
            created_ms: signed(unix_ms()),
            deleted: false,
            version: 0,
            policy: written(&request.policy()),
        };
        self.change(TenantChange::Tenant(row)).await.map_err(|error| match error {
            ChangeError::Meanwhile => ChangeError::Exists(request.id.clone()),
            other => other,
        })?;
        self.tenant(&request.id).ok_or_else(|| ChangeError::no_tenant(&request.id))
    }

    /// Changes a tenant as `patch` says, where it has the version `expected` or none is expected.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn change_tenant(&self, id: &str, expected: Option<i64>, patch: TenantPatch) -> Result<(), ChangeError> {
        check_zones(&patch.apply(&Policy::default()))?;
        self.alter_tenant(id, expected, |row| {
            if let Some(name) = &patch.name {
                row.name.clone_from(name);
            }
            row.weight = patch.weight.map_or(row.weight, i64::from);
            row.suspended = patch.suspended.unwrap_or(row.suspended);
            row.policy = written(&patch.apply(&read(&row.policy)));
        })
        .await
    }

    /// Removes a tenant, with all of its keys. One that a declared key is of has to stay. `expected` as in [`change_tenant`](Self::change_tenant).
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn delete_tenant(&self, id: &str, expected: Option<i64>) -> Result<(), ChangeError> {
        let _undeclared = self.declaring.read().await;
        let declared = |book: &Book| {
            book.declared.keys.iter().find(|(_, entry)| entry.tenant.as_str() == id).map(|(key, _)| key.to_string())
        };
        match self.read(declared) {
            Some(key) => Err(ChangeError::HasDeclared(id.to_owned(), key)),
            None => self.alter_tenant(id, expected, |row| row.deleted = true).await,
        }
    }

    pub(super) async fn alter_tenant(
        &self,
        id: &str,
        expected: Option<i64>,
        change: impl Fn(&mut TenantRow),
    ) -> Result<(), ChangeError> {
        self.try_again(expected, || {
            let mut row = self.stored_tenant(id)?;
            let version = row.version;
            change(&mut row);
            Ok((version, TenantChange::Tenant(row)))
        })
        .await
    }

    /// Makes a key. It is in what is returned, and nowhere else.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_key(&self, request: &KeyRequest) -> Result<(KeyView, Secret), ChangeError> {
        check_zones(&request.policy())?;
        let _undeclared = self.declaring.read().await;
        self.refresh().await?;
        if self.tenant(&request.tenant_id).is_none() {
            return Err(ChangeError::no_tenant(&request.tenant_id));
        }
        let secret = Secret::new()?;
        let row = ApiKeyRow {
            id: secret.id().to_string(),
            tenant_id: request.tenant_id.clone(),
            name: request.name.clone(),
            digest: secret.digest().to_string(),
            scopes: Scopes::of(&request.scopes).to_string(),
            expires_ms: request.expires_ms.map(signed),
            created_ms: signed(unix_ms()),
            last_used_ms: None,
            deleted: false,
            version: 0,
            policy: written(&request.policy()),
        };
        let home = self.home(&request.tenant_id);
        self.change(TenantChange::Key(row, home)).await.map_err(|error| match error {
            // Deleted just now.
            ChangeError::Meanwhile => ChangeError::no_tenant(&request.tenant_id),
            other => other,
        })?;
        // Or since.
        let view = self.key(secret.id().as_str()).ok_or_else(|| ChangeError::no_tenant(&request.tenant_id))?;
        Ok((view, secret))
    }

    /// Revokes a key: from here on it is not known. `expected` as in [`change_tenant`](Self::change_tenant).
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn revoke_key(&self, id: &str, expected: Option<i64>) -> Result<(), ChangeError> {
        self.alter_key(id, expected, |row| row.deleted = true).await
    }

    /// Changes a key as `patch` says. `expected` as in [`change_tenant`](Self::change_tenant).
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn change_key(&self, id: &str, expected: Option<i64>, patch: KeyPatch) -> Result<(), ChangeError> {
        check_zones(&patch.apply(&Policy::default()))?;
        self.alter_key(id, expected, |row| {
            if let Some(name) = &patch.name {
                row.name.clone_from(name);
            }
            if let Some(expires_ms) = patch.expires_ms {
                row.expires_ms = expires_ms.map(signed);
            }
            if let Some(scopes) = &patch.scopes {
                row.scopes = Scopes::of(scopes).to_string();
            }
            row.policy = written(&patch.apply(&read(&row.policy)));
        })
        .await
    }

    /// Makes another key in the place of one, which is good for `overlap_ms` more at most.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn rotate_key(
        &self,
        id: &str,
        expected: Option<i64>,
        overlap_ms: u64,
    ) -> Result<(KeyView, Secret), ChangeError> {
        let secret = Secret::new()?;
        let _undeclared = self.declaring.read().await;
        self.try_again(expected, || {
            let now_ms = signed(unix_ms());
            let mut old = self.stored_key(id)?;
            if old.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
                return Err(ChangeError::Expired);
            }
            let new = ApiKeyRow {
                id: secret.id().to_string(),
                digest: secret.digest().to_string(),
                created_ms: now_ms,
                last_used_ms: None,
                version: 0,
                ..old.clone()
            };
            let home = self.home(&old.tenant_id);
            let until = now_ms.saturating_add(signed(overlap_ms));
            old.expires_ms = Some(old.expires_ms.map_or(until, |at| at.min(until)));
            old.deleted = overlap_ms == 0;
            Ok((old.version, TenantChange::Rotation(Box::new((old, new)), home)))
        })
        .await?;
        let view = self.key(secret.id().as_str()).ok_or_else(|| ChangeError::no_key(secret.id().as_str()))?;
        Ok((view, secret))
    }

    async fn alter_key(
        &self,
        id: &str,
        expected: Option<i64>,
        change: impl Fn(&mut ApiKeyRow),
    ) -> Result<(), ChangeError> {
        self.try_again(expected, || {
            let mut row = self.stored_key(id)?;
            let version = row.version;
            change(&mut row);
            let home = self.home(&row.tenant_id);
            Ok((version, TenantChange::Key(row, home)))
        })
        .await
    }

    /// A tenant that can be changed.
    fn stored_tenant(&self, id: &str) -> Result<TenantRow, ChangeError> {
        let key = TenantId::from(id);
        self.read(|book| match book.declared.tenants.contains_key(&key) {
            true => Err(ChangeError::Declared("tenant", id.to_owned())),
            false => book.tenants.get(&key).map(|known| known.row.clone()).ok_or_else(|| ChangeError::no_tenant(id)),
        })
    }

    /// A key that can be changed.
    fn stored_key(&self, id: &str) -> Result<ApiKeyRow, ChangeError> {
        let key = KeyId::from(id);
        self.read(|book| match book.declared.keys.contains_key(&key) {
            true => Err(ChangeError::Declared("key", id.to_owned())),
            false => book.keys.get(&key).map(|entry| entry.row.clone()).ok_or_else(|| ChangeError::no_key(id)),
        })
    }

    fn home(&self, tenant: &str) -> Home {
        let declared = self.read(|book| book.declared.tenants.contains_key(&TenantId::from(tenant)));
        if declared { Home::Declared } else { Home::Stored }
    }

    /// Makes a change of what has a version, where that is `expected`. Without one, a change that comes after another is made to
    /// what that has left.
    async fn try_again(
        &self,
        expected: Option<i64>,
        change: impl Fn() -> Result<(i64, TenantChange), ChangeError>,
    ) -> Result<(), ChangeError> {
        let mut tries = if expected.is_some() { 1 } else { TRIES };
        loop {
            self.refresh().await?;
            let (version, change) = change()?;
            if expected.is_some_and(|expected| expected != version) {
                return Err(ChangeError::Meanwhile);
            }
            tries -= 1;
            match self.change(change).await {
                Err(ChangeError::Meanwhile) if tries > 0 => {}
                done => return done,
            }
        }
    }

    /// A key for everything, of the tenant `default`, which is made where it is missing; else as `request` has it.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_admin_key(&self, request: KeyRequest) -> Result<(KeyView, Secret), ChangeError> {
        self.refresh().await?;
        if self.tenant(DEFAULT_TENANT).is_none() {
            let tenant = TenantRequest { id: DEFAULT_TENANT.to_owned(), ..TenantRequest::default() };
            match self.beside(Action::CREATE_TENANT).create_tenant(&tenant).await {
                Ok(_) | Err(ChangeError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (tenant_id, scopes) = (DEFAULT_TENANT.to_owned(), Scope::ALL.to_vec());
        self.create_key(&KeyRequest { tenant_id, scopes, ..request }).await
    }

    pub(super) async fn change(&self, change: TenantChange) -> Result<(), ChangeError> {
        self.tell(&change);
        let changed = self.store.change_tenants(change).await?;
        self.refresh().await?;
        match changed {
            Changed::As(_) => Ok(()),
            Changed::Meanwhile => Err(ChangeError::Meanwhile),
        }
    }
}

/// Whether each budget is of a time zone that there is.
pub(super) fn check_zones(policy: &Policy) -> Result<(), ChangeError> {
    let mut each = policy.budgets.iter().enumerate();
    each.try_for_each(|(place, budget)| Periods::of(budget).map(drop).map_err(|error| ChangeError::Zone(place, error)))
}

/// As rows have it.
pub(super) fn written(policy: &Policy) -> String {
    // There is nothing in it that JSON has not.
    serde_json::to_string(policy).unwrap_or_else(|_| "{}".to_owned())
}
