//! Which models there are, what clients call them, and how their files get onto this machine.
//!
//! | module | holds |
//! | --- | --- |
//! | [`mod@reference`] | [`ModelRef`]: what a client or an operator may write to mean a model |
//! | [`source`] | [`ModelSource`]: where a model's files come from |
//! | [`mod@prepare`] | from a source to [`ModelFiles`] on the disk, checked, with a digest |
//! | [`live`] | [`LiveCatalog`]: the entries while the gateway runs, with state, trust and verification of each |
//! | [`mod@draft`] | an entry from what an operator wrote, checked |
//! | [`mod@verify`] | whether a model's files are still what they were |
//! | [`progress`] | how a long preparation tells what it does |

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{ModelPrice, Quantization, RateLimits};

mod builtin;
mod cache;
mod download;
pub mod draft;
mod files;
mod hub;
pub mod live;
mod metrics;
pub mod prepare;
mod problem;
pub mod progress;
mod record;
pub mod reference;
pub mod source;
pub mod verify;
mod web;

pub use builtin::Builtin;
pub use cache::{cache_folder, delete_cache};
pub use draft::{FileRoots, Mistake, draft};
pub use files::{FileDigest, ModelFiles, ModelPath, digest_files};
pub use hub::{HubAccess, Token};
pub use live::{Facts, LiveCatalog, Model, Policy, Refusal, Unusable};
pub use metrics::CatalogMetrics;
pub use prepare::{PrepareError, Storage, prepare};
pub use problem::FetchProblem;
pub use progress::{Progress, Silent, TerminalProgress};
pub use reference::{BadReference, ModelRef};
pub use source::{BadSource, ModelSource};
pub use web::WebAccess;

/// The ids of the models inside the program, which every catalog has: one that chats, and one that embeds.
pub const BUILTIN: &str = "builtin";
pub const BUILTIN_EMBEDDING: &str = "builtin-embedding";

/// A model that this gateway knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// Other names that clients may use for it.
    pub aliases: Vec<String>,
    pub source: ModelSource,
    /// What its files must digest to (`sha256:` and 64 hex digits), where the operator pinned it.
    pub digest: Option<String>,
    /// What its weights are turned into while they are loaded; `None`: they stay as they are in the files.
    pub quantization: Option<Quantization>,
    pub price: ModelPrice,
    /// Of all who ask it together.
    pub limits: RateLimits,
    /// A task has brought it: it goes again when nobody needs it.
    pub guest: bool,
}

impl Entry {
    /// An entry with no aliases and no pinned digest, free of charge.
    pub fn new(id: impl Into<String>, source: ModelSource) -> Self {
        Self {
            id: id.into(),
            aliases: Vec::new(),
            source,
            digest: None,
            quantization: None,
            price: ModelPrice::default(),
            limits: RateLimits::default(),
            guest: false,
        }
    }
}

/// The entries, found by id, by alias, or by what they refer to.
#[derive(Debug, Clone)]
pub struct Catalog {
    entries: Vec<Entry>,
    /// Id or alias -> place in `entries`.
    names: BTreeMap<String, usize>,
}

impl Catalog {
    /// A catalog of these entries, and of the built-in models that none of them is.
    ///
    /// # Errors
    ///
    /// Every name that two entries claim.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, Vec<Duplicate>> {
        let given = entries.len();
        let absent = |builtin: &Builtin| !entries.iter().any(|entry| entry.id == builtin.id());
        let absent: Vec<_> = Builtin::ALL.into_iter().filter(absent).collect();
        entries.extend(absent.into_iter().map(|builtin| Entry::new(builtin.id(), ModelSource::Builtin(builtin))));
        let mut names: BTreeMap<_, _> =
            entries.iter().enumerate().skip(given).map(|(index, entry)| (entry.id.clone(), index)).collect();
        let mut duplicates = Vec::new();
        for (index, entry) in entries.iter().enumerate().take(given) {
            for name in std::iter::once(&entry.id).chain(&entry.aliases) {
                if names.insert(name.clone(), index).is_some() {
                    duplicates.push(Duplicate { entry: index, name: name.clone() });
                }
            }
        }
        if duplicates.is_empty() { Ok(Self { entries, names }) } else { Err(duplicates) }
    }

    /// All entries, in the order of the configuration.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry that a reference means: its id, an alias, its source, or its pinned digest.
    ///
    /// # Errors
    ///
    /// [`Unknown`], with the fitting message for a reference that could not name any model.
    pub fn resolve(&self, reference: &str) -> Result<&Entry, Unknown> {
        self.position(reference).map(|index| &self.entries[index])
    }

    /// The place in [`entries`](Self::entries) of what [`resolve`](Self::resolve) finds.
    fn position(&self, reference: &str) -> Result<usize, Unknown> {
        if let Some(&index) = self.names.get(reference) {
            return Ok(index);
        }
        let parsed: ModelRef = reference.parse().map_err(Unknown::Malformed)?;
        // What an operator says of a place, its price for one, goes before what a task has brought.
        let find = |guest| self.entries.iter().position(|entry| entry.guest == guest && entry.means(&parsed));
        let found = find(false).or_else(|| find(true));
        found.ok_or_else(|| Unknown::NotThere(reference.to_owned()))
    }
}

