//! Tenants and API keys: who asks, and what they may.
//!
//! Everything is in memory, and what a request needs of it is one look-up and one hash. The store has it for the next process, and
//! for other processes on the same store: each change has a number there, and [`Tenants::refresh`] takes in those that are new.
//! A change that is made here holds from before it is answered.
//!
//! As long as there has never been a key, nobody has to have one: everybody is the tenant `default` and may do everything. That
//! is for programs on one machine; who listens elsewhere asks [`Tenants::is_open`] first.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use sluicegate_compat::native::{
    ErrorCode, ErrorEnvelope, KeyPatch, KeyRequest, KeyView, Scope, TenantPatch, TenantRequest, TenantView, detail,
};

use crate::ids::{KeyId, TenantId};
use crate::store::{ApiKeyRow, Changed, DEFAULT_TENANT, Store, StoreError, TenantChange, TenantRow, signed};

mod book;
mod key;
mod scopes;

use book::{Book, Entry, shown};
pub use key::{KeyDigest, NotRandom, Secret};
pub use scopes::Scopes;

/// How often a change is tried that others come before.
const TRIES: u32 = 8;

/// Keys that have been used since that was last filed: more than any gateway sees in between.
const MOST_USED: usize = 100_000;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub tenant: TenantId,
    /// The tenant's weight beside others.
    pub weight: NonZeroU32,
    /// Nobody's while there are no keys.
    pub key: Option<KeyId>,
    scopes: Scopes,
}

/// Something with the number of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    pub what: T,
    pub version: i64,
}

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("this gateway wants an API key: `Authorization: Bearer sk-sg-…`, `X-API-Key` or `api-key`")]
    Missing,
    #[error("this is no key of this gateway: it was cut, mistyped, or made for something else")]
    Malformed,
    /// It was never there, or was deleted.
    #[error("the API key is not known, or was revoked")]
    Unknown,
    #[error("the API key has expired")]
    Expired,
    #[error("the tenant of this API key is suspended")]
    Suspended,
}

/// Why something was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no tenant {0:?}")]
    NoSuchTenant(String),
    #[error("there is no key {0:?}")]
    NoSuchKey(String),
    /// Or there was one: what belonged to it is nobody else's.
    #[error("there is, or was, a tenant {0:?}")]
    Exists(String),
    #[error("the key has expired: make another one")]
    Expired,
    /// It is not, or is no longer, as whoever changes it has seen it.
    #[error("somebody else has changed it meanwhile; look at it again")]
    Meanwhile,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Random(#[from] NotRandom),
}

impl ChangeError {
    pub fn no_tenant(id: &str) -> Self {
        Self::NoSuchTenant(shortened(id))
    }

    pub fn no_key(id: &str) -> Self {
        Self::NoSuchKey(shortened(id))
    }
}

/// As much of it as a message needs.
fn shortened(id: &str) -> String {
    id.chars().take(64).collect()
}

/// All of them.
pub struct Tenants {
    store: Store,
    book: RwLock<Book>,
    /// When keys were used last, where that is not filed yet.
    used: Mutex<HashMap<KeyId, u64>>,
    /// One takes in changes at a time, so that none comes in before an earlier one.
    refreshing: tokio::sync::Mutex<()>,
}

impl From<ChangeError> for ErrorEnvelope {
    /// As administrators are told it.
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NoSuchTenant(_) | ChangeError::NoSuchKey(_) => Self::new(ErrorCode::NotFound, message),
            ChangeError::Exists(_) | ChangeError::Expired => Self::new(ErrorCode::Conflict, message),
            ChangeError::Meanwhile => Self::new(ErrorCode::Conflict, message).with_detail(detail::PRECONDITION_FAILED),
            ChangeError::Store(_) | ChangeError::Random(_) => {
                tracing::error!(%message, "tenants and keys cannot be changed");
                Self::new(ErrorCode::Internal, "this cannot be stored now")
            }
        }
    }
}

impl Identity {
    /// Everybody, while there are no keys.
    pub fn anybody() -> Self {
        Self { tenant: DEFAULT_TENANT.into(), weight: NonZeroU32::MIN, key: None, scopes: Scopes::ALL }
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }
}

