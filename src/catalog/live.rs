//! The catalog while the gateway runs: entries come and go, are retired, and are verified.
//!
//! Readers take the current snapshot, which never changes; a change makes a new one. Changes are rare, and a request is
//! resolved with one short read lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sluicegate_compat::native::{ModelPrice, ModelState, ModelTrust};
use tokio_util::sync::CancellationToken;

use super::verify::{Finding, Run};
use super::{
    Catalog, CatalogMetrics, Entry, FetchProblem, FileDigest, FileRoots, Mistake, ModelFiles, ModelSource, Unknown,
};
use crate::clock::unix_ms;
use crate::web::Hosts;

/// Models at most: as many as metrics have labels for.
const MOST_MODELS: usize = 1024;

/// What the configuration says about trust.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Only what was verified is served.
    pub strict: bool,
    pub roots: FileRoots,
    pub hosts: Hosts,
}

impl Policy {
    /// Whether the files of an entry that was not in the configuration may come from there. Blocking: it follows links.
    ///
    /// # Errors
    ///
    /// [`Mistake`] of the field `source`.
    pub fn check_source(&self, source: &ModelSource) -> Result<(), Mistake> {
        match source {
            ModelSource::Folder(path) | ModelSource::Gguf(path) => self.roots.check(path),
            ModelSource::Web(address) => self.hosts.check(address).map(drop).map_err(|problem| Mistake {
                field: "source".to_owned(),
                why: FetchProblem::from(problem).to_string(),
            }),
            ModelSource::Builtin(_) | ModelSource::Hub { .. } => Ok(()),
        }
    }
}

/// What is known about an entry, beside what it says itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// It comes from the configuration.
    pub configured: bool,
    pub state: ModelState,
    /// Counts the changes of `state`, so that a deadline knows whether it still holds.
    pub changes: u64,
    pub trust: ModelTrust,
    /// Over `files`; `None` until they were loaded or verified.
    pub digest: Option<String>,
    /// As they were loaded or verified last.
    pub files: Vec<FileDigest>,
    pub verification: Verification,
    pub priced: Priced,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
}

/// The price that was set for a model while the gateway ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priced {
    /// `None`: that of the entry counts.
    pub price: Option<ModelPrice>,
    /// Counts the changes of it; 0 where there was none, as its time.
    pub version: i64,
    pub changed_ms: u64,
}

/// The verification that runs, or the last one.
#[derive(Debug, Clone)]
pub enum Verification {
    Never,
    Running(Arc<Run>),
    Ended { run: Arc<Run>, ended_at_ms: u64, finding: Finding },
}

/// What an earlier process knew of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    pub state: ModelState,
    /// What its last verification had found, where the model must not be served for that.
    pub distrust: Option<String>,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
}

/// An entry with its facts, of one moment.
#[derive(Debug, Clone)]
pub struct Model {
    pub entry: Entry,
    pub facts: Arc<Facts>,
}

/// Why a model is in the catalog and not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the model {0:?} is retired")]
    Retired(String),
    #[error("the model {id:?} is not served: its last verification found that {why}")]
    Failed { id: String, why: String },
    #[error("the model {0:?} was never verified, and catalog.trust is \"strict\"")]
    Unverified(String),
}

impl Model {
    /// What it costs now.
    pub fn price(&self) -> ModelPrice {
        self.facts.priced.price.unwrap_or(self.entry.price)
    }

    /// Whether new requests for it are served.
    ///
    /// # Errors
    ///
    /// [`Unusable`].
    pub fn usable(&self, policy: &Policy) -> Result<(), Unusable> {
        let id = || self.entry.id.clone();
        if self.facts.state == ModelState::Retired {
            return Err(Unusable::Retired(id()));
        }
        match self.facts.trust {
            ModelTrust::Failed => {
                let why = match &self.facts.verification {
                    Verification::Ended { finding, .. } => finding.words(),
                    _ => None,
                };
                Err(Unusable::Failed { id: id(), why: why.unwrap_or_else(|| "it had changed".to_owned()) })
            }
            ModelTrust::Unverified if policy.strict => Err(Unusable::Unverified(id())),
            ModelTrust::Unverified | ModelTrust::Verified => Ok(()),
        }
    }
}

/// Why the catalog was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no model is called {0:?} here")]
    Unknown(String),
    #[error("another model already has the name {0:?}")]
    Taken(String),
    #[error("the model {0:?} comes from the configuration; take it out there")]
    Configured(String),
    #[error("the catalog has {MOST_MODELS} models, and takes no more")]
    Full,
}

/// The entries of one moment with their facts.
#[derive(Debug, Clone)]
struct Snapshot {
    catalog: Catalog,
    /// Beside the entries of `catalog`, in the same order.
    facts: Vec<Arc<Facts>>,
}

