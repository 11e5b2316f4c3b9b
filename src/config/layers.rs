//! File, environment and flags, laid over the defaults; and who set what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};
use toml_edit::ImDocument;

use super::key::Key;
use super::{Mistakes, Overrides, Place, SectionDigest};

mod environment;
mod flags;

/// The lowest layer.
const DEFAULTS: &str = include_str!("defaults.toml");

/// Values that are never shown, and never taken for anything but text.
const SECRETS: [&str; 2] = ["catalog.hub.token", "store.url"];

/// One document made of all layers.
pub(super) struct Layers {
    /// All layers, the defaults included.
    table: Table,
    /// The file as it was parsed.
    file: Option<Parsed>,
    /// What environment and flags set, in that order.
    set: Vec<(Key, Place)>,
    /// Variables and flags that could not be laid over the file.
    mistakes: Mistakes,
    /// What `~` stands for.
    home: Option<PathBuf>,
    /// Variables that the configuration may name, such as a key's.
    named: BTreeMap<String, String>,
}

/// A file with the places of its keys.
#[derive(Debug)]
struct Parsed {
    path: PathBuf,
    document: ImDocument<String>,
}

impl Layers {
    /// # Errors
    ///
    /// Where the file cannot be read, or is not TOML: nothing more can be said then.
    pub(super) fn gather(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, Mistakes> {
        let environment: Vec<_> = environment.collect();
        let named = environment.iter().cloned().collect();
        let variables = environment::Variables::collect(environment.into_iter());
        let file = match file.map(Path::to_owned).or_else(|| variables.file.clone()) {
            Some(path) => Some(Parsed::read(path)?),
            None => None,
        };
        let table = file.as_ref().map_or_else(Table::new, Parsed::table);
        let mut layers =
            Self { table, file, set: Vec::new(), mistakes: Mistakes::default(), home: variables.home.clone(), named };
        environment::lay(&mut layers, variables);
        flags::lay(&mut layers, overrides);
        layers.table = over_defaults(std::mem::take(&mut layers.table));
        Ok(layers)
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// What went wrong in laying the layers.
    pub(super) fn mistakes(&self) -> Mistakes {
        self.mistakes.clone()
    }

    /// The value of a variable that the configuration names.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Who set a key, or what holds it.
    pub(super) fn place(&self, key: &Key) -> Place {
        let set = |fits: &dyn Fn(&Key) -> bool| {
            self.set.iter().rev().find(|(set, _)| fits(set)).map(|(_, place)| place.clone())
        };
        set(&|set| key.starts_with(set))
            .or_else(|| self.file.as_ref().and_then(|file| file.place(key)))
            .or_else(|| set(&|set| set.starts_with(key)))
            .unwrap_or(Place::Default)
    }

    /// All layers as TOML, without secrets.
    pub(super) fn show(&self) -> String {
        let mut table = Value::Table(self.table.clone());
        for secret in SECRETS {
            let hidden = get(&table, &Key::dotted(secret)).is_some_and(|value| value.as_str() != Some("sqlite:"));
            if hidden {
                // The key is there, so its parents are tables.
                let _ = put(&mut table, &Key::dotted(secret).0, Value::String("***".into()));
            }
        }
        text_of(&table)
    }

    /// What each part amounts to, by its name.
    pub(super) fn sections(&self) -> BTreeMap<String, SectionDigest> {
        let digest = |value: &Value| {
            let mut part = Table::new();
            part.insert("part".to_owned(), value.clone());
            Sha256::digest(text_of(&Value::Table(part))).into()
        };
        self.table.iter().map(|(name, value)| (name.clone(), digest(value))).collect()
    }

    fn set(&mut self, key: &Key, value: Value, place: Place) {
        let mut table = Value::Table(self.table.clone());
        match (put(&mut table, &key.0, value), table) {
            (Ok(()), Value::Table(table)) => {
                self.table = table;
                self.set.push((key.clone(), place));
            }
            (Ok(()), _) => {}
            (Err(why), _) => self.mistakes.add(place, key, why),
        }
    }
}

impl Parsed {
    fn read(path: PathBuf) -> Result<Self, Mistakes> {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Mistakes::one(Place::File(path.clone(), None), format!("the file cannot be read: {error}"))
        })?;
        match ImDocument::parse(text.clone()) {
            Ok(document) => Ok(Self { path, document }),
            Err(error) => {
                let line = error.span().map(|span| line(&text, span.start));
                Err(Mistakes::one(
                    Place::File(path, line),
                    format!("not TOML: {}", error.message().replace('\n', "; ")),
                ))
            }
        }
    }

