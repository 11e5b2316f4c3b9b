//! Tenants and keys that the configuration declares. They are in no store, hold as long as they stand there, and are changed there
//! alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use serde_json::{Map, Value};
use sluicegate_compat::native::{KeyRequest, TenantRequest};

use super::book::{self, Book, Known};
use super::change::{check_zones, written};
use super::facts::{of_key, of_tenant};
use super::{KeyDigest, Scopes, Tenants, unix_ms};
use crate::audit::{Act, Action, Actor, Entry, difference};
use crate::ids::{KeyId, TenantId};
use crate::store::{ApiKeyRow, DeclaredRow, StoreError, TenantRow, signed};

/// What a configuration declares.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declarations {
    pub tenants: Vec<Declaration<TenantRequest>>,
    pub keys: Vec<Declaration<DeclaredKey>>,
}

/// Something that is declared, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration<T> {
    pub what: T,
    /// For messages: file, line and key.
    pub place: String,
}

/// A key, of which nobody here knows more than its digest.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredKey {
    pub id: String,
    pub digest: KeyDigest,
    pub request: KeyRequest,
}

/// Why declarations do not hold: nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Each with its place.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
}

/// What is declared now.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub tenants: HashMap<TenantId, Known>,
    pub keys: HashMap<KeyId, book::Entry>,
    by_digest: HashMap<KeyDigest, KeyId>,
}

impl Declared {
    pub fn with_digest(&self, digest: &KeyDigest) -> Option<&book::Entry> {
        self.keys.get(self.by_digest.get(digest)?)
    }

    fn of(declarations: &Declarations, before: &Self) -> Self {
        let now_ms = signed(unix_ms());
        let mut declared = Self::default();
        for Declaration { what: request, .. } in &declarations.tenants {
            let id = TenantId::from(request.id.as_str());
            let created_ms = before.tenants.get(&id).map_or(now_ms, |known| known.row.created_ms);
            declared.tenants.insert(id, Known::of(tenant_row(request, created_ms), true));
        }
        for Declaration { what: key, .. } in &declarations.keys {
            let id = KeyId::from(key.id.as_str());
            let known = before.keys.get(&id);
            let created_ms = known.map_or(now_ms, |entry| entry.row.created_ms);
            if let Some(entry) = book::Entry::of(ApiKeyRow { created_ms, ..key_row(key) }, true) {
                declared.by_digest.insert(key.digest, id.clone());
                declared.keys.insert(id, entry.used_like(known));
            }
        }
        declared
    }

    /// What is recorded of tenants, and of keys.
    fn facts(&self) -> [Facts; 2] {
        let tenants = self.tenants.iter().map(|(id, known)| (id.to_string(), of_tenant(&known.row)));
        let keys = self.keys.iter().map(|(id, entry)| (id.to_string(), with_hash(&entry.row)));
        [tenants.collect(), keys.collect()]
    }
}

/// What a key is, with the beginning of its hash: another one is another key under the same id.
fn with_hash(row: &ApiKeyRow) -> Map<String, Value> {
    let mut facts = of_key(row);
    facts.insert("hash".to_owned(), row.digest.chars().take(12).collect::<String>().into());
    facts
}

/// By ids.
type Facts = BTreeMap<String, Map<String, Value>>;

/// The word for each list of facts, and what is done where one of it comes, changes or goes.
const KINDS: [(&str, [Action; 3]); 2] = [
    ("tenant", [Action::CREATE_TENANT, Action::CHANGE_TENANT, Action::DELETE_TENANT]),
    ("key", [Action::CREATE_KEY, Action::CHANGE_KEY, Action::REVOKE_KEY]),
];

/// What has become of these.
fn compared(before: &Facts, after: &Facts, [created, changed, deleted]: [Action; 3]) -> Vec<Entry> {
    let nothing = Map::new();
    let ids = before.keys().chain(after.keys().filter(|id| !before.contains_key(*id)));
    let acts = ids.filter_map(|id| {
        let (was, is) = (before.get(id), after.get(id));
        let action = match (was, is) {
            (None, _) => created,
            (Some(_), Some(_)) => changed,
            (Some(_), None) => deleted,
        };
        let changes = difference(was.unwrap_or(&nothing), is.unwrap_or(&nothing));
        if changes.is_empty() {
            return None;
        }
        let act = Act::new(action, &Actor::Configuration, None, "");
        act.about(id);
        act.changes(changes);
        Some(act.entry())
    });
    acts.collect()
}

