//! The ledger: one row for each task that has ended. A row that belongs to a journaled task is written with its end, in one
//! transaction.
//!
//! Rows are most of what is written, so those of one transaction go in together, just before it ends: [`insert`] only notes
//! them. Nothing outside this module and `sums` may read the table; what is there does [`flush`] first, where it reads in a
//! transaction that others share.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::sql::{self, Connection, Value, from_row};
use super::{Store, StoreError, sums};

/// How many rows a statement has places for where each is a trip to a server. Few sizes, so that each is prepared once; places
/// that are left over stay empty.
const PLACES: [usize; 4] = [1, 8, 32, 128];

/// The number of the last row, also of one that is forgotten.
const LAST: &str = "SELECT MAX(number) FROM (SELECT COALESCE(MAX(number), 0) AS number FROM ledger \
                    UNION ALL SELECT number FROM ledger_summed) AS each_last";

const COLUMNS: [&str; 14] = [
    "number",
    "task_id",
    "tenant",
    "api_key",
    "model",
    "pool",
    "tokens_in",
    "tokens_cached",
    "tokens_out",
    "queue_ms",
    "engine_ms",
    "cost",
    "outcome",
    "ended_ms",
];

/// A task that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    pub number: i64,
    pub task_id: String,
    pub tenant: String,
    /// Empty where there were no keys.
    pub api_key: String,
    pub model: String,
    pub pool: String,
    pub tokens_in: i64,
    /// Of those, from the engine's cache.
    pub tokens_cached: i64,
    pub tokens_out: i64,
    pub queue_ms: i64,
    pub engine_ms: i64,
    /// Micro-units.
    pub cost: i64,
    pub outcome: String,
    pub ended_ms: i64,
}

/// Which rows are added up, and into how many sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    pub from_ms: i64,
    /// Up to before it.
    pub to_ms: i64,
    pub tenant: Option<String>,
    pub api_key: Option<String>,
    pub model: Option<String>,
    pub pool: Option<String>,
    /// A sum for each of these, where it is wanted.
    pub by_tenant: bool,
    pub by_key: bool,
    pub by_model: bool,
    pub by_pool: bool,
    /// A sum for each time of so many ms; 0: for all of it.
    pub by_ms: i64,
    /// Sums at most.
    pub most: i64,
}

/// A sum. What it was not wanted for is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    pub tenant: String,
    pub api_key: String,
    pub model: String,
    pub pool: String,
    /// The number of the time, counted from 1970.
    pub bucket: i64,
    pub tasks: i64,
    pub tokens_in: i64,
    pub tokens_cached: i64,
    pub tokens_out: i64,
    pub queue_ms: i64,
    pub engine_ms: i64,
    pub cost: i64,
}

from_row!(UsageRow {
    tenant,
    api_key,
    model,
    pool,
    bucket,
    tasks,
    tokens_in,
    tokens_cached,
    tokens_out,
    queue_ms,
    engine_ms,
    cost
});

/// What has been entered in a transaction and is not in the table yet.
pub(in crate::store) struct Entries {
    rows: Vec<LedgerRow>,
    /// Each goes in at once, so that one that fails can be told from the others.
    pub singly: bool,
    /// With places for so many rows, in their order.
    statements: Box<[(usize, Arc<str>)]>,
}

impl Entries {
    /// For a database that is in this process: a statement costs no more than its rows.
    pub fn near() -> Self {
        Self::with(&PLACES[..1])
    }

    /// For a server.
    pub fn far() -> Self {
        Self::with(&PLACES)
    }

    fn with(places: &[usize]) -> Self {
        let statements = places.iter().map(|places| (*places, statement(*places).into())).collect();
        Self { rows: Vec::new(), singly: false, statements }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes back what came after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.rows.truncate(len);
    }
}

impl Store {
    /// Files a task that has ended, and calls back once that is durable.
    pub fn ledger_entered(&self, row: LedgerRow, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.record(Record::Entry(row), done);
    }

    /// Forgets what ended before, where it is added up by `now_ms`. Unix times in ms.
    pub fn ledger_forgotten(&self, before_ms: i64, now_ms: i64) {
        self.enqueue_or_refuse(move |connection| Box::pin(delete(connection, before_ms, now_ms)), |_| ());
    }

    /// The number of the last row, also of one that is forgotten; 0 where there was none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn ledger_last(&self) -> Result<i64, StoreError> {
        self.run(move |connection| {
            Box::pin(async move {
                flush(connection).await?;
                sql::query(LAST).fetch_one(connection).await
            })
        })
        .await
    }

    /// Adds up rows that are durable.
    pub fn usage(&self, query: UsageQuery) -> BoxFuture<'static, Result<Vec<UsageRow>, StoreError>> {
        self.read(move |connection| Box::pin(sum(connection, query.clone())))
    }
}

/// Enters a row, with the transaction or the savepoint that the caller is in.
pub(super) async fn insert(connection: &mut Connection, row: LedgerRow) -> sql::Result<()> {
    if connection.entries.singly {
        return insert_all(connection, &[row]).await;
    }
    connection.entries.rows.push(row);
    Ok(())
}

/// Enters a row under the next number that is free.
pub(super) async fn insert_as_last(connection: &mut Connection, row: &LedgerRow) -> sql::Result<()> {
    let last: i64 = sql::query(LAST).fetch_one(connection).await?;
    insert_all(connection, &[LedgerRow { number: last + 1, ..row.clone() }]).await
}

