//! PostgreSQL: a session that has the tables, and the right to write them.
//!
//! Whoever writes takes turns, as with SQLite: a transaction begins with an advisory lock of the schema, so that a command
//! beside the gateway sees and changes a whole state. The gateway itself holds a second one for as long as its session lasts,
//! which tells another gateway that the schema is taken. Each gateway that takes it counts on a number in it, so that one whose
//! session was lost can tell whether another has had it meanwhile.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row, Statement};
use tokio_util::sync::CancellationToken;

use super::migrations;
use super::reader::LONGEST;
use super::sql::{Error, Result, Value};
use crate::lifecycle::{Lifecycle, OnPanic};

mod tls;
mod url;

use tls::Tls;
pub(in crate::store) use tls::TlsError;
pub use url::DatabaseUrl;

/// How long a server may take to answer nothing.
const LOOK: Duration = Duration::from_secs(5);

/// How long somebody else may hold a lock: a command that writes, or a gateway before this one whose end the server has yet to
/// notice.
const LOCKED: &str = "5s";

/// PostgreSQL 13, as `server_version_num` has it.
const OLDEST: i64 = 130_000;

/// Beside these, the lower 32 bits of an advisory lock are the number of the schema.
const OWNER: i64 = 0x736c_7569 << 32;
const WRITER: i64 = 0x736c_7577 << 32;

/// Another gateway has the schema.
#[derive(Debug, thiserror::Error)]
#[error("the {database} (schema {schema}) is in use by another gateway{holder}; give each gateway a database or a schema of its own",
    holder = session.as_ref().map_or_else(String::new, |session| format!(" ({session})")))]
