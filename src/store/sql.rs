//! The little SQL that tables need, whichever database it is said to: statements with numbered parameters, rows whose columns
//! have names, and savepoints.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::ledger::Entries;
use super::migrations::Unfit;
use super::postgres::{Owner, Session};
use super::sqlite::Sqlite;

/// How much later than it should a server's answer may come.
const GRACE: Duration = Duration::from_secs(5);

/// What a statement is said to.
pub(in crate::store) struct Connection {
    link: Link,
    /// Of the shared transaction; what takes that back, or a part of it, takes them back too.
    pub entries: Entries,
}

enum Link {
    Sqlite(Sqlite),
    Postgres(Box<Session>),
}

/// What went wrong with a statement, in the database's words.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the server did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// A row that must be there is not.
    #[error("no row was found where one was expected")]
    NoRow,
    #[error("the database has taken the transaction back")]
    TakenBack,
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Rows that were to go into the ledger together.
    #[error(transparent)]
    Entries(Box<Error>),
}

pub(in crate::store) type Result<T> = std::result::Result<T, Error>;

/// A parameter. NULL has a type as well.
pub(in crate::store) enum Value<'q> {
    Integer(Option<i64>),
    Text(Option<Cow<'q, str>>),
}

/// A row that was found.
pub(in crate::store) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

/// Which column of a row.
pub(in crate::store) enum At {
    Position(usize),
    Name(&'static str),
}

/// What can be read from a column.
pub(in crate::store) trait Column: Sized {
    fn read(row: &Row<'_>, at: At) -> Result<Self>;
}

/// What can be read from a row: one column, a tuple of columns in their order, or a struct (see [`from_row`]).
pub(in crate::store) trait FromRow: Sized {
    fn from_row(row: &Row<'_>) -> Result<Self>;
}

/// A statement, with `$1` for its first parameter.
pub(in crate::store) struct Query<'q> {
    sql: &'q str,
    values: Vec<Value<'q>>,
}

/// A statement without its parameters yet.
pub(in crate::store) fn query(sql: &str) -> Query<'_> {
    Query { sql, values: Vec::new() }
}

impl<'q> Query<'q> {
    /// The next parameter.
    pub fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The next parameters.
    pub fn bind_all(mut self, values: impl IntoIterator<Item = Value<'q>>) -> Self {
        self.values.extend(values);
        self
    }

    /// Does it, and says how many rows it has changed.
    pub async fn execute(self, connection: &mut Connection) -> Result<u64> {
        match &mut connection.link {
            Link::Sqlite(sqlite) => sqlite.execute(self.sql, &self.values),
            Link::Postgres(session) => session.execute(self.sql, &self.values).await,
        }
    }

    /// All rows.
    pub async fn fetch_all<T: FromRow>(self, connection: &mut Connection) -> Result<Vec<T>> {
        match &mut connection.link {
            Link::Sqlite(sqlite) => sqlite.fetch(self.sql, &self.values, |row| T::from_row(&Row::Sqlite(row))),
            Link::Postgres(session) => {
                let rows = session.fetch(self.sql, &self.values).await?;
                rows.iter().map(|row| T::from_row(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The one row, where there is one.
    pub async fn fetch_optional<T: FromRow>(self, connection: &mut Connection) -> Result<Option<T>> {
        Ok(self.fetch_all(connection).await?.into_iter().next())
    }

    /// The one row, which is there.
    pub async fn fetch_one<T: FromRow>(self, connection: &mut Connection) -> Result<T> {
        self.fetch_optional(connection).await?.ok_or(Error::NoRow)
    }
}

/// What is taken back together where it is not committed: a savepoint inside the transaction that is shared with others.
pub(in crate::store) struct Transaction<'c> {
    connection: &'c mut Connection,
    open: bool,
    /// How many rows had been entered before.
    entered: usize,
}

impl Connection {
    pub fn sqlite(sqlite: Sqlite) -> Self {
        Self { link: Link::Sqlite(sqlite), entries: Entries::near() }
    }

    pub fn postgres(session: Session) -> Self {
        Self { link: Link::Postgres(Box::new(session)), entries: Entries::far() }
    }

    /// Says goodbye.
    pub async fn close(self) -> Result<()> {
        match self.link {
            Link::Sqlite(sqlite) => sqlite.close(),
            Link::Postgres(session) => session.close().await,
        }
    }

    /// Does something that must not take longer.
    pub async fn within<T>(
        &mut self,
        limit: Duration,
        work: impl for<'c> FnOnce(&'c mut Self) -> BoxFuture<'c, Result<T>>,
    ) -> Result<T> {
        if let Link::Sqlite(sqlite) = &mut self.link {
            sqlite.stop_at(Instant::now() + limit)?;
        }
        // What a server has not answered in its own time has been left behind by it.
        let worked = tokio::time::timeout(limit + GRACE, work(self)).await;
        worked.unwrap_or_else(|_| {
            self.give_up();
            Err(Error::NoAnswer(limit))
        })
    }

    /// Whether the database cannot be reached any more over this connection.
    pub fn is_lost(&self) -> bool {
        match &self.link {
            Link::Sqlite(_) => false,
            Link::Postgres(session) => session.is_lost(),
        }
    }

    /// Looks whether the database can still be reached.
    pub async fn look(&mut self) {
        if let Link::Postgres(session) = &mut self.link {
            session.look().await;
        }
    }

    /// Ready once the connection has ended.
    pub fn ended(&self) -> BoxFuture<'static, ()> {
        match &self.link {
            Link::Sqlite(_) => Box::pin(std::future::pending()),
            Link::Postgres(session) => Box::pin(session.ended().clone().cancelled_owned()),
        }
    }

    /// The number of a transaction that may have been committed, where the connection was lost meanwhile.
    pub fn doubt(&self) -> Option<i64> {
        if let Link::Postgres(session) = &self.link { session.doubt() } else { None }
    }

    /// The gateway that writes over this connection; none of SQLite's.
    pub fn owner(&self) -> Option<&Owner> {
        if let Link::Postgres(session) = &self.link { session.owner() } else { None }
    }

    /// Takes the connection for lost: what was asked over it is not waited for any more.
    pub fn give_up(&mut self) {
        if let Link::Postgres(session) = &mut self.link {
            session.give_up();
        }
    }

    /// Whether a statement that fails takes those before it in its transaction with it.
    pub fn fails_together(&self) -> bool {
        matches!(self.link, Link::Postgres(_))
    }

    /// Begins what is done or undone together.
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        match &mut self.link {
            Link::Sqlite(sqlite) => sqlite.begin()?,
            Link::Postgres(session) => session.begin().await?,
        }
        let entered = self.entries.len();
        Ok(Transaction { connection: self, open: true, entered })
    }

    /// Begins the transaction that others share. It is for writing from its first statement on: what begins by reading cannot
    /// wait for another process that writes. `numbered`: where a server is asked, it can be known later whether it was committed.
    pub async fn begin_shared(&mut self, numbered: bool) -> Result<Transaction<'_>> {
        match &mut self.link {
            Link::Sqlite(sqlite) => sqlite.begin_shared()?,
            Link::Postgres(session) => session.begin_shared(numbered).await?,
        }
        let entered = self.entries.len();
        Ok(Transaction { connection: self, open: true, entered })
    }
}

impl Transaction<'_> {
    pub async fn commit(mut self) -> Result<()> {
        match &mut self.connection.link {
            Link::Sqlite(sqlite) => sqlite.commit()?,
            Link::Postgres(session) => session.commit().await?,
        }
        self.open = false;
        Ok(())
    }

