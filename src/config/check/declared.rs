//! Tenants and keys that are declared here: the same fields that the admin API takes, and of a key its hash.

use std::collections::HashSet;

use serde_json::{Map, Value};
use sluicegate_compat::native::{API_KEY_PREFIX, ErrorEnvelope, KeyRequest, TenantRequest};

use super::Check;
use crate::config::key::Key;
use crate::config::shape::Declared;
use crate::tenants::{Declaration, Declarations, DeclaredKey, KeyDigest};

const HASH: &str = "`sha256:` and 64 hexadecimal digits, as `sluicegate key hash` prints it";

/// What the audit log calls those who have no key.
const RESERVED: [&str; 5] = ["key", "loopback", "cli", "startup", "configuration"];

impl Check<'_> {
    pub(super) fn declared(&mut self, tenants: &[Declared], keys: &[Declared]) -> Declarations {
        let mut declarations = Declarations::default();
        let mut seen = HashSet::new();
        for (index, declared) in tenants.iter().enumerate() {
            let at = format!("tenants.{index}");
            let Some(fields) = self.fields(&at, declared) else { continue };
            let Some(what) = self.parsed(&at, fields, TenantRequest::parse) else { continue };
            self.ensure(seen.insert(what.id.clone()), &format!("{at}.id"), "another tenant has this id");
            let place = self.place_of(&format!("{at}.id"));
            declarations.tenants.push(Declaration { what, place });
        }
        let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
        for (index, declared) in keys.iter().enumerate() {
            let at = format!("keys.{index}");
            let Some(fields) = self.fields(&at, declared) else { continue };
            let Some(what) = self.key(&at, fields) else { continue };
            self.ensure(ids.insert(what.id.clone()), &format!("{at}.id"), "another key has this id");
            self.ensure(hashes.insert(what.digest.to_string()), &format!("{at}.hash"), "another key has this hash");
            let place = self.place_of(&format!("{at}.hash"));
            declarations.keys.push(Declaration { what, place });
        }
        declarations
    }

    fn key(&mut self, at: &str, mut fields: Map<String, Value>) -> Option<DeclaredKey> {
        let plain: Vec<_> = fields.iter().filter(|(_, value)| is_key(value)).map(|(name, _)| name.clone()).collect();
        for name in &plain {
            let message = "this is a key itself, which is known now to whoever can read this place: make another one, and put here \
                           what `sluicegate key hash` prints for it";
            self.refuse(&format!("{at}.{name}"), message);
            fields.remove(name);
        }
        let id = fields.remove("id").or_else(|| fields.get("name").cloned());
        let id = id.as_ref().and_then(Value::as_str).map(str::to_owned);
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_id = |id: &&String| (1..=64).contains(&id.len()) && id.bytes().all(letter);
        let sound = id.as_ref().filter(is_id).is_some_and(|id| !RESERVED.contains(&id.as_str()));
        if plain.is_empty() {
            let message = "a key has an `id`, or a `name` that can be one: 1 to 64 letters, digits, dots, underscores and hyphens";
            self.ensure(sound, &format!("{at}.id"), message);
        }
        let hash = fields.remove("hash");
        let hash = hash.as_ref().and_then(Value::as_str).and_then(|hash| hash.strip_prefix("sha256:"));
        let digest = hash.map(str::to_ascii_lowercase).as_deref().and_then(KeyDigest::parse);
        if !plain.iter().any(|name| name == "hash") {
            self.ensure(digest.is_some(), &format!("{at}.hash"), HASH);
        }
        let request = self.parsed(at, fields, KeyRequest::parse);
        Some(DeclaredKey { id: id.filter(|_| sound)?, digest: digest?, request: request? })
    }

    /// What an entry of a list has.
    fn fields(&mut self, at: &str, Declared(value): &Declared) -> Option<Map<String, Value>> {
        match serde_json::to_value(value) {
            Ok(Value::Object(fields)) => Some(fields),
            _ => {
                self.refuse(at, "a table is expected here");
                None
            }
        }
    }

    /// Reads fields as the admin API does, and says everything that is wrong with them.
    fn parsed<T>(
        &mut self,
        at: &str,
        mut fields: Map<String, Value>,
        parse: impl Fn(&[u8]) -> Result<T, ErrorEnvelope>,
    ) -> Option<T> {
        let mut wrong: Vec<String> = Vec::new();
        loop {
            let error = match parse(Value::Object(fields.clone()).to_string().as_bytes()) {
                Ok(request) => return wrong.is_empty().then_some(request),
                Err(error) => error,
            };
            let field = error.param.unwrap_or_default().replace('[', ".").replace(']', "");
            let first = field.split('.').next().unwrap_or_default().to_owned();
            if wrong.contains(&first) {
                // It is missing because it was wrong.
                return None;
            }
            let key = if field.is_empty() { at.to_owned() } else { format!("{at}.{field}") };
            self.refuse(&key, words(&error.message));
            // Without that, what else is wrong?
            fields.remove(&first)?;
            wrong.push(first);
        }
    }

    fn place_of(&self, key: &str) -> String {
        let key = Key::dotted(key);
        format!("{}: {key}", self.layers.place(&key))
    }
}

/// Without the name of the field, which stands before it.
fn words(message: &str) -> &str {
    if message.ends_with(" is not a field of the contract") {
        return "unknown key";
    }
    let rest = message.strip_prefix('`').and_then(|rest| rest.split_once("`: "));
    let rest = rest.or_else(|| message.strip_prefix("Invalid value for '").and_then(|rest| rest.split_once("': ")));
    rest.map_or(message, |(_, words)| words).trim_end_matches('.')
}

fn is_key(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim().starts_with(API_KEY_PREFIX))
}