/// The tasks whose rows say that they have ended since then.
pub(super) async fn tasks_since(connection: &mut Connection, ended_ms: i64) -> sql::Result<HashSet<String>> {
    let since = "SELECT task_id FROM ledger WHERE ended_ms >= $1";
    let tasks: Vec<String> = sql::query(since).bind(ended_ms).fetch_all(connection).await?;
    Ok(tasks.into_iter().collect())
}

/// Brings what was entered into the table.
pub(super) async fn flush(connection: &mut Connection) -> sql::Result<()> {
    let rows = std::mem::take(&mut connection.entries.rows);
    insert_all(connection, &rows).await.map_err(|error| sql::Error::Entries(Box::new(error)))
}

async fn insert_all(connection: &mut Connection, rows: &[LedgerRow]) -> sql::Result<()> {
    let most = connection.entries.statements.last().map_or(1, |(places, _)| *places);
    for rows in rows.chunks(most) {
        let fitting = connection.entries.statements.iter().find(|(places, _)| *places >= rows.len());
        let Some((places, statement)) = fitting.cloned() else { continue };
        let empty = std::iter::repeat_with(|| values(None)).take(places - rows.len());
        let all = rows.iter().map(|row| values(Some(row))).chain(empty).flatten();
        sql::query(&statement).bind_all(all).execute(connection).await?;
    }
    Ok(())
}

/// Inserts so many rows, but for those that have no number.
fn statement(places: usize) -> String {
    let row = |place: usize| {
        let parameters: Vec<String> =
            (1..=COLUMNS.len()).map(|at| format!("${}", place * COLUMNS.len() + at)).collect();
        format!("({})", parameters.join(", "))
    };
    let (columns, rows) = (COLUMNS.join(", "), (0..places).map(row).collect::<Vec<String>>().join(", "));
    if places == 1 {
        return format!("INSERT INTO ledger ({columns}) VALUES {rows}");
    }
    let entered: Vec<String> = (1..=COLUMNS.len()).map(|at| format!("column{at}")).collect();
    let entered = entered.join(", ");
    format!("INSERT INTO ledger ({columns}) SELECT {entered} FROM (VALUES {rows}) AS entered WHERE column1 IS NOT NULL")
}

/// As [`COLUMNS`] has them; of no row: nothing.
fn values(row: Option<&LedgerRow>) -> [Value<'_>; COLUMNS.len()] {
    let integer = |of: fn(&LedgerRow) -> i64| Value::from(row.map(of));
    let text = |of: fn(&LedgerRow) -> &String| Value::from(row.map(|row| of(row).as_str()));
    [
        integer(|row| row.number),
        text(|row| &row.task_id),
        text(|row| &row.tenant),
        text(|row| &row.api_key),
        text(|row| &row.model),
        text(|row| &row.pool),
        integer(|row| row.tokens_in),
        integer(|row| row.tokens_cached),
        integer(|row| row.tokens_out),
        integer(|row| row.queue_ms),
        integer(|row| row.engine_ms),
        integer(|row| row.cost),
        text(|row| &row.outcome),
        integer(|row| row.ended_ms),
    ]
}

async fn delete(connection: &mut Connection, before_ms: i64, now_ms: i64) -> sql::Result<()> {
    flush(connection).await?;
    let delete = "DELETE FROM ledger WHERE ended_ms < $1 AND number <= (SELECT MAX(number) FROM ledger_summed)";
    sql::query(delete).bind(before_ms).execute(&mut *connection).await?;
    sums::gather(connection, now_ms).await
}

async fn sum(connection: &mut Connection, query: UsageQuery) -> sql::Result<Vec<UsageRow>> {
    flush(connection).await?;
    let sums = "SELECT CASE WHEN $7 <> 0 THEN tenant ELSE '' END AS tenant, \
                CASE WHEN $8 <> 0 THEN api_key ELSE '' END AS api_key, \
                CASE WHEN $9 <> 0 THEN model ELSE '' END AS model, \
                CASE WHEN $10 <> 0 THEN pool ELSE '' END AS pool, \
                CASE WHEN $11 <> 0 THEN ended_ms / $12 ELSE 0 END AS bucket, COUNT(*) AS tasks, \
                CAST(SUM(tokens_in) AS BIGINT) AS tokens_in, CAST(SUM(tokens_cached) AS BIGINT) AS tokens_cached, \
                CAST(SUM(tokens_out) AS BIGINT) AS tokens_out, CAST(SUM(queue_ms) AS BIGINT) AS queue_ms, \
                CAST(SUM(engine_ms) AS BIGINT) AS engine_ms, CAST(SUM(cost) AS BIGINT) AS cost \
                FROM ledger WHERE ended_ms >= $1 AND ended_ms < $2 \
                AND ($3 IS NULL OR tenant = $3) AND ($4 IS NULL OR api_key = $4) \
                AND ($5 IS NULL OR model = $5) AND ($6 IS NULL OR pool = $6) \
                GROUP BY 1, 2, 3, 4, 5 LIMIT $13";
    let statement = sql::query(sums).bind(query.from_ms).bind(query.to_ms).bind(query.tenant).bind(query.api_key);
    let statement = statement.bind(query.model).bind(query.pool);
    let statement = statement.bind(i64::from(query.by_tenant)).bind(i64::from(query.by_key));
    let statement = statement.bind(i64::from(query.by_model)).bind(i64::from(query.by_pool));
    let statement = statement.bind(query.by_ms).bind(query.by_ms.max(1)).bind(query.most);
    let mut rows: Vec<UsageRow> = statement.fetch_all(connection).await?;
    rows.sort_by(|a, b| {
        let key =
            |row: &UsageRow| (row.bucket, row.tenant.clone(), row.api_key.clone(), row.model.clone(), row.pool.clone());
        key(a).cmp(&key(b))
    });
    Ok(rows)
}
