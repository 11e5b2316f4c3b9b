//! What administrators do, as it is recorded: who, what, to what, from where, how it went, and what has changed by it.
//!
//! An [`Act`] goes along with an action. Where the action changes something in the store, what the act knows by then is filed in the
//! same transaction; whoever has begun it files how it was answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use sluicegate_compat::native::{API_KEY_ID_DIGITS, API_KEY_PREFIX};
use uuid::Uuid;

use crate::clock::unix_ms;

/// Bytes of a text at most; what is longer is cut.
const LONGEST: usize = 256;

/// Elements of a list at most; of a longer one there is the number.
const MOST: usize = 32;

/// Characters of a key that are a secret, at least.
const SECRET: usize = 40;

/// What is done, and to what kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    pub name: &'static str,
    pub kind: &'static str,
    /// How it is answered where it succeeds, as a status of HTTP.
    pub status: u16,
}

/// Who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Who has this key, of this tenant.
    Key { id: String, tenant: String },
    /// A program on this machine, while there are no keys.
    Loopback,
    /// The command line, on the store.
    Cli,
    /// The gateway itself, when it starts for the first time.
    Startup,
    /// What stands in the configuration.
    Configuration,
}

/// An action as it is filed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A UUID of version 7.
    pub id: String,
    pub at_ms: i64,
    /// The word for the [`Actor`].
    pub actor: String,
    /// Empty where there is none, like the tenant.
    pub api_key: String,
    pub tenant: String,
    pub action: String,
    pub kind: String,
    pub target: String,
    pub status: i64,
    /// An address, or empty.
    pub client: String,
    pub correlation: String,
    /// A JSON object.
    pub changes: String,
}

