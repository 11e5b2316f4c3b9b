//! A second connection, that only reads: what is added up over many rows takes its time beside what is written.
//!
//! One reads at a time, in the order in which they came, so that whoever has to have the database's log to himself for a moment gets
//! his turn.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::postgres::Session;
use super::sql::{self, Connection};
use super::{FILE, Location, StoreError, sqlite};
use crate::lifecycle::Lifecycle;

/// How long somebody's reading may take.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// A handle; cheap to clone.
#[derive(Clone)]
pub(super) struct Reader {
    location: Location,
    lifecycle: Lifecycle,
    held: Arc<Mutex<Held>>,
}

/// How long it may take until a connection is there.
const OPENING: Duration = Duration::from_secs(10);

/// Nobody else reads while one has this.
pub(super) enum Held {
    /// Made where it is needed.
    Nothing,
    Connection(Box<Connection>),
    Closed,
}

impl Reader {
    pub(super) fn new(location: Location, lifecycle: Lifecycle) -> Self {
        Self { location, lifecycle, held: Arc::new(Mutex::new(Held::Nothing)) }
    }

    /// What is nowhere but in a connection has only that one.
    pub(super) fn has_connection(&self) -> bool {
        self.location != Location::Memory
    }

    /// Reads, also when nobody waits for it any more.
    pub(super) async fn read<T: Send + 'static>(
        self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut held = self.alone().await;
        let (location, lifecycle) = (self.location, self.lifecycle.clone());
        let read = move || {
            tokio::runtime::Handle::current().block_on(async move {
                let connection = held.connection(&location, &lifecycle).await?;
                let read = connection.within(LONGEST, work).await;
                if connection.is_lost() {
                    *held = Held::Nothing;
                }
                read.map_err(|error| StoreError::Failed(error.to_string().into()))
            })
        };
        self.lifecycle.blocking("read the store", read).await.map_err(|_| StoreError::Closed)?
    }

    /// Waits until nobody reads; nobody does so until what is returned is dropped.
    pub(super) fn alone(&self) -> impl Future<Output = OwnedMutexGuard<Held>> + Send + use<> {
        Arc::clone(&self.held).lock_owned()
    }

    /// Waits for whoever reads, and lets nobody in any more.
    pub(super) async fn close(&self) -> sql::Result<()> {
        match std::mem::replace(&mut *self.alone().await, Held::Closed) {
            Held::Connection(connection) => connection.close().await,
            Held::Nothing | Held::Closed => Ok(()),
        }
    }
}

impl Held {
    async fn connection(&mut self, location: &Location, lifecycle: &Lifecycle) -> Result<&mut Connection, StoreError> {
        // One that has ended since is of no use to anybody.
        let usable = match self {
            Self::Connection(connection) => !connection.is_lost(),
            Self::Nothing => false,
            Self::Closed => true,
        };
        if !usable {
            *self = Self::Nothing;
            let opened = timeout(OPENING, open(location, lifecycle)).await;
            let late = || StoreError::Failed("the database does not take another connection in time".into());
            *self = Self::Connection(Box::new(opened.map_err(|_| late())??));
        }
        if let Self::Connection(connection) = self { Ok(connection) } else { Err(StoreError::Closed) }
    }
}

async fn open(location: &Location, lifecycle: &Lifecycle) -> Result<Connection, StoreError> {
    let path = match location {
        Location::Memory => PathBuf::from(":memory:"),
        Location::File(path) => path.clone(),
        Location::DataFolder(folder) => folder.join(FILE),
        Location::Postgres(url) => {
            let session = Session::open_to_read(url, lifecycle).await;
            return session.map(Connection::postgres).map_err(|error| StoreError::Failed(error.to_string().into()));
        }
    };
    sqlite::connect_to_read(&path).map_err(|error| StoreError::Failed(error.to_string().into()))
}
