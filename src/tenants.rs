//! Tenants and API keys: who asks, and what they may.
//!
//! Everything is in memory, and what a request needs of it is one look-up and one hash. The store has it for the next process, and
//! for other processes on the same store: each change has a number there, and [`Tenants::refresh`] takes in those that are new.
//! A change that is made here holds from before it is answered.
//!
//! As long as there has never been a key, nobody has to have one: everybody is the tenant `default` and may do everything. That
//! is for programs on one machine; who listens elsewhere asks [`Tenants::is_open`] first.

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, KeyView, Policy, RateLimits, Scope, TenantView, detail};

use crate::audit::Act;
use crate::budgets::{NoSuchZone, Owner, Periods};
use crate::clock::unix_ms;
use crate::ids::{KeyId, TenantId};
use crate::store::{DEFAULT_TENANT, Store, StoreError};

mod book;
mod change;
mod declared;
mod facts;
mod key;
mod scopes;

use book::{Book, Entry, Known};
pub use declared::{Declaration, Declarations, DeclareError, DeclaredKey};
pub use key::{KeyDigest, NotRandom, Secret};
pub use scopes::Scopes;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub tenant: TenantId,
    /// The tenant's weight beside others.
    pub weight: NonZeroU32,
    /// Nobody's while there are no keys.
    pub key: Option<KeyId>,
    pub rights: Rights,
    scopes: Scopes,
}

/// What somebody may ask for: what both of these allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    pub tenant: Arc<Policy>,
    pub key: Arc<Policy>,
}

impl Rights {
    /// Whether a model or pool with one of these names may be used, as far as these lists go.
    fn allow(&self, list: impl Fn(&Policy) -> Option<&[String]>, names: &[&str]) -> bool {
        [&self.tenant, &self.key].into_iter().all(|policy| Policy::allows(list(policy), names))
    }

    /// Whether a model with these names may be asked.
    pub fn allow_model(&self, names: &[&str]) -> bool {
        self.allow(|policy| policy.allowed_models.as_deref(), names)
    }

    /// The limits that hold: of the key, else of the tenant, else `default`.
    pub fn limits(&self, default: RateLimits) -> RateLimits {
        self.key.limits.or(self.tenant.limits).or(default)
    }