    fn table(&self) -> Table {
        // What one TOML parser takes is valid for the other: the second is the first with types on top.
        toml::from_str(self.document.raw()).unwrap_or_default()
    }

    /// The line of the key, or of the innermost table around it that the file has.
    fn place(&self, key: &Key) -> Option<Place> {
        let mut item = self.document.as_item();
        let mut start = None;
        for segment in &key.0 {
            let (span, next) = match segment.parse::<usize>() {
                Ok(index) => (None, item.get(index)),
                Err(_) => {
                    let pair = item.as_table_like().and_then(|table| table.get_key_value(segment));
                    (pair.and_then(|(key, _)| key.span()), pair.map(|(_, item)| item))
                }
            };
            let Some(next) = next else { break };
            start = span.or_else(|| next.span()).map(|span| span.start).or(start);
            item = next;
        }
        start.map(|start| Place::File(self.path.clone(), Some(line(self.document.raw(), start))))
    }
}

/// The line of a byte, from 1.
fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The default of a key. Each pool has the defaults of the one in the file of defaults, but no id.
pub(super) fn default_of(key: &Key) -> Option<Value> {
    let mut key = key.clone();
    if key.0.first().is_some_and(|first| first == "pools") && key.0.len() > 2 {
        key.0[1] = "0".to_owned();
        if key.0[2] == "id" {
            return None;
        }
    }
    get(&Value::Table(defaults()), &key).cloned()
}

fn defaults() -> Table {
    toml::from_str(DEFAULTS).expect("defaults.toml is compiled in, and each test of the configuration reads it")
}

fn over_defaults(mut over: Table) -> Table {
    let mut table = defaults();
    for table in [&mut table, &mut over] {
        if let Some(Value::Array(pools)) = table.get_mut("pools") {
            pools.iter_mut().enumerate().for_each(|(index, pool)| complete_pool(index, pool));
        }
    }
    merge(&mut table, over);
    table
}

/// Puts the defaults of a pool below it. The first may leave out its id.
fn complete_pool(index: usize, pool: &mut Value) {
    let Value::Table(over) = pool else { return };
    if let Some(Value::Table(mut complete)) = get(&Value::Table(defaults()), &Key::dotted("pools.0")).cloned() {
        if index > 0 {
            complete.remove("id");
        }
        merge(&mut complete, std::mem::take(over));
        *over = complete;
    }
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

pub(super) fn get<'a>(value: &'a Value, key: &Key) -> Option<&'a Value> {
    key.0.iter().try_fold(value, |value, segment| match value {
        Value::Table(table) => table.get(segment),
        Value::Array(list) => list.get(segment.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The table as a document.
pub(super) fn text_of(table: &Value) -> String {
    toml::to_string(table).expect("a table that was read from TOML can be written as TOML")
}

/// Sets a value, making the tables and lists around it where they are not there.
pub(super) fn put(value: &mut Value, path: &[String], new: Value) -> Result<(), &'static str> {
    let Some((segment, rest)) = path.split_first() else {
        *value = new;
        return Ok(());
    };
    let empty = || match rest.first() {
        Some(next) if next.parse::<usize>().is_ok() => Value::Array(Vec::new()),
        _ => Value::Table(Table::new()),
    };
    let slot = match value {
        Value::Table(table) => table.entry(segment.clone()).or_insert_with(empty),
        Value::Array(list) => {
            let index: usize = segment.parse().map_err(|_| "a place in a list is a number")?;
            if index == list.len() {
                list.push(empty());
            }
            list.get_mut(index).ok_or("the list has no such place; the next free one is its length")?
        }
        _ => return Err("what holds it is no table"),
    };
    put(slot, rest, new)
}