impl Entry {
    fn means(&self, reference: &ModelRef) -> bool {
        match reference {
            ModelRef::Name(_) => false,
            ModelRef::Digest(digest) => self.digest.as_ref() == Some(digest),
            ModelRef::Hub { .. } | ModelRef::File(_) | ModelRef::Url(_) => {
                ModelSource::from_reference(reference).is_ok_and(|source| source == self.source)
            }
        }
    }
}

/// A name that more than one entry claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another model already has the name {name:?}")]
pub struct Duplicate {
    /// Place of the later entry.
    pub entry: usize,
    pub name: String,
}

/// A reference that leads to no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no model is called {0:?} here")]
    NotThere(String),
    #[error(transparent)]
    Malformed(BadReference),
}

/// `sha256:` and the digest of `bytes` in lower-case hex.
fn sha256(bytes: &[u8]) -> String {
    tagged(&Sha256::digest(bytes))
}

fn tagged(digest: &[u8]) -> String {
    format!("sha256:{}", hex(digest))
}

/// In lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen() -> Entry {
        let source = ModelSource::from_reference(&"hf:Qwen/Qwen3-0.6B".parse().unwrap()).unwrap();
        let digest = Some(format!("sha256:{}", "a".repeat(64)));
        Entry { aliases: vec!["gpt-4o-mini".into()], digest, ..Entry::new("Qwen/Qwen3-0.6B", source) }
    }

    #[test]
    fn a_model_is_found_by_id_alias_source_and_digest() {
        let catalog = Catalog::new(vec![qwen()]).unwrap();
        let digest = qwen().digest.unwrap();
        for name in ["Qwen/Qwen3-0.6B", "gpt-4o-mini", "hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B@main", &digest] {
            assert_eq!(catalog.resolve(name).unwrap().id, "Qwen/Qwen3-0.6B", "{name}");
        }
        assert_eq!(catalog.resolve("builtin").unwrap().source, ModelSource::Builtin(Builtin::Chat));
        assert_eq!(catalog.resolve("builtin-embedding").unwrap().source, ModelSource::Builtin(Builtin::Embedding));
    }

    #[test]
    fn an_operators_entry_is_found_before_a_guest_of_the_same_place() {
        let guest = Entry { id: "guest".into(), aliases: Vec::new(), guest: true, ..qwen() };
        let catalog = Catalog::new(vec![guest, qwen()]).unwrap();
        assert_eq!(catalog.resolve("hf:Qwen/Qwen3-0.6B").unwrap().id, "Qwen/Qwen3-0.6B");
        assert_eq!(catalog.resolve("guest").unwrap().id, "guest");
    }

    #[test]
    fn an_unknown_model_and_a_malformed_reference_are_told_apart() {
        let catalog = Catalog::new(vec![qwen()]).unwrap();
        assert!(matches!(catalog.resolve("gpt-5"), Err(Unknown::NotThere(_))));
        assert!(matches!(catalog.resolve("hf:Qwen/Qwen3-0.6B@v2"), Err(Unknown::NotThere(_))));
        assert!(matches!(catalog.resolve("hf:Qwen"), Err(Unknown::Malformed(_))));
        assert!(matches!(catalog.resolve(""), Err(Unknown::Malformed(_))));
    }

    #[test]
    fn every_name_that_is_taken_twice_is_reported() {
        let other = Entry { aliases: vec!["gpt-4o-mini".into(), "builtin".into()], ..Entry::new("b", qwen().source) };
        let duplicates = Catalog::new(vec![qwen(), other]).unwrap_err();
        let names: Vec<_> = duplicates.iter().map(|duplicate| duplicate.name.as_str()).collect();
        assert_eq!(names, ["gpt-4o-mini", "builtin"]);
    }
}
