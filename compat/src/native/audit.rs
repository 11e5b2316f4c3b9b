//! What administrators did, as other administrators see it.

use serde::Serialize;
use serde_json::{Map, Value};

/// The body of `GET /v2/admin/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditList {
    /// The last first.
    pub entries: Vec<AuditEntry>,
    /// For the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// A UUID; ids are in the order of time.
    pub id: String,
    pub at_ms: u64,
    /// `key`, or who has acted without one: `loopback`, `cli`, `startup`, `configuration`.
    pub actor: String,
    pub key_id: Option<String>,
    /// Of the key.
    pub tenant_id: Option<String>,
    /// Such as `tenant.create`.
    pub action: String,
    pub target: AuditTarget,
    /// How it was answered, as a status of HTTP.
    pub status: u16,
    /// The address that it came from.
    pub client: Option<String>,
    pub correlation_id: Option<String>,
    /// What has changed; empty where it was refused.
    pub changes: Map<String, Value>,
}

/// What something was done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditTarget {
    pub kind: String,
    /// Null where the request named none.
    pub id: Option<String>,
}
