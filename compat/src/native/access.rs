//! Tenants and API keys as administrators see them and ask for them.

use serde::{Deserialize, Deserializer, Serialize};

use super::request::{Violation, ensure};
use super::{Budget, BudgetView, ErrorEnvelope, Policy, Priority, RateLimits};
use crate::json::{object, objects};

/// How an API key begins; its id comes next.
pub const API_KEY_PREFIX: &str = "sk-sg-";

/// Hexadecimal digits of the id of a key, which is no secret.
pub const API_KEY_ID_DIGITS: usize = 16;

/// A tenant has at most this weight.
const HEAVIEST: u32 = 1_000_000;

/// How long two keys may be good for one: a year, in ms.
const LONGEST_OVERLAP_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Tasks, in every dialect, and what belongs to them.
    Infer,
    /// Looking, and changing nothing.
    Read,
    /// Pools, the catalog, workers, tenants and keys.
    Admin,
    /// `GET /metrics`.
    Metrics,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Infer, Self::Read, Self::Admin, Self::Metrics];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// The body of `POST /v2/admin/tenants`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TenantRequest {
    /// 1 to 64 letters, digits, dots, underscores and hyphens, and not dots alone.
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    /// Beside other tenants in the queue; 1 where nothing is said.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Whether it is refused whatever it asks.
    #[serde(default)]
    pub suspended: Option<bool>,
    /// No task has more.
    #[serde(default)]
    pub priority_ceiling: Option<Priority>,
    /// Of tasks whose request names none.
    #[serde(default)]
    pub default_priority: Option<Priority>,
    /// By any of their names; all where nothing is said.
    #[serde(default)]
    pub allowed_models: Option<Vec<String>>,
    #[serde(default, deserialize_with = "object")]
    pub limits: Option<RateLimits>,
    #[serde(default, deserialize_with = "objects")]
    pub budgets: Option<Vec<Budget>>,
}

/// The body of `GET /v2/admin/tenants/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantView {
    pub id: String,
    pub name: Option<String>,
    pub weight: u32,
    pub suspended: bool,
    pub priority_ceiling: Option<Priority>,
    pub default_priority: Option<Priority>,
    pub allowed_models: Option<Vec<String>>,
    pub limits: RateLimits,
    pub budgets: Vec<BudgetView>,
    pub created_ms: u64,
    /// In the configuration, and changed there alone.
    pub declared: bool,
}

/// The body of `GET /v2/admin/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantList {
    pub tenants: Vec<TenantView>,
}

/// The body of `PATCH /v2/admin/tenants/{id}`: what is not there stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TenantPatch {
    /// Null takes it away.
    #[serde(default, deserialize_with = "said")]
    pub name: Option<Option<String>>,
    #[serde(default)]
    pub weight: Option<u32>,
    #[serde(default)]
    pub suspended: Option<bool>,
    /// Null takes it away, as below.
    #[serde(default, deserialize_with = "said")]
    pub priority_ceiling: Option<Option<Priority>>,
    #[serde(default, deserialize_with = "said")]
    pub default_priority: Option<Option<Priority>>,
    #[serde(default, deserialize_with = "said")]
    pub allowed_models: Option<Option<Vec<String>>>,
    /// All of them as they are to be.
    #[serde(default, deserialize_with = "said_object")]
    pub limits: Option<Option<RateLimits>>,
    /// All of them as they are to be; null takes them away.
    #[serde(default, deserialize_with = "said_objects")]
    pub budgets: Option<Option<Vec<Budget>>>,
}

/// The body of `POST /v2/admin/keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct KeyRequest {
    pub tenant_id: String,
    pub scopes: Vec<Scope>,
    #[serde(default)]
    pub name: Option<String>,
    /// A Unix time in ms from which on it is good for nothing.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// By any of their names; all that the tenant may use where nothing is said.
    #[serde(default)]
    pub allowed_models: Option<Vec<String>>,
    #[serde(default)]
    pub allowed_pools: Option<Vec<String>>,
    /// Beside those of the tenant.
    #[serde(default, deserialize_with = "object")]
    pub limits: Option<RateLimits>,
    #[serde(default, deserialize_with = "objects")]
    pub budgets: Option<Vec<Budget>>,
}