impl Tenants {
    /// Lets what is declared hold from now on, in the place of what was declared before: all of it, or nothing of it.
    ///
    /// # Errors
    ///
    /// [`DeclareError`].
    pub async fn declare(&self, declarations: &Declarations) -> Result<(), DeclareError> {
        // Nobody makes what is about to be declared.
        let _alone = self.declaring.write().await;
        self.refresh().await?;
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        let mistakes = mistakes(declarations, &book);
        if !mistakes.is_empty() {
            return Err(DeclareError::Mistakes(mistakes));
        }
        let declared = Declared::of(declarations, &book.declared);
        book.closed |= !declared.keys.is_empty();
        book.declared = declared;
        Ok(())
    }

    /// Records what is declared otherwise than it was recorded last, be that by an earlier process, and says how much that is.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next time all of it is recorded.
    pub async fn record_declared(&self) -> Result<usize, StoreError> {
        let (known, after) = (self.store.declared().await?, self.read(|book| book.declared.facts()));
        let (mut rows, mut changes) = (Vec::new(), Vec::new());
        for ((kind, actions), after) in KINDS.into_iter().zip(after) {
            let known = known.iter().filter(|row| row.kind == kind);
            // What cannot be read was something else.
            let before =
                known.map(|row| (row.id.clone(), serde_json::from_str(&row.facts).unwrap_or_default())).collect();
            changes.extend(compared(&before, &after, actions));
            let row = |(id, facts)| DeclaredRow { kind: kind.to_owned(), id, facts: Value::Object(facts).to_string() };
            rows.extend(after.into_iter().map(row));
        }
        let count = changes.len();
        if count > 0 {
            self.store.put_declared(rows, changes).await?;
        }
        Ok(count)
    }
}

/// What does not go with what is stored.
fn mistakes(declarations: &Declarations, book: &Book) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut add = |place: &str, message: String| mistakes.push(format!("{place}: {message}"));
    for Declaration { what: tenant, place } in &declarations.tenants {
        if let Err(error) = check_zones(&tenant.policy()) {
            add(place, error.to_string());
        }
        if book.tenants.contains_key(&TenantId::from(tenant.id.as_str())) {
            add(place, format!("the tenant {:?} is in the store; delete it there, or declare another one", tenant.id));
        }
    }
    for Declaration { what: key, place } in &declarations.keys {
        if let Err(error) = check_zones(&key.request.policy()) {
            add(place, error.to_string());
        }
        if book.keys.contains_key(&KeyId::from(key.id.as_str())) {
            add(place, format!("the key {:?} is in the store; revoke it there, or declare another one", key.id));
        }
        if let Some(stored) = book.keys.values().find(|entry| entry.digest.is(&key.digest)) {
            add(place, format!("this is the hash of the key {:?}, which is in the store", stored.row.id));
        }
        let home = &key.request.tenant_id;
        let declared = declarations.tenants.iter().any(|tenant| tenant.what.id == *home);
        if !declared && !book.tenants.contains_key(&TenantId::from(home.as_str())) {
            add(place, format!("there is no tenant {home:?}, here or in the store"));
        }
    }
    mistakes
}

fn tenant_row(request: &TenantRequest, created_ms: i64) -> TenantRow {
    TenantRow {
        id: request.id.clone(),
        name: request.name.clone(),
        weight: i64::from(request.weight.unwrap_or(1)),
        suspended: request.suspended.unwrap_or(false),
        created_ms,
        deleted: false,
        version: 0,
        policy: written(&request.policy()),
    }
}

fn key_row(key: &DeclaredKey) -> ApiKeyRow {
    let request = &key.request;
    ApiKeyRow {
        id: key.id.clone(),
        tenant_id: request.tenant_id.clone(),
        name: request.name.clone(),
        digest: key.digest.to_string(),
        scopes: Scopes::of(&request.scopes).to_string(),
        expires_ms: request.expires_ms.map(signed),
        created_ms: 0,
        last_used_ms: None,
        deleted: false,
        version: 0,
        policy: written(&request.policy()),
    }
}
