//! The store: one database per gateway, SQLite in a file or a schema of PostgreSQL, for everything that survives a restart.
//!
//! | module | job |
//! | --- | --- |
//! | `outage` | a server that is away for a while, and what is done meanwhile |
//! | `spool` | a file of records that wait for it |
//! | `ownership` | one process per data folder |
//! | `postgres` | a session with PostgreSQL, and one gateway per schema |
//! | `reader` | a second connection, for sums that may take long |
//! | `sqlite` | connections to SQLite |
//! | `queue` | what waits to be written |
//! | `writer` | one connection; what is waiting is committed together |
//! | `artifacts` | documents that are named by their content |
//! | `audit` | what administrators did |
//! | `catalog` | models that were added, and what is kept of all |
//! | `declared` | what the configuration declares, as it was recorded last |
//! | `record` | what becomes of a task that runs, as it is written |
//! | `journal` | tasks that were answered with 202, and the keys they were sent with |
//! | `ledger` | what tasks have used that have ended |
//! | `pools` | what operators did to pools |
//! | `prices` | what models cost that administrators have set |
//! | `holds` | what tasks have reserved, and when the process was last seen to live |
//! | `sessions` | sessions |
//! | `sums` | what the ledger's rows come to, for budgets |
//! | `sql` | statements, rows and savepoints, whichever database it is |
//! | `tenants` | tenants and their API keys |
//! | `workers` | servers that have registered with a pool |
//! | `migrations` | the tables, as numbered SQL files, and which of them a database has |
//!
//! # Adding tables
//!
//! Another concern adds `migrations/NNNN_concern.sql` (never change a file that was released), and `concern.rs`, which holds
//! its plain rows (numbers, strings, JSON as text; `from_row!` where they are read) and its functions as `impl Store`. A
//! function is one call of `Store::run`, which waits for the commit, or of `Store::enqueue`, which does not and calls back;
//! the closure gets the connection inside a transaction that it shares with others. It may be called again, so it clones
//! what it hands on. One statement is atomic by itself; a function with several takes `connection.begin()`, which is a
//! savepoint there. Operations are applied in the order in which they are handed over. Nothing outside this module names
//! a database's driver; rows mean nothing here, whoever asks for them gives them meaning.
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
//! `secure_delete` overwrites what is deleted, and [`Scrub`] empties the log of it too, which waits for sums that look into it.
//!
//! With PostgreSQL it is the server that makes a commit durable (`synchronous_commit`), and that decides when deleted rows leave
//! its files. A gateway whose connection is lost does not know whether its last commit was made, nor whether another gateway
//! has taken the schema meanwhile. One with an [`Outage`] finds out when the server is back, and keeps what tasks have used in
//! a file until then; any other shuts down with a line of log, and what it had answered is there for the next start.
//!
//! # Time
//!
//! A batch runs as blocking work of the runtime, and not on a thread that the runtime does not know: under paused time
//! (tests) the clock stands still while blocking work runs, and would leap to the next deadline while a foreign thread is
//! waited for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

use crate::audit::Act;
use crate::lifecycle::{Lifecycle, OnPanic};

mod artifacts;
mod audit;
mod catalog;
mod declared;
mod holds;
mod journal;
mod ledger;
mod metrics;
mod migrations;
mod outage;
mod ownership;
mod pools;
mod postgres;
mod prices;
mod queue;
mod reader;
mod record;
mod sessions;
mod spool;
mod sql;
mod sqlite;
mod sums;
mod tenants;
mod workers;
mod writer;

pub use artifacts::{ArtifactRow, NewArtifact, Put};
pub use audit::AuditQuery;
pub use catalog::ModelRow;
pub use declared::DeclaredRow;
pub use holds::{HeldRows, HoldRow, SpentRow};
pub use journal::{EndedRow, KeyRow, TaskRow};
pub use ledger::{LedgerRow, UsageQuery, UsageRow};
pub use metrics::StoreMetrics;
pub use outage::Outage;
use outage::Survival;
pub use ownership::InUse;
use ownership::Ownership;
pub use pools::PoolRow;
pub use postgres::{DatabaseInUse, DatabaseUrl};
use postgres::{Session, Unusable};
pub use prices::PriceRow;
use queue::{Operation, Queue, Statements, WhileAway, Work};
use reader::Reader;
use record::Record;
pub use sessions::SessionRow;
use sql::Connection;
pub use sums::SpentSums;
pub use tenants::{ApiKeyRow, Changed, DEFAULT_TENANT, Home, TenantChange, TenantRow};
pub use workers::WorkerRow;
use writer::Writer;