/// The body of `GET /v2/admin/keys/{id}`: a key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyView {
    pub id: String,
    pub tenant_id: String,
    pub name: Option<String>,
    pub scopes: Vec<Scope>,
    pub expires_ms: Option<u64>,
    pub allowed_models: Option<Vec<String>>,
    pub allowed_pools: Option<Vec<String>>,
    pub limits: RateLimits,
    pub budgets: Vec<BudgetView>,
    pub created_ms: u64,
    /// To within a minute; null where it was never used.
    pub last_used_ms: Option<u64>,
    /// In the configuration, and changed there alone.
    pub declared: bool,
}

/// The body of `GET /v2/admin/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyList {
    pub keys: Vec<KeyView>,
}

/// The body of the answer that a new key is shown in, this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewKey {
    #[serde(flatten)]
    pub view: KeyView,
    pub key: String,
}

/// The body of `PATCH /v2/admin/keys/{id}`: what is not there stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct KeyPatch {
    /// Null takes it away.
    #[serde(default, deserialize_with = "said")]
    pub name: Option<Option<String>>,
    #[serde(default)]
    pub scopes: Option<Vec<Scope>>,
    /// Null: it is good until it is revoked.
    #[serde(default, deserialize_with = "said")]
    pub expires_ms: Option<Option<u64>>,
    /// Null takes it away, as below.
    #[serde(default, deserialize_with = "said")]
    pub allowed_models: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "said")]
    pub allowed_pools: Option<Option<Vec<String>>>,
    /// All of them as they are to be.
    #[serde(default, deserialize_with = "said_object")]
    pub limits: Option<Option<RateLimits>>,
    /// All of them as they are to be; null takes them away.
    #[serde(default, deserialize_with = "said_objects")]
    pub budgets: Option<Option<Vec<Budget>>>,
}

/// The body of `POST /v2/admin/keys/{id}/rotate`, where there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct RotateRequest {
    /// How long the old key stays good, in ms; 0 where nothing is said.
    #[serde(default)]
    pub overlap_ms: Option<u64>,
}

/// A field that is there, null or not.
fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// As [`said`], of an object.
fn said_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    object(field).map(Some)
}

/// As [`said`], of a list of objects.
fn said_objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<Option<Vec<T>>>, D::Error> {
    objects(field).map(Some)
}

impl TenantPatch {
    /// As [`TenantRequest::parse`].
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let patch: Self = crate::json::parse_known(body)?;
        let weight = check_weight(patch.weight);
        let policy = patch.apply(&Policy::default()).check();
        check_name(patch.name.as_ref().and_then(Option::as_deref)).and(weight).and(policy).map_err(refused)?;
        Ok(patch)
    }

    /// The policy of a tenant that had this one.
    pub fn apply(&self, policy: &Policy) -> Policy {
        let Policy { priority_ceiling, default_priority, allowed_models, allowed_pools, limits, budgets } =
            policy.clone();
        Policy {
            priority_ceiling: self.priority_ceiling.unwrap_or(priority_ceiling),
            default_priority: self.default_priority.unwrap_or(default_priority),
            allowed_models: self.allowed_models.clone().unwrap_or(allowed_models),
            allowed_pools,
            limits: self.limits.map_or(limits, Option::unwrap_or_default),
            budgets: self.budgets.clone().map_or(budgets, Option::unwrap_or_default),
        }
    }
}