    /// The pools that tasks may run in, where not all may.
    pub fn pools(&self) -> Option<&[String]> {
        self.key.allowed_pools.as_deref()
    }
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
    /// It is as the configuration has it.
    #[error("the {0} {1:?} is declared in the configuration; change it there")]
    Declared(&'static str, String),
    #[error("the key {1:?} of the tenant {0:?} is declared in the configuration; take it out there first")]
    HasDeclared(String, String),
    #[error("the key has expired: make another one")]
    Expired,
    /// It is not, or is no longer, as whoever changes it has seen it.
    #[error("somebody else has changed it meanwhile; look at it again")]
    Meanwhile,
    /// Of the budget with this place in its list.
    #[error("`budgets[{0}].timezone`: {1}")]
    Zone(usize, NoSuchZone),
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

/// All of them; cheap to clone.
#[derive(Clone)]
pub struct Tenants {
    store: Store,
    book: Arc<RwLock<Book>>,
    /// One takes in changes at a time, so that none comes in before an earlier one.
    refreshing: Arc<tokio::sync::Mutex<()>>,
    /// Held by who declares; and by others while they make, or remove, what could be declared at the same moment.
    declaring: Arc<tokio::sync::RwLock<()>>,
    /// What is changed with this handle is part of it.
    act: Option<Arc<Act>>,
}

impl From<ChangeError> for ErrorEnvelope {
    /// As administrators are told it.
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NoSuchTenant(_) | ChangeError::NoSuchKey(_) => Self::new(ErrorCode::NotFound, message),
            ChangeError::Zone(place, _) => Self::invalid(format!("budgets[{place}].timezone"), message),
            ChangeError::Exists(_)
            | ChangeError::Declared(..)
            | ChangeError::HasDeclared(..)
            | ChangeError::Expired => Self::new(ErrorCode::Conflict, message),
            ChangeError::Meanwhile => Self::new(ErrorCode::Conflict, message).with_detail(detail::PRECONDITION_FAILED),
            ChangeError::Store(StoreError::Away) => {
                StoreError::Away.away().unwrap_or_else(|| Self::new(ErrorCode::Internal, message))
            }
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
        Self {
            tenant: DEFAULT_TENANT.into(),
            weight: NonZeroU32::MIN,
            key: None,
            rights: Rights::default(),
            scopes: Scopes::ALL,
        }
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
        let tenants =
            Self { store, book: Arc::default(), refreshing: Arc::default(), declaring: Arc::default(), act: None };
        tenants.refresh().await?;
        Ok(tenants)
    }

    /// The same, for an action of an administrator: what is changed with it is recorded together with that.
    #[must_use]
    pub fn acting(&self, act: &Arc<Act>) -> Self {
        Self { act: Some(Arc::clone(act)), store: self.store.acting(act), ..self.clone() }
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
        self.read(|book| {
            if !book.closed {
                return Ok(Identity::anybody());
            }
            book.identify(sent.ok_or(Denied::Missing)?, now_ms)
        })
    }

    /// What a tenant or a key may ask for; everything, where it is not known, and where nobody has to have a key.
    pub fn policy(&self, of: &Owner) -> Arc<Policy> {
        self.read(|book| {
            let policy = match of {
                _ if !book.closed => None,
                Owner::Tenant(id) => book.tenant(id).map(|known| &known.policy),
                Owner::Key(_, id) => book.key(id).map(|entry| &entry.policy),
            };
            policy.map(Arc::clone).unwrap_or_default()
        })
    }

    /// Who has a key that was refused because its tenant is suspended: it may do nothing.
    pub fn suspended(&self, sent: &str) -> Option<Identity> {
        self.read(|book| book.suspended(sent))
    }

    /// Files when keys were used last. Called now and then.
    pub fn file_use(&self) {
        let unfiled = self.read(Book::unfiled_use);
        if unfiled.is_empty() {
            return;
        }
        let rows = unfiled.iter().map(|(key, at_ms)| (key.to_string(), *at_ms)).collect();
        {
            let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
            for (key, at_ms) in unfiled {
                book.filed(&key, at_ms);
            }
        }
        self.store.keys_used(rows);
    }

    /// By their ids.
    pub fn tenants(&self) -> Vec<TenantView> {
        let mut views: Vec<_> = self.read(|book| book.each_tenant().map(Known::shown).collect());
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    pub fn tenant(&self, id: &str) -> Option<TenantView> {
        self.versioned_tenant(id).map(|tenant| tenant.what)
    }

    /// With its version.
    pub fn versioned_tenant(&self, id: &str) -> Option<Versioned<TenantView>> {
        let versioned = |known: &Known| Versioned { what: known.shown(), version: known.row.version };
        self.read(|book| book.tenant(&TenantId::from(id)).map(versioned))
    }

    /// By their ids; of one tenant, or of all.
    pub fn keys(&self, tenant: Option<&str>) -> Vec<KeyView> {
        let of = |entry: &&Entry| tenant.is_none_or(|tenant| entry.tenant.as_str() == tenant);
        let mut views: Vec<_> = self.read(|book| book.each_key().filter(of).map(Entry::shown).collect());
        views.sort_by(|a, b| a.created_ms.cmp(&b.created_ms).then_with(|| a.id.cmp(&b.id)));
        views
    }

    pub fn key(&self, id: &str) -> Option<KeyView> {
        self.versioned_key(id).map(|key| key.what)
    }

    /// With its version.
    pub fn versioned_key(&self, id: &str) -> Option<Versioned<KeyView>> {
        let versioned = |entry: &Entry| Versioned { what: entry.shown(), version: entry.row.version };
        self.read(|book| book.key(&KeyId::from(id)).map(versioned))
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