/// An action that is under way.
#[derive(Debug)]
pub struct Act {
    pub action: Action,
    /// As it is if it succeeds. Held to look or to set a field.
    entry: Mutex<Entry>,
    /// Nothing has changed by it.
    idle: AtomicBool,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $action:literal of $kind:literal, $status:literal;)+) => {
        impl Action {
            $($(#[$doc])* pub const $name: Self = Self { name: $action, kind: $kind, status: $status };)+

            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

actions! {
    CREATE_TENANT = "tenant.create" of "tenant", 201;
    CHANGE_TENANT = "tenant.change" of "tenant", 200;
    DELETE_TENANT = "tenant.delete" of "tenant", 204;
    CREATE_KEY = "key.create" of "key", 201;
    CHANGE_KEY = "key.change" of "key", 200;
    ROTATE_KEY = "key.rotate" of "key", 201;
    REVOKE_KEY = "key.revoke" of "key", 204;
    SET_PRICE = "price.set" of "price", 200;
    RESET_PRICE = "price.reset" of "price", 204;
    CANCEL_TASK = "task.cancel" of "task", 204;
    DRAIN_POOL = "pool.drain" of "pool", 202;
    RESUME_POOL = "pool.resume" of "pool", 202;
    RELOAD_POOL = "pool.reload" of "pool", 202;
    PURGE_POOL = "pool.purge" of "pool", 202;
    ADD_MODEL = "model.add" of "model", 201;
    REMOVE_MODEL = "model.remove" of "model", 204;
    VERIFY_MODEL = "model.verify" of "model", 202;
    SET_MODEL_STATE = "model.state" of "model", 202;
    REGISTER_WORKER = "worker.register" of "worker", 200;
}

impl Actor {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Loopback => "loopback",
            Self::Cli => "cli",
            Self::Startup => "startup",
            Self::Configuration => "configuration",
        }
    }
}

impl Act {
    /// Begins now.
    pub fn new(action: Action, by: &Actor, client: Option<String>, correlation: &str) -> Self {
        let (api_key, tenant) = match by {
            Actor::Key { id, tenant } => (id.clone(), tenant.clone()),
            _ => (String::new(), String::new()),
        };
        Self {
            action,
            entry: Mutex::new(Entry {
                id: Uuid::now_v7().to_string(),
                at_ms: i64::try_from(unix_ms()).unwrap_or(i64::MAX),
                actor: by.as_str().to_owned(),
                api_key,
                tenant,
                action: action.name.to_owned(),
                kind: action.kind.to_owned(),
                target: String::new(),
                status: i64::from(action.status),
                client: client.unwrap_or_default(),
                correlation: harmless(correlation),
                changes: "{}".to_owned(),
            }),
            idle: AtomicBool::new(false),
        }
    }

    /// Another action of the same.
    #[must_use]
    pub fn beside(&self, action: Action) -> Self {
        let own = self.entry();
        let entry = Entry {
            id: Uuid::now_v7().to_string(),
            action: action.name.to_owned(),
            kind: action.kind.to_owned(),
            target: String::new(),
            status: i64::from(action.status),
            changes: "{}".to_owned(),
            ..own
        };
        Self { action, entry: Mutex::new(entry), idle: AtomicBool::new(false) }
    }

    /// Says what it is done to.
    pub fn about(&self, target: &str) {
        self.lock().target = harmless(target);
    }

    /// Says what changes by it. What looks like a secret is left out.
    pub fn changes(&self, changes: Map<String, Value>) {
        let changes = changes.into_iter().map(|(name, value)| (name, bounded(value))).collect();
        self.lock().changes = Value::Object(changes).to_string();
    }

    /// Says what the fields of an object are from now on.
    pub fn sets(&self, fields: Value) {
        if let Value::Object(fields) = fields {
            self.changes(difference(&Map::new(), &fields));
        }
    }

    /// Says that nothing changes by it, so that it is none to be recorded if it succeeds.
    pub fn changes_nothing(&self) {
        self.idle.store(true, Ordering::Relaxed);
    }

    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// As it is filed with what it changes.
    pub fn entry(&self) -> Entry {
        self.lock().clone()
    }

    /// As it is filed once it was answered.
    pub fn answered(&self, status: u16) -> Entry {
        let entry = self.entry();
        let changes = if status < 400 { entry.changes } else { "{}".to_owned() };
        Entry { status: i64::from(status), changes, ..entry }
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not the same before and after: each field with `from` and `to`, without what is not there or null.
pub fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let side = |facts: &Map<String, Value>, name: &str| facts.get(name).filter(|value| !value.is_null()).cloned();
    let mut changes = Map::new();
    for name in names {
        let (from, to) = (side(before, name), side(after, name));
        if from == to {
            continue;
        }
        let sides = [("from", from), ("to", to)];
        let sides = sides.into_iter().filter_map(|(side, value)| Some((side.to_owned(), value?)));
        changes.insert(name.clone(), Value::Object(sides.collect()));
    }
    changes
}

/// A text without what is secret in it, and not too long: keys but for their ids, and of addresses the password and what comes after
/// a `?`.
pub fn harmless(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(API_KEY_PREFIX) {
        let (before, key) = rest.split_at(at);
        shown.push_str(before);
        let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
        let end = key.find(|character| !is_part(character)).unwrap_or(key.len());
        let public =
            key.char_indices().nth(API_KEY_PREFIX.len() + API_KEY_ID_DIGITS).map_or(end, |(at, _)| at.min(end));
        shown.push_str(&key[..public]);
        if end > public {
            shown.push('…');
        }
        rest = &key[end..];
    }
    shown.push_str(rest);
    let shown: String = shown.split_inclusive(ends_word).map(without_credentials).collect();
    cut(shown)
}

/// Without the secret of a key that is there but for its beginning.
fn without_secret(text: &str) -> Option<String> {
    let (id, secret) = text.split_once('-')?;
    let is_id = id.len() == API_KEY_ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_secret = secret.len() >= SECRET && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_id && is_secret).then(|| format!("{id}…"))
}

fn ends_word(character: char) -> bool {
    character.is_whitespace() || matches!(character, ',' | '"')
}

/// A word, with what ends it, without what comes before the last `@` and after a `?`, where it is an address.
fn without_credentials(whole: &str) -> String {
    let word = whole.trim_end_matches(ends_word);
    let after = &whole[word.len()..];
    if let Some(id) = without_secret(word) {
        return id + after;
    }
    let Some((scheme, address)) = word.split_once("://") else { return whole.to_owned() };
    let address = address.split('?').next().unwrap_or_default();
    let shown = match address.rsplit_once('@') {
        None => address.to_owned(),
        Some((name, rest)) if !name.contains('/') => rest.to_owned(),
        // A part of the path, or of a password: nobody can tell.
        Some((_, rest)) => format!("…@{rest}"),
    };
    format!("{scheme}://{shown}{after}")
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    // Databases have no such character in their texts.
    text.replace('\0', "")
}

/// A value of which every text is harmless and every list short.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => harmless(&text).into(),
        Value::Array(list) if list.len() > MOST => format!("{} values", list.len()).into(),
        Value::Array(list) => list.into_iter().map(bounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (cut(name), bounded(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("no object"),
        }
    }

    #[test]
    fn a_difference_has_what_was_and_what_is() {
        let before = map(json!({"name": null, "weight": 1, "limits": {"concurrency": 4}, "scopes": "infer"}));
        let after = map(json!({"name": "Acme", "weight": 3, "limits": {"concurrency": 4}}));
        let expected = json!({"name": {"to": "Acme"}, "weight": {"from": 1, "to": 3}, "scopes": {"from": "infer"}});
        assert_eq!(Value::Object(difference(&before, &after)), expected);
        assert_eq!(difference(&after, &after), Map::new());
    }

    #[test]
    fn what_is_secret_in_a_text_is_left_out() {
        let key = "sk-sg-9f86d081884c7d65-4kQabcdefghijkl";
        assert_eq!(harmless(key), "sk-sg-9f86d081884c7d65…");
        assert_eq!(harmless(&format!("é {key}, {key}!")), "é sk-sg-9f86d081884c7d65…, sk-sg-9f86d081884c7d65…!");
        assert_eq!(harmless("sk-sg-"), "sk-sg-");
        assert_eq!(harmless(&format!("9f86d081884c7d65-{}", "4kQm".repeat(12))), "9f86d081884c7d65…");
        let secret = "4kQm".repeat(12);
        assert_eq!(
            harmless(&format!("9f86d081884c7d65-{secret}, https://h/a?t=1 x")),
            "9f86d081884c7d65…, https://h/a x"
        );
        assert_eq!(harmless("9f86d081884c7d65-ci"), "9f86d081884c7d65-ci");
        assert_eq!(harmless("https://me:secret@host:1/a/b?token=secret"), "https://host:1/a/b");
        assert_eq!(harmless("https://me:se/cret@host/a"), "https://…@host/a");
        assert_eq!(harmless("http://a:b@one https://c:d@two"), "http://one https://two");
        assert_eq!(harmless("hf:org/repo@main"), "hf:org/repo@main");
        assert_eq!(harmless(&"é".repeat(300)).chars().count(), 129);
    }

    #[test]
    fn what_changes_is_bounded() {
        let act = Act::new(Action::CREATE_KEY, &Actor::Cli, None, "c");
        let long: Vec<_> = (0..1000).map(|number| format!("model-{number}")).collect();
        act.changes(map(json!({"allowed_models": {"to": long}, "name": {"to": "sk-sg-9f86d081884c7d65-4kQ"}})));
        let changes: Value = serde_json::from_str(&act.entry().changes).unwrap();
        let expected = json!({"allowed_models": {"to": "1000 values"}, "name": {"to": "sk-sg-9f86d081884c7d65…"}});
        assert_eq!(changes, expected);
        assert_eq!(act.answered(409).changes, "{}", "what was refused has changed nothing");
    }

    #[test]
    fn actions_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Action::ALL.iter().map(|action| action.name).collect();
        assert_eq!(names.len(), Action::ALL.len());
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in ".{0,300}|(sk-sg-[0-9a-zé-]{0,60}){0,4}|https?://.{0,40}") {
            prop_assert!(harmless(&text).len() <= LONGEST + '…'.len_utf8());
        }
    }
}