pub struct DatabaseInUse {
    pub database: String,
    pub schema: String,
    /// The session that has it, where the server tells.
    pub session: Option<String>,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    InUse(#[from] DatabaseInUse),
    #[error("PostgreSQL 13 is the oldest that serves; this is {0}")]
    TooOld(String),
    #[error("its encoding is {0}; it has to be UTF8")]
    Encoding(String),
    #[error("no schema of its search_path is there")]
    NoSchema,
    #[error(transparent)]
    Failed(#[from] Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<tokio_postgres::Error> for Unusable {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A gateway that has the schema.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    /// Of the schema, whatever it is called: the first gateway has made it up.
    pub name: String,
    /// Of the gateways that have had it.
    number: i64,
    /// Of the server, for its session.
    process: i32,
}

/// Why a session was not opened again.
#[derive(Debug)]
pub(super) enum NotBack {
    /// In words; it may be another time.
    Later(String),
    /// Another gateway has had the schema.
    Taken,
}

impl From<Unusable> for NotBack {
    fn from(error: Unusable) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<tokio_postgres::Error> for NotBack {
    fn from(error: tokio_postgres::Error) -> Self {
        Unusable::from(error).into()
    }
}

/// A session.
pub(in crate::store) struct Session {
    client: Client,
    statements: HashMap<String, Statement>,
    /// Of the shared transaction, and of the savepoints inside.
    depth: usize,
    /// From here on everything is to be taken back before the next statement.
    abandoned: Option<usize>,
    schema: i64,
    given_up: bool,
    /// The connection has ended.
    ended: CancellationToken,
    /// Of the transactions of all owners that have been numbered.
    last: i64,
    /// The one that is under way.
    number: Option<i64>,
    /// The transaction whose commit was asked for, and not answered.
    doubt: Option<i64>,
    owner: Option<Owner>,
}

impl Session {
    /// Opens a session, takes the schema where it is to be taken, and brings the tables up to date.
    pub(super) async fn open(
        url: &DatabaseUrl,
        alone: bool,
        lifecycle: &Lifecycle,
    ) -> std::result::Result<Self, Unusable> {
        let (client, ended) = connect(url, lifecycle).await?;
        fits(&client).await?;
        let (schema, name) = prepare(&client).await?;
        if alone {
            own(&client, url, schema, name).await?;
        }
        let mut session = Self::over(client, ended, schema);
        session.migrate().await?;
        if alone {
            session.owner = Some(session.count_on().await?);
        }
        Ok(session)
    }

    /// Opens a session again for a gateway that has lost the one that it had, and tells whether the transaction with the number
    /// `doubt` was committed.
    pub(super) async fn open_again(
        url: &DatabaseUrl,
        owner: &Owner,
        doubt: Option<i64>,
        lifecycle: &Lifecycle,
    ) -> std::result::Result<(Self, bool), NotBack> {
        let (client, ended) = connect(url, lifecycle).await?;
        let (schema, name) = prepare(&client).await?;
        unchanged(&client, owner).await?;
        // The server may not have noticed that the session has lost its gateway.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
                   AND (classid::bigint << 32) | objid::bigint = $1 AND pid = $2 \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        client.execute(end, &[&(OWNER | schema), &owner.process]).await?;
        own(&client, url, schema, name).await?;
        // The session that had begun it has ended, or it would still have the lock.
        let last = unchanged(&client, owner).await?;
        let process = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let mut session = Self::over(client, ended, schema);
        session.owner = Some(Owner { process, ..owner.clone() });
        session.last = last.max(doubt.unwrap_or(last));
        Ok((session, doubt == Some(last)))
    }

    /// Counts this gateway, which has the schema.
    async fn count_on(&mut self) -> std::result::Result<Owner, Unusable> {
        let count = "UPDATE owner SET number = number + 1, name = CASE WHEN name = '' THEN $1 ELSE name END \
                     RETURNING name, number, pg_backend_pid(), last_batch";
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        self.begin_shared(false).await?;
        let row = self.client.query_one(count, &[&fresh]).await?;
        self.commit().await?;
        self.last = row.get(3);
        Ok(Owner { name: row.get(0), number: row.get(1), process: row.get(2) })
    }

    pub(super) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// Cancelled when the connection has ended.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The number of a transaction that may have been committed.
    pub(super) fn doubt(&self) -> Option<i64> {
        self.doubt
    }

    /// Looks whether the server still answers.
    pub(super) async fn look(&mut self) {
        let answer = tokio::time::timeout(LOOK, self.client.simple_query("")).await;
        self.given_up |= !matches!(answer, Ok(Ok(_)));
    }

    /// Opens a session beside that of the gateway, which changes nothing.
    pub(super) async fn open_to_read(url: &DatabaseUrl, lifecycle: &Lifecycle) -> std::result::Result<Self, Unusable> {
        let (client, ended) = connect(url, lifecycle).await?;
        let limit = LONGEST.as_millis();
        client
            .batch_execute(&format!("SET default_transaction_read_only = on; SET statement_timeout = {limit}"))
            .await?;
        Ok(Self::over(client, ended, 0))
    }

    fn over(client: Client, ended: CancellationToken, schema: i64) -> Self {
        let (statements, given_up, owner) = (HashMap::new(), false, None);
        Self {
            client,
            statements,
            depth: 0,
            abandoned: None,
            schema,
            given_up,
            ended,
            last: 0,
            number: None,
            doubt: None,
            owner,
        }
    }

    /// Applies the table files that have not been applied, all or none.
    async fn migrate(&mut self) -> std::result::Result<(), Unusable> {
        self.begin_shared(false).await?;
        self.client.batch_execute(migrations::NOTES).await?;
        let noted = self.client.query(migrations::NOTED, &[]).await?;
        let noted = noted.iter().map(|row| (row.get(0), row.get(1))).collect();
        for file in migrations::pending(noted).map_err(Error::from)? {
            self.client.batch_execute(file.sql).await?;
            self.client.execute(migrations::NOTE, &[&file.version, &file.checksum()]).await?;
        }
        Ok(self.commit().await?)
    }

    /// Whether the server has gone.
    pub(super) fn is_lost(&self) -> bool {
        self.given_up || self.client.is_closed()
    }

    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Lets go of the schema, so that the next gateway need not wait until the server has noticed.
    pub(super) async fn close(self) -> Result<()> {
        if self.is_lost() {
            return Ok(());
        }
        Ok(self.client.batch_execute("SELECT pg_advisory_unlock_all()").await?)
    }

    /// `numbered`: so that it can be known what became of it, should the connection be lost.
    pub(super) async fn begin_shared(&mut self, numbered: bool) -> Result<()> {
        self.settle().await?;
        (self.number, self.doubt) = (None, None);
        // Another writer's lock is waited for, for a while.
        let mut begin = format!("BEGIN; SELECT pg_advisory_xact_lock({})", WRITER | self.schema);
        if numbered && self.owner.is_some() {
            self.last += 1;
            self.number = Some(self.last);
            // Infallible: it is a text.
            _ = write!(begin, "; UPDATE owner SET last_batch = {}", self.last);
        }
        self.depth = 1;
        if let Err(error) = self.client.batch_execute(&begin).await {
            self.abandon();
            return Err(error.into());
        }
        Ok(())
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        self.settle().await?;
        self.client.batch_execute(&format!("SAVEPOINT s{}", self.depth)).await?;
        self.depth += 1;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        self.settle().await?;
        let end = match self.depth {
            1 => {
                self.doubt = self.number.take();
                "COMMIT".to_owned()
            }
            depth => format!("RELEASE SAVEPOINT s{}", depth - 1),
        };
        self.client.batch_execute(&end).await?;
        self.doubt = None;
        self.depth -= 1;
        Ok(())
    }

    /// Takes back what was begun last, before the next statement.
    pub(super) fn abandon(&mut self) {
        self.abandoned = Some(self.depth);
        self.depth -= 1;
    }

    /// Takes back what was abandoned.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let undo = match self.abandoned {
            None => return Ok(()),
            Some(1) => "ROLLBACK".to_owned(),
            Some(depth) => format!("ROLLBACK TO SAVEPOINT s{0}; RELEASE SAVEPOINT s{0}", depth - 1),
        };
        self.client.batch_execute(&undo).await?;
        self.abandoned = None;
        Ok(())
    }

    pub(super) async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        let statement = self.prepare(sql, values).await?;
        let values = parameters(values);
        Ok(self.client.execute(&statement, &borrowed(&values)).await?)
    }

