//! SQLite: connections to a file, or to nothing but memory.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::sql::{self, Connection};

/// How long another program that looks into the file may hold it.
const BUSY: Duration = Duration::from_secs(5);

/// The tables, as numbered SQL files; the same for each kind of database.
pub(super) fn migrations() -> Migrator {
    sqlx::migrate!("src/store/migrations")
}

/// Opens a database and brings its tables up to date. `alone`: no other process has it.
pub(super) async fn connect(path: Option<&Path>, alone: bool) -> sql::Result<Connection> {
    let options = match path {
        None => "sqlite::memory:".parse()?,
        Some(path) => SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full),
    };
    let options = options.busy_timeout(BUSY).pragma("secure_delete", "ON").disable_statement_logging();
    let mut sqlite = SqliteConnection::connect_with(&options).await?;
    migrations().run_direct(&mut sqlite).await.map_err(sqlx::Error::from)?;
    let mut connection = Connection::sqlite(sqlite);
    if alone {
        // What was deleted before a crash may still be in the log.
        scrub(&mut connection).await?;
    }
    Ok(connection)
}

/// A connection that only reads.
pub(super) async fn connect_to_read(path: &Path) -> sql::Result<Connection> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let sqlite = SqliteConnection::connect_with(&options.disable_statement_logging()).await?;
    Ok(Connection::sqlite(sqlite))
}

/// Moves the log into the database file and cuts it to nothing. What a server does with its log is its own affair.
pub(super) async fn scrub(connection: &mut Connection) -> sql::Result<()> {
    if connection.fails_together() {
        return Ok(());
    }
    sql::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await.map(|_| ())
}
