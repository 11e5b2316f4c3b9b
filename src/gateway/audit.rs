//! What administrators did, for those who look into it later.

use sluicegate_compat::native::{AuditEntry, AuditList, AuditTarget, ErrorCode, ErrorEnvelope};

use super::Gateway;
use crate::audit::{Act, Entry};
use crate::store::{AuditQuery, StoreError, signed};

/// Which actions are shown.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub from_ms: Option<u64>,
    /// Up to before it.
    pub to_ms: Option<u64>,
    /// The id of a key; or the word for who has acted without one.
    pub key: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    /// Actions of a page, at least 1.
    pub limit: usize,
    /// Those before the one with this id.
    pub before: Option<String>,
}

impl Gateway {
    /// Records how an action has ended, and returns once that is durable; where the database has gone away since it began, it is recorded
    /// when that is back.
    ///
    /// # Errors
    ///
    /// INTERNAL: what was done is done, and is not recorded.
    pub async fn acted(&self, act: &Act, status: u16) -> Result<(), ErrorEnvelope> {
        let entry = act.answered(status);
        let error = match self.store.acted(entry.clone()).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Away) => {
                self.store.acted_later(entry);
                return Ok(());
            }
            Err(error) => error,
        };
        let Entry { action, target, actor, api_key, .. } = entry;
        tracing::error!(action, target, actor, api_key, status, %error, "an action could not be recorded");
        let message = "what was asked for could not be recorded; look at how it stands";
        Err(ErrorEnvelope::new(ErrorCode::Internal, message))
    }

    /// A page of what was done, the last first.
    ///
    /// # Errors
    ///
    /// INTERNAL where the store does not say.
    pub async fn audit(&self, filter: AuditFilter) -> Result<AuditList, ErrorEnvelope> {
        let AuditFilter { from_ms, to_ms, key, action, target, limit, before } = filter;
        let query = AuditQuery {
            from_ms: signed(from_ms.unwrap_or(0)),
            to_ms: signed(to_ms.unwrap_or(u64::MAX)),
            actor: key,
            action,
            target,
            before,
            // One more, which says whether there is another page.
            most: signed(limit as u64 + 1),
        };
        let mut entries = self.store.audit(query).await.map_err(|error| {
            tracing::error!(%error, "the audit log cannot be read");
            error.away().unwrap_or_else(|| ErrorEnvelope::new(ErrorCode::Internal, "the audit log cannot be read now"))
        })?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next_cursor = entries.last().filter(|_| more).map(|entry| entry.id.clone());
        Ok(AuditList { entries: entries.into_iter().map(shown).collect(), next_cursor })
    }
}

fn shown(entry: Entry) -> AuditEntry {
    let some = |text: String| (!text.is_empty()).then_some(text);
    AuditEntry {
        id: entry.id,
        at_ms: entry.at_ms.cast_unsigned(),
        actor: entry.actor,
        key_id: some(entry.api_key),
        tenant_id: some(entry.tenant),
        action: entry.action,
        target: AuditTarget { kind: entry.kind, id: some(entry.target) },
        status: u16::try_from(entry.status).unwrap_or(0),
        client: some(entry.client),
        correlation_id: some(entry.correlation),
        // What cannot be read has changed nothing that could be shown.
        changes: serde_json::from_str(&entry.changes).unwrap_or_default(),
    }
}
