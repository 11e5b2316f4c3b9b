//! PostgreSQL: a session that has the tables, and the right to write them.
//!
//! Whoever writes takes turns, as with SQLite: a transaction begins with an advisory lock of the schema, so that a command
//! beside the gateway sees and changes a whole state. The gateway itself holds a second one for as long as its session lasts,
//! which tells another gateway that the schema is taken.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::reader::LONGEST;
use super::sql::{Error, Result, Value};
use crate::lifecycle::{Lifecycle, OnPanic};

/// How long it may take until a server is reached.
const CONNECT: Duration = Duration::from_secs(10);

/// How long somebody else may hold a lock: a command that writes, or a gateway before this one whose end the server has yet to
/// notice.
const LOCKED: &str = "5s";

/// PostgreSQL 13, as `server_version_num` has it.
const OLDEST: i64 = 130_000;

/// Beside these, the lower 32 bits of an advisory lock are the number of the schema.
const OWNER: i64 = 0x736c_7569 << 32;
const WRITER: i64 = 0x736c_7577 << 32;

/// Where a database is, and how one gets in. It shows itself without the password.
#[derive(Clone, PartialEq)]
pub struct DatabaseUrl(Box<Config>);

impl Eq for DatabaseUrl {}

impl DatabaseUrl {
    /// Reads `postgres://user:password@host:port/database`. What is wrong with it is said without showing anything of it.
    ///
    /// # Errors
    ///
    /// What it has to look like.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let mut config: Config = text.parse().map_err(
            |_| "write postgres://user:password@host:5432/database, with % codes for special characters of the password",
        )?;
        match (config.get_user(), config.get_hosts(), config.get_dbname()) {
            (None, _, _) => return Err("the user is missing: postgres://user:password@host:5432/database"),
            (_, [], _) => return Err("the host is missing: postgres://user:password@host:5432/database"),
            (_, _, None) => return Err("the database is missing: postgres://user:password@host:5432/database"),
            (Some(_), [_, ..], Some(_)) => {}
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err("encrypted connections to a database are not served by this version; leave sslmode out");
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_application_name().is_none() {
            config.application_name("sluicegate");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        Ok(Self(Box::new(config)))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "database {} on ", self.0.get_dbname().unwrap_or_default())?;
        let ports = self.0.get_ports();
        for (number, host) in self.0.get_hosts().iter().enumerate() {
            if number > 0 {
                text.write_char(',')?;
            }
            match host {
                Host::Tcp(host) => text.write_str(host)?,
                Host::Unix(path) => write!(text, "{}", path.display())?,
            }
            if let Some(port) = ports.get(number).or(ports.first()) {
                write!(text, ":{port}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "DatabaseUrl({self})")
    }
}

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
    #[error("a later version of the gateway has used it")]
    Later,
    #[error("table file {0} is not the one that it was made with")]
    OtherFile(i64),
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<tokio_postgres::Error> for Unusable {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.into())
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
}

impl Session {
    /// Opens a session, takes the schema where it is to be taken, and brings the tables up to date.
    pub(super) async fn open(
        url: &DatabaseUrl,
        alone: bool,
        lifecycle: &Lifecycle,
    ) -> std::result::Result<Self, Unusable> {
        let (place, watched) = (url.to_string(), lifecycle.clone());
        let client = connect(url, lifecycle, move |error| {
            // Whether the schema is still ours is not known any more. The next process goes on where this one ends.
            tracing::error!(%error, "the connection to the {place} is lost; shutting down");
            watched.fail();
        })
        .await?;
        client.batch_execute(&format!("SET lock_timeout = '{LOCKED}'; SET synchronous_commit = on")).await?;
        fits(&client).await?;
        let row = client
            .query_opt("SELECT oid::bigint, nspname::text FROM pg_namespace WHERE nspname = current_schema()", &[])
            .await?;
        let (schema, name): (i64, String) = row.map(|row| (row.get(0), row.get(1))).ok_or(Unusable::NoSchema)?;
        if alone {
            own(&client, url, schema, name).await?;
        }
        let mut session = Self::over(client, schema);
        session.migrate().await?;
        Ok(session)
    }

    /// Opens a session beside that of the gateway, which changes nothing.
    pub(super) async fn open_to_read(url: &DatabaseUrl, lifecycle: &Lifecycle) -> Result<Self> {
        let place = url.to_string();
        let lost = move |error| tracing::warn!(%error, "the connection to the {place} that reads is lost");
        let client = connect(url, lifecycle, lost).await?;
        let limit = LONGEST.as_millis();
        client
            .batch_execute(&format!("SET default_transaction_read_only = on; SET statement_timeout = {limit}"))
            .await?;
        Ok(Self::over(client, 0))
    }

    fn over(client: Client, schema: i64) -> Self {
        Self { client, statements: HashMap::new(), depth: 0, abandoned: None, schema, given_up: false }
    }

    /// Applies the table files that have not been applied, all or none.
    async fn migrate(&mut self) -> std::result::Result<(), Unusable> {
        let migrations = super::writer::migrations();
        self.begin_shared().await?;
        self.client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS store_migrations (version BIGINT NOT NULL PRIMARY KEY, checksum TEXT NOT NULL)",
            )
            .await?;
        let applied = self.client.query("SELECT version, checksum FROM store_migrations", &[]).await?;
        let applied: HashMap<i64, String> = applied.iter().map(|row| (row.get(0), row.get(1))).collect();
        if applied.keys().any(|version| migrations.iter().all(|migration| migration.version != *version)) {
            return Err(Unusable::Later);
        }
        for migration in migrations.iter() {
            let checksum = migration.checksum.iter().fold(String::new(), |mut digits, byte| {
                _ = write!(digits, "{byte:02x}");
                digits
            });
            match applied.get(&migration.version) {
                Some(known) if *known == checksum => {}
                Some(_) => return Err(Unusable::OtherFile(migration.version)),
                None => {
                    self.client.batch_execute(&migration.sql).await?;
                    let insert = "INSERT INTO store_migrations (version, checksum) VALUES ($1, $2)";
                    self.client.execute(insert, &[&migration.version, &checksum]).await?;
                }
            }
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

    pub(super) async fn begin_shared(&mut self) -> Result<()> {
        self.settle().await?;
        // Another writer's lock is waited for, for a while.
        let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({})", WRITER | self.schema);
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
            1 => "COMMIT".to_owned(),
            depth => format!("RELEASE SAVEPOINT s{}", depth - 1),
        };
        self.client.batch_execute(&end).await?;
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

/// `lost` is called where the connection ends by itself.
async fn connect(
    url: &DatabaseUrl,
    lifecycle: &Lifecycle,
    lost: impl FnOnce(Error) + Send + 'static,
) -> std::result::Result<Client, tokio_postgres::Error> {
    let (client, connection) = url.0.connect(NoTls).await?;
    lifecycle.spawn("database", OnPanic::Shutdown, async move {
        if let Err(error) = connection.await {
            lost(error.into());
        }
    });
    Ok(client)
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
