//! What is recorded of a change of tenants and keys: the fields that are not as they were, and nothing of a key but its id.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Tenants;
use crate::audit::{Act, Action, difference};
use crate::ids::{KeyId, TenantId};
use crate::store::{ApiKeyRow, TenantChange, TenantRow};

impl Tenants {
    /// Says what is about to be changed to whoever records it.
    pub(super) fn tell(&self, change: &TenantChange) {
        let Some(act) = &self.act else { return };
        let (target, changes) = match change {
            TenantChange::Tenant(row) => {
                let id = TenantId::from(row.id.as_str());
                let before = self.read(|book| book.tenants.get(&id).map(|known| of_tenant(&known.row)));
                (&row.id, difference(&before.unwrap_or_default(), &of_tenant(row)))
            }
            TenantChange::Key(row, _) => (&row.id, self.difference(row)),
            TenantChange::Rotation(keys, _) => {
                let (old, new) = keys.as_ref();
                let mut changes = self.difference(old);
                changes.insert("new_key_id".to_owned(), json!({ "to": new.id }));
                (&old.id, changes)
            }
        };
        act.about(target);
        act.changes(changes);
    }

    /// The same, for another action of the same.
    pub(super) fn beside(&self, action: Action) -> Self {
        match &self.act {
            Some(act) => self.acting(&Arc::new(Act::beside(act, action))),
            None => self.clone(),
        }
    }

    fn difference(&self, row: &ApiKeyRow) -> Map<String, Value> {
        let id = KeyId::from(row.id.as_str());
        let before = self.read(|book| book.keys.get(&id).map(|entry| of_key(&entry.row)));
        difference(&before.unwrap_or_default(), &of_key(row))
    }
}

pub(super) fn of_tenant(row: &TenantRow) -> Map<String, Value> {
    let fields = json!({ "name": row.name, "weight": row.weight, "suspended": row.suspended });
    whole(row.deleted, fields, &row.policy)
}

pub(super) fn of_key(row: &ApiKeyRow) -> Map<String, Value> {
    let scopes: Vec<_> = row.scopes.split(' ').collect();
    let fields =
        json!({ "tenant_id": row.tenant_id, "name": row.name, "scopes": scopes, "expires_ms": row.expires_ms });
    whole(row.deleted, fields, &row.policy)
}

/// Nothing where it is deleted.
fn whole(deleted: bool, fields: Value, policy: &str) -> Map<String, Value> {
    let policy = serde_json::from_str(policy).unwrap_or_default();
    match fields {
        Value::Object(fields) if !deleted => fields.into_iter().chain::<Map<String, Value>>(policy).collect(),
        _ => Map::new(),
    }
}
