//! SQLite: connections to a file, or to nothing but memory.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::types::ToSqlOutput;
use rusqlite::{CachedStatement, OpenFlags, Row, ToSql};

use super::migrations;
use super::sql::{self, Connection, Error, Result, Value};

/// How long another program that looks into the file may hold it.
const BUSY: Duration = Duration::from_secs(5);

/// Statements that are kept prepared: more than there are.
const PREPARED: usize = 512;

/// Instructions of SQLite between two looks at the clock: some ms.
const STEPS: i32 = 100_000;

/// A connection. All of it is blocking.
pub(in crate::store) struct Sqlite {
    connection: rusqlite::Connection,
    /// Of the shared transaction, and of the savepoints inside.
    depth: usize,
}

/// Opens a database and brings its tables up to date. `alone`: no other process has it.
pub(super) async fn connect(path: Option<&Path>, alone: bool) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut sqlite = Sqlite::open(path.unwrap_or(Path::new(":memory:")), flags)?;
    let set_up =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON";
    sqlite.connection.execute_batch(set_up)?;
    sqlite.migrate()?;
    let mut connection = Connection::sqlite(sqlite);
    if alone {
        // What was deleted before a crash may still be in the log.
        scrub(&mut connection).await?;
    }
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn connect_to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::sqlite(Sqlite::open(path, flags)?))
}

/// Moves the log into the database file and cuts it to nothing. What a server does with its log is its own affair.
pub(super) async fn scrub(connection: &mut Connection) -> Result<()> {
    if connection.fails_together() {
        return Ok(());
    }
    sql::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await.map(|_| ())
}

impl Sqlite {
    fn open(path: &Path, flags: OpenFlags) -> Result<Self> {
        let connection = rusqlite::Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        Ok(Self { connection, depth: 0 })
    }