/// The database in a data folder.
const FILE: &str = "sluicegate.db";

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: what it holds ends with the process.
    Memory,
    /// A file in a folder that is there. No other process may use it.
    File(PathBuf),
    /// The same in a data folder, which is made where it is missing.
    DataFolder(PathBuf),
    /// A schema of PostgreSQL: the first one of the `search_path` that is there.
    Postgres(DatabaseUrl),
}

/// Why the store cannot be opened. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    InUse(#[from] InUse),
    #[error("cannot use the folder {folder}: {error}", folder = folder.display())]
    Folder { folder: PathBuf, error: std::io::Error },
    #[error("{0}")]
    DatabaseInUse(#[from] DatabaseInUse),
    #[error("cannot open the store {place}: {reason}")]
    Database { place: String, reason: String },
}

/// Why something was not stored, or not found out. It may succeed later where the disk has room again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store fails: {0}")]
    Failed(Arc<str>),
    #[error("the store is closed")]
    Closed,
    /// Its server cannot be reached.
    #[error("the database is away")]
    Away,
}

impl StoreError {
    /// What a client is told who can come again once the database is back.
    pub fn away(&self) -> Option<ErrorEnvelope> {
        let message = "the gateway's database is away, and what needs it is refused until it is back; try again later";
        let away = || ErrorEnvelope::new(ErrorCode::PoolUnready, message).with_retry_after_ms(RETRY_AFTER_MS);
        (*self == Self::Away).then(away)
    }
}

/// After which somebody may try again whose request needs a database that is away.
const RETRY_AFTER_MS: u64 = 5000;

/// Whether the database's log is emptied after a commit, because it holds what was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    No,
    Yes,
}

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Store {
    queue: Arc<Queue>,
    reader: Reader,
    /// What is changed with this handle is part of it.
    act: Option<Arc<Act>>,
}

impl Store {
    /// Opens the database, brings its tables up to date, and starts to write.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is left open then.
    pub async fn open(location: &Location, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        Self::open_for(location, None, lifecycle).await
    }