    pub(super) async fn fetch(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let statement = self.prepare(sql, values).await?;
        let values = parameters(values);
        Ok(self.client.query(&statement, &borrowed(&values)).await?)
    }

    async fn prepare(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Statement> {
        self.settle().await?;
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let types: Vec<Type> = values
            .iter()
            .map(|value| match value {
                Value::Integer(_) => Type::INT8,
                Value::Text(_) => Type::TEXT,
            })
            .collect();
        let statement = self.client.prepare_typed(sql, &types).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

type Parameter<'q> = Box<dyn ToSql + Sync + Send + 'q>;

fn parameters<'q>(values: &'q [Value<'_>]) -> Vec<Parameter<'q>> {
    let parameter = |value: &'q Value<'_>| match value {
        Value::Integer(integer) => Box::new(*integer) as Parameter<'q>,
        Value::Text(text) => Box::new(text.as_deref()),
    };
    values.iter().map(parameter).collect()
}

fn borrowed<'p>(parameters: &'p [Parameter<'_>]) -> Vec<&'p (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect()
}

/// With what is cancelled when the connection has ended.
async fn connect(
    url: &DatabaseUrl,
    lifecycle: &Lifecycle,
) -> std::result::Result<(Client, CancellationToken), Unusable> {
    let (client, connection): (_, BoxFuture<'static, _>) = match Tls::of(&url.encryption)? {
        None => {
            let (client, connection) = url.config.connect(NoTls).await?;
            (client, connection.boxed())
        }
        Some(tls) => {
            let (client, connection) = url.config.connect(tls).await?;
            (client, connection.boxed())
        }
    };
    let (ended, place) = (CancellationToken::new(), url.to_string());
    let ending = ended.clone().drop_guard();
    lifecycle.spawn("database", OnPanic::Shutdown, async move {
        let _ending = ending;
        if let Err(error) = connection.await {
            tracing::error!(error = %Error::from(error), "the connection to the {place} is lost");
        }
    });
    Ok((client, ended))
}

/// Sets a session up to write, and finds its schema.
async fn prepare(client: &Client) -> std::result::Result<(i64, String), Unusable> {
    client.batch_execute(&format!("SET lock_timeout = '{LOCKED}'; SET synchronous_commit = on")).await?;
    let row = client
        .query_opt("SELECT oid::bigint, nspname::text FROM pg_namespace WHERE nspname = current_schema()", &[])
        .await?;
    row.map(|row| (row.get(0), row.get(1))).ok_or(Unusable::NoSchema)
}

/// The number of the last transaction, where nobody has had the schema since this owner.
async fn unchanged(client: &Client, owner: &Owner) -> std::result::Result<i64, NotBack> {
    let row = client.query_one("SELECT number, last_batch FROM owner", &[]).await?;
    if row.get::<_, i64>(0) == owner.number { Ok(row.get(1)) } else { Err(NotBack::Taken) }
}

/// Whether the server is one that the tables can be in.
async fn fits(client: &Client) -> std::result::Result<(), Unusable> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'), \
             current_setting('server_encoding')",
            &[],
        )
        .await?;
    if row.get::<_, i64>(0) < OLDEST {
        return Err(Unusable::TooOld(row.get(1)));
    }
    let encoding: String = row.get(2);
    if encoding == "UTF8" { Ok(()) } else { Err(Unusable::Encoding(encoding)) }
}

/// Takes the schema for as long as the session lasts.
async fn own(client: &Client, url: &DatabaseUrl, schema: i64, name: String) -> std::result::Result<(), Unusable> {
    let lock = OWNER | schema;
    match client.execute("SELECT pg_advisory_lock($1)", &[&lock]).await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
        Err(error) => return Err(error.into()),
    }
    let holder = "SELECT 'session ' || activity.pid || ' of the server, from ' || \
                  COALESCE(host(activity.client_addr), 'its own machine') \
                  FROM pg_locks JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid \
                  WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
                  AND (classid::bigint << 32) | objid::bigint = $1 \
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let session = client.query_opt(holder, &[&lock]).await?.map(|row| row.get(0));
    Err(DatabaseInUse { database: url.to_string(), schema: name, session }.into())
}
