//! The store: one SQLite database per gateway, for everything that survives a restart.
//!
//! | module | job |
//! | --- | --- |
//! | `ownership` | one process per data folder |
//! | `writer` | one connection; what is waiting is committed together |
//! | `artifacts` | documents that are named by their content |
//! | `catalog` | models that were added, and what is kept of all |
//! | `journal` | tasks that were answered with 202, and the keys they were sent with |
//! | `pools` | what operators did to pools |
//! | `sessions` | sessions, and what their tasks have reserved |
//! | `sql` | statements, rows and savepoints, whichever database it is |
//! | `tenants` | tenants and their API keys |
//! | `workers` | servers that have registered with a pool |
//! | `migrations` | the tables, as numbered SQL files |
//!
//! # Adding tables
//!
//! Another concern adds `migrations/NNNN_concern.sql` (never change a file that was released) and `concern.rs`, which holds
//! its plain rows (numbers, strings, JSON as text; `from_row!` where they are read) and its functions as `impl Store`. A
//! function is one call of `Store::run`, which waits for the commit, or of `Store::enqueue`, which does not and calls back;
//! the closure gets the connection inside a transaction that it shares with others. It may be called again, so it clones
//! what it hands on. One statement is atomic by itself; a function with several takes `connection.begin()`, which is a
//! savepoint there. Operations are applied in the order in which they are handed over. Nothing outside this module names
//! sqlx; rows mean nothing here, whoever asks for them gives them meaning.
//!
//! Tables say `sql::query(…).bind(…)`, and keep to what SQLite and PostgreSQL have in common: `BIGINT` and `TEXT`,
//! `ON CONFLICT`, `RETURNING`, parameters `$1`; flags are `BIGINT`, read as `flag <> 0 AS flag`. A sum is read as
//! `CAST(SUM(x) AS BIGINT)`, because PostgreSQL's is of another type; texts are sorted after they were read, because
//! databases differ in their order; texts hold no NUL character.
//!
//! # Durability
//!
//! The journal mode is WAL with `synchronous = FULL`: a commit returns when the log is on the disk, so that it also
//! outlives a loss of power. What that costs (one `fsync`) is shared: while one batch is committed the next gathers.
//! `secure_delete` overwrites what is deleted, and [`Scrub`] empties the log of it too.
//!
//! # Time
//!
//! A batch runs as blocking work of the runtime, and not on a thread that the runtime does not know: under paused time
//! (tests) the clock stands still while blocking work runs, and would leap to the next deadline while a foreign thread is
//! waited for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::lifecycle::{Lifecycle, OnPanic};

mod artifacts;
mod catalog;
mod journal;
mod ownership;
mod pools;
mod sessions;
mod sql;
mod tenants;
mod workers;
mod writer;

pub use artifacts::{ArtifactRow, NewArtifact, Put};
pub use catalog::ModelRow;
pub use journal::{EndedRow, KeyRow, TaskRow};
pub use ownership::InUse;
use ownership::Ownership;
pub use pools::PoolRow;
pub use sessions::{HoldRow, SessionRow, SpentRow};
use sql::Connection;
pub use tenants::{ApiKeyRow, Changed, DEFAULT_TENANT, TenantChange, TenantRow};
pub use workers::WorkerRow;
use writer::{Operation, Queue, Work};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: what it holds ends with the process.
    Memory,
    /// A file in a folder that is there. No other process may use it.
    File(PathBuf),
    /// The same in a data folder, which is made where it is missing.
    DataFolder(PathBuf),
}

/// Why the store cannot be opened. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    InUse(#[from] InUse),
    #[error("cannot use the folder {folder}: {error}", folder = folder.display())]
    Folder { folder: PathBuf, error: std::io::Error },
    #[error("cannot open the store {path}: {reason}", path = path.display())]
    Database { path: PathBuf, reason: String },
}

/// Why something was not stored, or not found out. It may succeed later where the disk has room again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store fails: {0}")]
    Failed(Arc<str>),
    #[error("the store is closed")]
    Closed,
}

/// Whether the database's log is emptied after a commit, because it holds what was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    No,
    Yes,
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Queue>);

impl Store {
    /// Opens the database, brings its tables up to date, and starts to write.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is left open then.
    pub async fn open(location: &Location, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        Self::open_with(location, lifecycle, |location| match location {
            Location::Memory => Ok(None),
            Location::File(path) => Ownership::take(path).map(Some),
            Location::DataFolder(folder) => {
                make(folder)?;
                Ownership::take(&location.path()).map(Some)
            }
        })
        .await
    }

    async fn open_with(
        location: &Location,
        lifecycle: &Lifecycle,
        own: impl FnOnce(&Location) -> Result<Option<Ownership>, OpenError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (place, path) = (location.clone(), location.path());
        let open = move || {
            let ownership = own(&place)?;
            let alone = ownership.is_some() || place == Location::Memory;
            let opened = tokio::runtime::Handle::current().block_on(writer::connect(&place, alone));
            let failed = |error: sql::Error| OpenError::Database { path: place.path(), reason: error.to_string() };
            Ok::<_, OpenError>((opened.map_err(failed)?, ownership))
        };
        let panicked = |_| OpenError::Database { path, reason: "the work panicked".to_owned() };
        let (connection, ownership) = lifecycle.blocking("open the store", open).await.map_err(panicked)??;
        let queue = Arc::new(Queue::default());
        let run = writer::run(Arc::clone(&queue), lifecycle.clone(), connection, ownership);
        lifecycle.spawn("store", OnPanic::Shutdown, run);
        Ok(Self(queue))
    }

    /// Opens the database beside a gateway that may run on it: for what several processes may change.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_beside(location: &Location, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        Self::open_with(location, lifecycle, |location| match location {
            Location::DataFolder(folder) => make(folder).map(|()| None),
            Location::Memory | Location::File(_) => Ok(None),
        })
        .await
    }

    /// Writes what was handed over, closes the database, and lets go of its folder. Later operations fail.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// Hands over one operation, and tells `done` once it is committed or has failed.
    fn enqueue(
        &self,
        scrub: Scrub,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync + 'static,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.0.push(Operation { work: Box::new(work), done: Box::new(done), scrub });
    }

    /// Hands over one operation, and waits until it is committed or has failed. It is done also when nobody waits.
    fn run<T: Send + 'static>(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        // Where the work is done again, what it finds then counts.
        let found = Arc::new(Mutex::new(None));
        let (told, committed) = oneshot::channel();
        let result = Arc::clone(&found);
        let work: Work = Box::new(move |connection| {
            let (work, found) = (work(connection), Arc::clone(&found));
            Box::pin(async move {
                let value = work.await?;
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                Ok(())
            })
        });
        // Nobody waits any more where sending fails.
        self.0.push(Operation { work, done: Box::new(|result| _ = told.send(result)), scrub: Scrub::No });
        Box::pin(async move {
            committed.await.map_err(|_| StoreError::Closed)??;
            result.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(StoreError::Closed)
        })
    }
}

fn make(folder: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(folder).map_err(|error| OpenError::Folder { folder: folder.to_owned(), error })
}

/// A Unix time in ms as tables have it.
pub fn signed(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

impl Location {
    /// The file, or the name of none.
    fn path(&self) -> PathBuf {
        match self {
            Self::Memory => PathBuf::from(":memory:"),
            Self::File(path) => path.clone(),
            Self::DataFolder(folder) => folder.join("sluicegate.db"),
        }
    }

    /// The database of a data folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self::DataFolder(folder.to_owned())
    }
}

#[cfg(test)]
mod tests;