    /// Applies the table files that have not been applied, all or none: where one fails the connection goes, and what was begun
    /// with it.
    fn migrate(&mut self) -> Result<()> {
        self.begin_shared()?;
        self.connection.execute_batch(migrations::NOTES)?;
        if self.connection.table_exists(None, "_sqlx_migrations")? {
            // As earlier versions of the gateway have noted them.
            self.connection.execute_batch(
                "INSERT INTO store_migrations SELECT version, lower(hex(checksum)) FROM _sqlx_migrations; \
                 DROP TABLE _sqlx_migrations",
            )?;
        }
        let noted = self.fetch(migrations::NOTED, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for file in migrations::pending(noted)? {
            self.connection.execute_batch(file.sql)?;
            self.execute(migrations::NOTE, &[file.version.into(), file.checksum().into()])?;
        }
        self.commit()
    }

    pub(super) fn close(self) -> Result<()> {
        self.connection.close().map_err(|(_, error)| error.into())
    }

    /// From then on statements are broken off.
    pub(super) fn stop_at(&mut self, end: Instant) -> Result<()> {
        Ok(self.connection.progress_handler(STEPS, Some(move || Instant::now() >= end))?)
    }

    pub(super) fn begin_shared(&mut self) -> Result<()> {
        if !self.connection.is_autocommit() {
            // It could not be taken back when it should have been.
            self.say("ROLLBACK")?;
        }
        self.say("BEGIN IMMEDIATE")?;
        self.depth = 1;
        Ok(())
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.check()?;
        self.say(&format!("SAVEPOINT s{}", self.depth))?;
        self.depth += 1;
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<()> {
        self.check()?;
        match self.depth {
            1 => self.say("COMMIT")?,
            depth => self.say(&format!("RELEASE SAVEPOINT s{}", depth - 1))?,
        }
        self.depth -= 1;
        Ok(())
    }

    /// Takes back what was begun last.
    pub(super) fn rollback(&mut self) -> Result<()> {
        self.depth -= 1;
        match self.depth {
            _ if self.connection.is_autocommit() => Ok(()),
            0 => self.say("ROLLBACK"),
            depth => {
                self.say(&format!("ROLLBACK TO SAVEPOINT s{depth}"))?;
                self.say(&format!("RELEASE SAVEPOINT s{depth}"))
            }
        }
    }

    /// Does it, and says how many rows it has changed.
    pub(super) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.fetch(sql, values, |_| Ok(()))?;
        Ok(self.connection.changes())
    }

    /// All rows.
    pub(super) fn fetch<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.check()?;
        let mut statement = self.connection.prepare_cached(sql)?;
        bind(&mut statement, values)?;
        let (mut found, mut rows) = (Vec::new(), statement.raw_query());
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Whether the transaction is still there, or there is none. SQLite takes one back by itself where it fails badly, as on a full
    /// disk, and what was said then would be done at once.
    fn check(&self) -> Result<()> {
        if self.depth > 0 && self.connection.is_autocommit() { Err(Error::TakenBack) } else { Ok(()) }
    }

    fn say(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.raw_execute()?;
        Ok(())
    }
}

fn bind(statement: &mut CachedStatement<'_>, values: &[Value<'_>]) -> rusqlite::Result<()> {
    for place in 1..=statement.parameter_count() {
        // `$7` is a name to SQLite, which counts names as they come.
        let name = statement.parameter_name(place);
        let number = name.and_then(|name| name.strip_prefix('$')?.parse().ok()).unwrap_or(place);
        if let Some(value) = values.get(number - 1) {
            statement.raw_bind_parameter(place, value)?;
        }
    }
    Ok(())
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Integer(integer) => integer.to_sql(),
            Self::Text(text) => {
                text.as_ref().map_or(Ok(ToSqlOutput::from(rusqlite::types::Null)), |text| text.to_sql())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_of_an_earlier_version_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earlier.db");
        let all = migrations::pending(Vec::new()).unwrap();
        let earlier = rusqlite::Connection::open(&path).unwrap();
        earlier
            .execute_batch(
                "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
                 installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
                 checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
            )
            .unwrap();
        for file in &all[..10] {
            earlier.execute_batch(file.sql).unwrap();
            let note = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                        VALUES (?1, 'tables', 1, unhex(?2), 1)";
            earlier.execute(note, (file.version, file.checksum())).unwrap();
        }
        earlier.execute("INSERT INTO pools (id, model, configured) VALUES ('a', 'small', 'small')", ()).unwrap();
        drop(earlier);
        for _again in 0..2 {
            let mut connection = connect(Some(&path), true).await.unwrap();
            let noted: Vec<i64> =
                sql::query("SELECT version FROM store_migrations").fetch_all(&mut connection).await.unwrap();
            assert_eq!(noted, all.iter().map(|file| file.version).collect::<Vec<_>>());
            let kept: String = sql::query("SELECT model FROM pools").fetch_one(&mut connection).await.unwrap();
            assert_eq!(kept, "small");
            connection.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_is_done_by_itself_where_sqlite_has_taken_the_transaction_back() {
        let mut connection = connect(None, true).await.unwrap();
        let insert = |id: &'static str| sql::query("INSERT INTO pools (id) VALUES ($1)").bind(id);
        {
            let mut transaction = connection.begin_shared(false).await.unwrap();
            insert("a").execute(&mut transaction).await.unwrap();
            // As it does on a full disk.
            sql::query("ROLLBACK").execute(&mut transaction).await.unwrap();
            assert!(matches!(insert("b").execute(&mut transaction).await, Err(Error::TakenBack)));
            assert!(matches!(transaction.begin().await.err(), Some(Error::TakenBack)));
            assert!(matches!(transaction.commit().await, Err(Error::TakenBack)));
        }
        let mut transaction = connection.begin_shared(false).await.unwrap();
        insert("c").execute(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let kept: Vec<String> = sql::query("SELECT id FROM pools").fetch_all(&mut connection).await.unwrap();
        assert_eq!(kept, ["c"]);
    }

    #[tokio::test]
    async fn a_parameter_is_found_by_its_number() {
        let mut connection = connect(None, true).await.unwrap();
        let backwards = sql::query("SELECT $2 || $1, $12 IS NULL").bind("b").bind("a");
        let read: (String, bool) = backwards.fetch_one(&mut connection).await.unwrap();
        assert_eq!(read, ("ab".to_owned(), true));
    }
}