impl Snapshot {
    fn position(&self, reference: &str) -> Result<usize, Unknown> {
        let found = self.catalog.position(reference);
        // A model is found by what its files digest to, pinned or not.
        let digest = reference.starts_with("sha256:").then(|| reference.to_ascii_lowercase());
        match (found, digest) {
            (Err(Unknown::NotThere(reference)), Some(digest)) => {
                let found = self.facts.iter().position(|facts| facts.digest.as_ref() == Some(&digest));
                found.ok_or(Unknown::NotThere(reference))
            }
            (found, _) => found,
        }
    }

    fn model(&self, position: usize) -> Model {
        Model { entry: self.catalog.entries[position].clone(), facts: Arc::clone(&self.facts[position]) }
    }

    /// The place of the entry with exactly this id.
    fn of_id(&self, id: &str) -> Result<usize, Refusal> {
        let found = self.catalog.entries.iter().position(|entry| entry.id == id);
        found.ok_or_else(|| Refusal::Unknown(id.chars().take(128).collect()))
    }

    fn edit(&mut self, position: usize, edit: impl FnOnce(&mut Facts)) {
        let facts = Arc::make_mut(&mut self.facts[position]);
        edit(facts);
        facts.updated_at_ms = unix_ms();
    }
}

/// The catalog while the gateway runs. Built once, and shared.
pub struct LiveCatalog {
    /// A plain lock, held to clone an `Arc` or to put another one there.
    snapshot: RwLock<Arc<Snapshot>>,
    policy: Policy,
    metrics: CatalogMetrics,
}