impl Tenants {
    /// Reads what is stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let (book, used, refreshing) = (RwLock::default(), Mutex::default(), tokio::sync::Mutex::default());
        let tenants = Self { store, book, used, refreshing };
        tenants.refresh().await?;
        Ok(tenants)
    }

    /// Takes in what has changed, here or in another process.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what is known stays known.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let since = self.read(|book| book.version);
        let (tenants, keys) = self.store.tenants_since(since).await?;
        if tenants.is_empty() && keys.is_empty() {
            return Ok(());
        }
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        tenants.into_iter().for_each(|row| book.take_tenant(row));
        keys.into_iter().for_each(|row| book.take_key(row));
        Ok(())
    }

    /// Whether nobody has to have a key, because there has never been one.
    pub fn is_open(&self) -> bool {
        self.read(|book| !book.closed)
    }

    /// Who has sent this key, or none.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub fn identify(&self, sent: Option<&str>) -> Result<Identity, Denied> {
        let now_ms = unix_ms();
        let identity = self.read(|book| {
            if !book.closed {
                return Ok(Identity::anybody());
            }
            book.identify(sent.ok_or(Denied::Missing)?, now_ms)
        })?;
        if let Some(key) = &identity.key {
            let mut used = self.used();
            if used.len() < MOST_USED || used.contains_key(key) {
                used.insert(key.clone(), now_ms);
            }
        }
        Ok(identity)
    }

    /// Files when keys were used last. Called now and then.
    pub fn file_use(&self) {
        let used = std::mem::take(&mut *self.used());
        if used.is_empty() {
            return;
        }
        let rows = used.iter().map(|(key, at_ms)| (key.to_string(), signed(*at_ms))).collect();
        {
            let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
            for (key, at_ms) in used {
                if let Some(entry) = book.keys.get_mut(&key) {
                    entry.row.last_used_ms = Some(signed(at_ms));
                }
            }
        }
        self.store.keys_used(rows);
    }

    /// By their ids.
    pub fn tenants(&self) -> Vec<TenantView> {
        let mut views: Vec<_> = self.read(|book| book.tenants.values().map(shown).collect());
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    pub fn tenant(&self, id: &str) -> Option<TenantView> {
        self.versioned_tenant(id).map(|tenant| tenant.what)
    }

    /// With its version.
    pub fn versioned_tenant(&self, id: &str) -> Option<Versioned<TenantView>> {
        let versioned = |row: &TenantRow| Versioned { what: shown(row), version: row.version };
        self.read(|book| book.tenants.get(&TenantId::from(id)).map(versioned))
    }

    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_tenant(&self, request: &TenantRequest) -> Result<TenantView, ChangeError> {
        let row = TenantRow {
            id: request.id.clone(),
            name: request.name.clone(),
            weight: i64::from(request.weight.unwrap_or(1)),
            suspended: request.suspended.unwrap_or(false),
            created_ms: signed(unix_ms()),
            deleted: false,
            version: 0,
        };
        self.change(TenantChange::Tenant(row)).await.map_err(|error| match error {
            ChangeError::Meanwhile => ChangeError::Exists(request.id.clone()),
            other => other,
        })?;
        self.tenant(&request.id).ok_or(ChangeError::Meanwhile)
    }

    /// Changes a tenant as `patch` says, where it has the version `expected` or none is expected.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn change_tenant(&self, id: &str, expected: Option<i64>, patch: TenantPatch) -> Result<(), ChangeError> {
        self.alter_tenant(id, expected, |row| {
            if let Some(name) = &patch.name {
                row.name.clone_from(name);
            }
            row.weight = patch.weight.map_or(row.weight, i64::from);
            row.suspended = patch.suspended.unwrap_or(row.suspended);
        })
        .await
    }

    /// Removes a tenant, with all of its keys. `expected` as in [`change_tenant`](Self::change_tenant).
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn delete_tenant(&self, id: &str, expected: Option<i64>) -> Result<(), ChangeError> {
        self.alter_tenant(id, expected, |row| row.deleted = true).await
    }

    async fn alter_tenant(
        &self,
        id: &str,
        expected: Option<i64>,
        change: impl Fn(&mut TenantRow),
    ) -> Result<(), ChangeError> {
        self.try_again(expected, || {
            let row = self.read(|book| book.tenants.get(&TenantId::from(id)).cloned());
            let mut row = row.ok_or_else(|| ChangeError::no_tenant(id))?;
            let version = row.version;
            change(&mut row);
            Ok((version, TenantChange::Tenant(row)))
        })
        .await
    }

    /// By their ids; of one tenant, or of all.
    pub fn keys(&self, tenant: Option<&str>) -> Vec<KeyView> {
        let of = |entry: &&Entry| tenant.is_none_or(|tenant| entry.tenant.as_str() == tenant);
        let mut views: Vec<_> = self.read(|book| book.keys.values().filter(of).map(Entry::shown).collect());
        views.sort_by(|a, b| a.created_ms.cmp(&b.created_ms).then_with(|| a.id.cmp(&b.id)));
        views
    }

    pub fn key(&self, id: &str) -> Option<KeyView> {
        self.versioned_key(id).map(|key| key.what)
    }

    /// With its version.
    pub fn versioned_key(&self, id: &str) -> Option<Versioned<KeyView>> {
        let versioned = |entry: &Entry| Versioned { what: entry.shown(), version: entry.row.version };
        self.read(|book| book.keys.get(&KeyId::from(id)).map(versioned))
    }

    /// Makes a key. It is in what is returned, and nowhere else.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_key(&self, request: &KeyRequest) -> Result<(KeyView, Secret), ChangeError> {
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
        };
        self.change(TenantChange::Key(row)).await.map_err(|error| match error {
            // Deleted just now.
            ChangeError::Meanwhile => ChangeError::no_tenant(&request.tenant_id),
            other => other,
        })?;
        let view = self.key(secret.id().as_str()).ok_or(ChangeError::Meanwhile)?;
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
        self.try_again(expected, || {
            let now_ms = signed(unix_ms());
            let row = self.read(|book| book.keys.get(&KeyId::from(id)).map(|entry| entry.row.clone()));
            let mut old = row.ok_or_else(|| ChangeError::no_key(id))?;
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
            let until = now_ms.saturating_add(signed(overlap_ms));
            old.expires_ms = Some(old.expires_ms.map_or(until, |at| at.min(until)));
            old.deleted = overlap_ms == 0;
            Ok((old.version, TenantChange::Rotation(Box::new((old, new)))))
        })
        .await?;
        let view = self.key(secret.id().as_str()).ok_or(ChangeError::Meanwhile)?;
        Ok((view, secret))
    }

    async fn alter_key(
        &self,
        id: &str,
        expected: Option<i64>,
        change: impl Fn(&mut ApiKeyRow),
    ) -> Result<(), ChangeError> {
        self.try_again(expected, || {
            let row = self.read(|book| book.keys.get(&KeyId::from(id)).map(|entry| entry.row.clone()));
            let mut row = row.ok_or_else(|| ChangeError::no_key(id))?;
            let version = row.version;
            change(&mut row);
            Ok((version, TenantChange::Key(row)))
        })
        .await
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

    /// A key for everything, of the tenant `default`, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// [`ChangeError`].
    pub async fn create_admin_key(
        &self,
        name: Option<String>,
        expires_ms: Option<u64>,
    ) -> Result<(KeyView, Secret), ChangeError> {
        self.refresh().await?;
        if self.tenant(DEFAULT_TENANT).is_none() {
            let tenant = TenantRequest { id: DEFAULT_TENANT.to_owned(), ..TenantRequest::default() };
            match self.create_tenant(&tenant).await {
                Ok(_) | Err(ChangeError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (tenant_id, scopes) = (DEFAULT_TENANT.to_owned(), Scope::ALL.to_vec());
        self.create_key(&KeyRequest { tenant_id, scopes, name, expires_ms }).await
    }

    async fn change(&self, change: TenantChange) -> Result<(), ChangeError> {
        let changed = self.store.change_tenants(change).await?;
        self.refresh().await?;
        match changed {
            Changed::As(_) => Ok(()),
            Changed::Meanwhile => Err(ChangeError::Meanwhile),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn used(&self) -> MutexGuard<'_, HashMap<KeyId, u64>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