    /// The same, for a gateway that goes on while a server is away.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_to_outlast(
        location: &Location,
        outage: Outage,
        lifecycle: &Lifecycle,
    ) -> Result<Self, OpenError> {
        Self::open_for(location, Some(outage), lifecycle).await
    }

    async fn open_for(location: &Location, outage: Option<Outage>, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        let own = match location {
            Location::Memory | Location::Postgres(_) => None,
            Location::File(path) => Some((None, path.clone())),
            Location::DataFolder(folder) => Some((Some(folder.clone()), folder.join(FILE))),
        };
        let own = move || {
            let Some((folder, path)) = own else { return Ok(None) };
            folder.as_deref().map_or(Ok(()), make)?;
            Ownership::take(&path).map(Some)
        };
        Self::open_with(location, lifecycle, (true, outage), own).await
    }

    /// Opens the database beside a gateway that may run on it: for what several processes may change.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_beside(location: &Location, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        let folder = if let Location::DataFolder(folder) = location { Some(folder.clone()) } else { None };
        let none = move || folder.as_deref().map_or(Ok(()), make).map(|()| None);
        Self::open_with(location, lifecycle, (false, None), none).await
    }

    async fn open_with(
        location: &Location,
        lifecycle: &Lifecycle,
        (alone, outage): (bool, Option<Outage>),
        own: impl FnOnce() -> Result<Option<Ownership>, OpenError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (at, place, spawner) = (location.clone(), location.to_string(), lifecycle.clone());
        let open = move || {
            let ownership = own()?;
            let opened = tokio::runtime::Handle::current().block_on(async {
                let mut connection = at.connect(alone, &spawner).await?;
                let survival = at.survive(outage, &mut connection).await?;
                Ok::<_, OpenError>((connection, survival))
            });
            let (connection, survival) = opened?;
            Ok::<_, OpenError>((connection, survival, ownership))
        };
        let panicked = |_| OpenError::Database { place, reason: "the work panicked".to_owned() };
        let (connection, survival, ownership) =
            lifecycle.blocking("open the store", open).await.map_err(panicked)??;
        let (queue, reader) = (Arc::new(Queue::default()), Reader::new(location.clone(), lifecycle.clone()));
        let (to_write, to_read) = (Arc::clone(&queue), reader.clone());
        let writer = Writer { queue: to_write, lifecycle: lifecycle.clone(), reader: to_read, ownership, survival };
        lifecycle.spawn("store", OnPanic::Shutdown, writer.run(connection));
        Ok(Self { queue, reader, act: None })
    }

    /// Whether its server is away: what has to be durable at once is refused, and the rest waits.
    pub fn is_away(&self) -> bool {
        self.queue.is_away()
    }

    /// Writes what was handed over, closes the database, and lets go of its folder. Later operations fail.
    pub async fn close(&self) {
        self.queue.close().await;
    }

    /// Hands over one operation, and tells `done` once it is committed or has failed. It waits where the database is away.
    fn enqueue(
        &self,
        scrub: Scrub,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync + 'static,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.push(scrub, Work::Statements(Box::new(work), WhileAway::Wait), done);
    }

    /// The same, of what is refused where the database is away.
    fn enqueue_or_refuse(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync + 'static,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.push(Scrub::No, Work::Statements(Box::new(work), WhileAway::Refused), done);
    }

    /// Hands over a step of a task, and tells `done` once it is committed, or kept until it can be.
    fn record(&self, record: Record, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.push(Scrub::No, Work::Record(Box::new(record)), done);
    }

    fn push(&self, scrub: Scrub, work: Work, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.queue.push(Operation { work, done: Box::new(done), scrub, spooled: None });
    }

    /// Looks at what is durable, without a transaction, and however long it takes nobody's commit waits for it.
    fn read<T: Send + 'static>(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        if !self.reader.has_connection() {
            return self.run(work);
        }
        let (reader, queue) = (self.reader.clone(), Arc::clone(&self.queue));
        Box::pin(async move {
            let read = reader.read(work).await;
            read.map_err(|error| if queue.is_away() { StoreError::Away } else { error })
        })
    }

    /// Hands over one operation, and waits until it is committed or has failed. It is done also when nobody waits, and is refused
    /// where the database is away.
    fn run<T: Send + 'static>(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        self.run_as(WhileAway::Refused, work)
    }

    /// The same, of what changes nothing.
    fn look<T: Send + 'static>(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        self.run_as(WhileAway::Reading, work)
    }

    fn run_as<T: Send + 'static>(
        &self,
        while_away: WhileAway,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        // Where the work is done again, what it finds then counts.
        let found = Arc::new(Mutex::new(None));
        let (told, committed) = oneshot::channel();
        let result = Arc::clone(&found);
        let statements: Statements = Box::new(move |connection| {
            let (work, found) = (work(connection), Arc::clone(&found));
            Box::pin(async move {
                let value = work.await?;
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                Ok(())
            })
        });
        let work = Work::Statements(statements, while_away);
        // Nobody waits any more where sending fails.
        self.push(Scrub::No, work, |result| _ = told.send(result));
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
    /// The database of a data folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self::DataFolder(folder.to_owned())
    }

    /// Prepares for the time for which a server may be away.
    async fn survive(
        &self,
        outage: Option<Outage>,
        connection: &mut Connection,
    ) -> Result<Option<Survival>, OpenError> {
        let (Self::Postgres(url), Some(outage), Some(owner)) = (self, outage, connection.owner().cloned()) else {
            return Ok(None);
        };
        let survival = Survival::begin(outage, url.clone(), owner, connection).await;
        survival.map(Some).map_err(|reason| OpenError::Database { place: self.to_string(), reason })
    }

    async fn connect(&self, alone: bool, lifecycle: &Lifecycle) -> Result<Connection, OpenError> {
        let opened = match self {
            Self::Memory => sqlite::connect(None, alone).await,
            Self::File(path) => sqlite::connect(Some(path), alone).await,
            Self::DataFolder(folder) => sqlite::connect(Some(&folder.join(FILE)), alone).await,
            Self::Postgres(url) => match Session::open(url, alone, lifecycle).await {
                Ok(session) => Ok(Connection::postgres(session)),
                Err(Unusable::InUse(in_use)) => return Err(in_use.into()),
                Err(unusable) => {
                    return Err(OpenError::Database { place: self.to_string(), reason: unusable.to_string() });
                }
            },
        };
        opened.map_err(|error| OpenError::Database { place: self.to_string(), reason: error.to_string() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => text.write_str(":memory:"),
            Self::File(path) => write!(text, "{}", path.display()),
            Self::DataFolder(folder) => write!(text, "{}", folder.join(FILE).display()),
            Self::Postgres(url) => write!(text, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests;