    pub async fn rollback(mut self) -> Result<()> {
        self.connection.entries.truncate(self.entered);
        match &mut self.connection.link {
            Link::Sqlite(sqlite) => {
                self.open = false;
                sqlite.rollback()?;
            }
            Link::Postgres(session) => {
                session.abandon();
                // From here on it has been taken back, as far as the caller is concerned.
                self.open = false;
                session.settle().await?;
            }
        }
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    /// Takes back, before the next statement, what was not committed.
    fn drop(&mut self) {
        if self.open {
            self.connection.entries.truncate(self.entered);
            match &mut self.connection.link {
                // What could not be taken back is, before the next transaction.
                Link::Sqlite(sqlite) => _ = sqlite.rollback(),
                Link::Postgres(session) => session.abandon(),
            }
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
    }
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'q> From<&'q String> for Value<'q> {
    fn from(text: &'q String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'q> From<Option<&'q str>> for Value<'q> {
    fn from(text: Option<&'q str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

impl From<i64> for Value<'_> {
    fn from(integer: i64) -> Self {
        Self::Integer(Some(integer))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(integer: Option<i64>) -> Self {
        Self::Integer(integer)
    }
}

macro_rules! columns {
    ($($kind:ty),*) => {$(
        impl Column for $kind {
            fn read(row: &Row<'_>, at: At) -> Result<Self> {
                match (row, at) {
                    (Row::Sqlite(row), At::Position(position)) => Ok(row.get(position)?),
                    (Row::Sqlite(row), At::Name(name)) => Ok(row.get(name)?),
                    (Row::Postgres(row), At::Position(position)) => Ok(row.try_get(position)?),
                    (Row::Postgres(row), At::Name(name)) => Ok(row.try_get(name)?),
                }
            }
        }
    )*};
}

columns!(String, Option<String>, i64, Option<i64>, bool);

impl<T: Column> FromRow for T {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        T::read(row, At::Position(0))
    }
}

impl<A: Column, B: Column> FromRow for (A, B) {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok((A::read(row, At::Position(0))?, B::read(row, At::Position(1))?))
    }
}

impl<A: Column, B: Column, C: Column> FromRow for (A, B, C) {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok((A::read(row, At::Position(0))?, B::read(row, At::Position(1))?, C::read(row, At::Position(2))?))
    }
}

/// Lets a struct be read from a row whose columns have the names of its fields: `from_row!(PoolRow { id, model });`.
macro_rules! from_row {
    ($row:ident { $($field:ident),* $(,)? }) => {
        impl $crate::store::sql::FromRow for $row {
            fn from_row(row: &$crate::store::sql::Row<'_>) -> $crate::store::sql::Result<Self> {
                use $crate::store::sql::{At, Column};
                Ok(Self { $($field: Column::read(row, At::Name(stringify!($field)))?),* })
            }
        }
    };
}

pub(in crate::store) use from_row;