impl LiveCatalog {
    /// With the entries of the configuration.
    pub fn new(catalog: Catalog, policy: Policy, metrics: CatalogMetrics) -> Arc<Self> {
        for entry in catalog.entries() {
            metrics.state(&entry.id, ModelState::Active);
        }
        let facts = catalog.entries().iter().map(|entry| Arc::new(Facts::new(entry, true))).collect();
        Arc::new(Self { snapshot: RwLock::new(Arc::new(Snapshot { catalog, facts })), policy, metrics })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The model that a reference means, by id, alias, source, or digest.
    ///
    /// # Errors
    ///
    /// As [`Catalog::resolve`].
    pub fn resolve(&self, reference: &str) -> Result<Model, Unknown> {
        let snapshot = self.snapshot();
        snapshot.position(reference).map(|position| snapshot.model(position))
    }

    /// The model with exactly this id.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`].
    pub fn get(&self, id: &str) -> Result<Model, Refusal> {
        let snapshot = self.snapshot();
        snapshot.of_id(id).map(|position| snapshot.model(position))
    }

    /// All models: those of the configuration in its order, then the others as they came.
    pub fn models(&self) -> Vec<Model> {
        let snapshot = self.snapshot();
        (0..snapshot.facts.len()).map(|position| snapshot.model(position)).collect()
    }

    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// [`Refusal::Taken`] or [`Refusal::Full`].
    pub fn add(&self, entry: Entry) -> Result<(), Refusal> {
        self.change(|snapshot| {
            if snapshot.facts.len() >= MOST_MODELS {
                return Err(Refusal::Full);
            }
            let mut entries = snapshot.catalog.entries.clone();
            entries.push(entry.clone());
            let taken = |duplicates: Vec<super::Duplicate>| {
                Refusal::Taken(duplicates.into_iter().next().map(|duplicate| duplicate.name).unwrap_or_default())
            };
            snapshot.catalog = Catalog::new(entries).map_err(taken)?;
            snapshot.facts.push(Arc::new(Facts::new(&entry, false)));
            self.metrics.state(&entry.id, ModelState::Active);
            Ok(())
        })
    }

    /// Takes in what an earlier process knew of a model; `entry` where it does not come from the configuration.
    ///
    /// # Errors
    ///
    /// [`Refusal`], where another model has the name or the configuration no longer has the model.
    pub fn take_in(&self, id: &str, entry: Option<Entry>, earlier: Earlier) -> Result<(), Refusal> {
        if let Some(entry) = entry {
            self.add(entry)?;
        }
        self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            let facts = Arc::make_mut(&mut snapshot.facts[position]);
            let Earlier { state, distrust, created_at_ms, updated_at_ms } = earlier;
            (facts.state, facts.created_at_ms, facts.updated_at_ms) = (state, created_at_ms, updated_at_ms);
            if let Some(why) = distrust {
                facts.trust = ModelTrust::Failed;
                let run = Run { started_at_ms: updated_at_ms, ..Run::default() };
                let finding = Finding::Earlier(why);
                facts.verification = Verification::Ended { run: Arc::new(run), ended_at_ms: updated_at_ms, finding };
            }
            self.metrics.state(id, state);
            Ok(())
        })
    }

    /// Takes an entry out, and ends a verification of it.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`] or [`Refusal::Configured`].
    pub fn remove(&self, id: &str) -> Result<(), Refusal> {
        self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            if snapshot.facts[position].configured {
                return Err(Refusal::Configured(id.to_owned()));
            }
            let facts = snapshot.facts.remove(position);
            if let Verification::Running(run) = &facts.verification {
                run.stop.cancel();
            }
            let mut entries = snapshot.catalog.entries.clone();
            entries.remove(position);
            // Fewer names than before cannot clash.
            snapshot.catalog = Catalog::new(entries).map_err(|_| Refusal::Unknown(id.to_owned()))?;
            self.metrics.removed(id);
            Ok(())
        })
    }

    /// Retires a model or brings it back; returns the number of the change.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`].
    pub fn set_state(&self, id: &str, state: ModelState) -> Result<u64, Refusal> {
        self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            snapshot.edit(position, |facts| {
                facts.state = state;
                facts.changes += 1;
            });
            self.metrics.state(id, state);
            Ok(snapshot.facts[position].changes)
        })
    }

    /// Sets what a model costs from now on.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`].
    pub fn set_price(&self, id: &str, priced: Priced) -> Result<(), Refusal> {
        self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            Arc::make_mut(&mut snapshot.facts[position]).priced = priced;
            Ok(())
        })
    }

    /// Notes what an engine has loaded. Where the entry pins a digest, loading has compared it.
    pub fn loaded(&self, id: &str, files: &ModelFiles) {
        let noted = self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            let pinned = snapshot.catalog.entries[position].digest.is_some();
            snapshot.edit(position, |facts| {
                facts.files.clone_from(&files.files);
                facts.digest = Some(files.digest.clone());
                if pinned && facts.trust == ModelTrust::Unverified {
                    facts.trust = ModelTrust::Verified;
                }
            });
            Ok(())
        });
        if let Err(gone) = noted {
            tracing::debug!(%gone, "a model was loaded that is no longer in the catalog");
        }
    }

    /// Forgets what was recorded of a model's files: they may be others the next time that they are read.
    pub fn forget(&self, id: &str) {
        let forgotten = self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            let fresh = Facts::new(&snapshot.catalog.entries[position], false);
            snapshot.edit(position, |facts| {
                (facts.trust, facts.digest, facts.files) = (fresh.trust, fresh.digest, fresh.files);
            });
            Ok(())
        });
        if let Err(gone) = forgotten {
            tracing::debug!(%gone, "a model was purged that is no longer in the catalog");
        }
    }

    /// Begins a verification; `None` where one is under way.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`].
    pub fn begin_verification(&self, id: &str, stop: CancellationToken) -> Result<Option<(Model, Arc<Run>)>, Refusal> {
        self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            if matches!(snapshot.facts[position].verification, Verification::Running(_)) {
                return Ok(None);
            }
            let model = snapshot.model(position);
            let run = Arc::new(Run {
                started_at_ms: unix_ms(),
                bytes_total: AtomicU64::new(0),
                bytes_done: AtomicU64::new(0),
                stop,
            });
            let running = Verification::Running(Arc::clone(&run));
            snapshot.edit(position, |facts| facts.verification = running);
            Ok(Some((model, run)))
        })
    }

    /// Records what a verification has found. `engine` is for the metric. Whether the model is distrusted now.
    pub fn end_verification(&self, id: &str, run: &Arc<Run>, finding: Finding, engine: &str) -> bool {
        self.metrics.verified(&finding, engine);
        let distrusted = finding.is_distrust();
        let recorded = self.change(|snapshot| {
            let position = snapshot.of_id(id)?;
            let mine =
                matches!(&snapshot.facts[position].verification, Verification::Running(it) if Arc::ptr_eq(it, run));
            if !mine {
                return Err(Refusal::Unknown(id.to_owned()));
            }
            snapshot.edit(position, |facts| facts.verified(run, finding));
            Ok(())
        });
        recorded.is_ok() && distrusted
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a new snapshot of the current one. One change at a time; after an error nothing has changed.
    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut current = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&current);
        let result = change(&mut next)?;
        *current = Arc::new(next);
        Ok(result)
    }
}

impl Facts {
    fn new(entry: &Entry, configured: bool) -> Self {
        let now = unix_ms();
        // What is inside the program is as trusted as the program.
        let trusted = matches!(entry.source, ModelSource::Builtin(_));
        Self {
            configured,
            state: ModelState::Active,
            changes: 0,
            trust: if trusted { ModelTrust::Verified } else { ModelTrust::Unverified },
            digest: None,
            files: Vec::new(),
            verification: Verification::Never,
            priced: Priced::default(),
            created_at_ms: now,
            updated_at_ms: now,
        }
    }

    fn verified(&mut self, run: &Arc<Run>, finding: Finding) {
        if finding.is_distrust() {
            self.trust = ModelTrust::Failed;
        }
        if let Finding::Passed { files, digest } = &finding {
            self.trust = ModelTrust::Verified;
            self.files.clone_from(files);
            self.digest = Some(digest.clone());
        }
        self.verification = Verification::Ended { run: Arc::clone(run), ended_at_ms: unix_ms(), finding };
    }
}

impl Run {
    /// Bytes that were read, and all of them.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_done.load(Ordering::Relaxed), self.bytes_total.load(Ordering::Relaxed))
    }
}