impl KeyPatch {
    /// As [`TenantRequest::parse`].
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let patch: Self = crate::json::parse_known(body)?;
        let scopes = patch.scopes.as_deref().map_or(Ok(()), check_scopes);
        let policy = patch.apply(&Policy::default()).check();
        check_name(patch.name.as_ref().and_then(Option::as_deref)).and(scopes).and(policy).map_err(refused)?;
        Ok(patch)
    }

    /// The policy of a key that had this one.
    pub fn apply(&self, policy: &Policy) -> Policy {
        let Policy { priority_ceiling, default_priority, allowed_models, allowed_pools, limits, budgets } =
            policy.clone();
        Policy {
            priority_ceiling,
            default_priority,
            allowed_models: self.allowed_models.clone().unwrap_or(allowed_models),
            allowed_pools: self.allowed_pools.clone().unwrap_or(allowed_pools),
            limits: self.limits.map_or(limits, Option::unwrap_or_default),
            budgets: self.budgets.clone().map_or(budgets, Option::unwrap_or_default),
        }
    }
}

impl RotateRequest {
    /// As [`TenantRequest::parse`]; no body says nothing.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = if body.is_empty() { Self::default() } else { crate::json::parse_known(body)? };
        let overlap = request.overlap_ms.is_none_or(|overlap_ms| overlap_ms <= LONGEST_OVERLAP_MS);
        ensure(overlap, "overlap_ms", "0 to 31536000000").map_err(refused)?;
        Ok(request)
    }
}

impl TenantRequest {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Violation> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        // What is nothing but dots is no part of a path.
        let is_dots = self.id.bytes().all(|byte| byte == b'.');
        let is_id = (1..=64).contains(&self.id.len()) && self.id.bytes().all(letter) && !is_dots;
        ensure(is_id, "id", "1 to 64 letters, digits, dots, underscores and hyphens, and not dots alone")?;
        check_name(self.name.as_deref())?;
        check_weight(self.weight)?;
        self.policy().check()
    }

    /// What the tenant may ask for.
    pub fn policy(&self) -> Policy {
        Policy {
            priority_ceiling: self.priority_ceiling,
            default_priority: self.default_priority,
            allowed_models: self.allowed_models.clone(),
            allowed_pools: None,
            limits: self.limits.unwrap_or_default(),
            budgets: self.budgets.clone().unwrap_or_default(),
        }
    }

    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        request.check().map_err(refused)?;
        Ok(request)
    }
}

impl KeyRequest {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Violation> {
        check_scopes(&self.scopes)?;
        check_name(self.name.as_deref())?;
        self.policy().check()
    }

    /// What who has the key may ask for.
    pub fn policy(&self) -> Policy {
        Policy {
            allowed_models: self.allowed_models.clone(),
            allowed_pools: self.allowed_pools.clone(),
            limits: self.limits.unwrap_or_default(),
            budgets: self.budgets.clone().unwrap_or_default(),
            ..Policy::default()
        }
    }

    /// As [`TenantRequest::parse`].
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        request.check().map_err(refused)?;
        Ok(request)
    }
}

fn check_weight(weight: Option<u32>) -> Result<(), Violation> {
    ensure(weight.is_none_or(|weight| (1..=HEAVIEST).contains(&weight)), "weight", "1 to 1,000,000")
}

fn check_scopes(scopes: &[Scope]) -> Result<(), Violation> {
    ensure(!scopes.is_empty(), "scopes", "at least one of infer, read, admin and metrics")
}

fn check_name(name: Option<&str>) -> Result<(), Violation> {
    let fits = name.is_none_or(|name| (1..=256).contains(&name.len()) && !name.chars().any(char::is_control));
    ensure(fits, "name", "1 to 256 bytes, without control characters")?;
    // It would be shown to whoever lists them.
    ensure(name.is_none_or(|name| !name.contains(API_KEY_PREFIX)), "name", "an API key is no name")
}

fn refused(violation: Violation) -> ErrorEnvelope {
    let message = format!("`{}`: {}", violation.param, violation.message);
    ErrorEnvelope::invalid(violation.param, message)
}
