//! The ledger: one row for each task that has ended. A row that belongs to a journaled task is written with its end, in one
//! transaction.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Scrub, Store, StoreError};

/// A task that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Store {
    /// Files a task that has ended, and calls back once that is durable.
    pub fn ledger_entered(&self, row: LedgerRow, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.enqueue(Scrub::No, move |connection| Box::pin(insert(connection, row.clone())), done);
    }

    /// Forgets what ended before.
    pub fn ledger_forgotten(&self, before_ms: i64) {
        self.enqueue(Scrub::No, move |connection| Box::pin(delete(connection, before_ms)), |_| ());
    }

    /// The number of the last row; 0 where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn ledger_last(&self) -> Result<i64, StoreError> {
        let last = "SELECT COALESCE(MAX(number), 0) FROM ledger";
        self.run(move |connection| Box::pin(sql::query(last).fetch_one(connection))).await
    }

    /// Adds rows up.
    pub fn usage(&self, query: UsageQuery) -> BoxFuture<'static, Result<Vec<UsageRow>, StoreError>> {
        self.run(move |connection| Box::pin(sum(connection, query.clone())))
    }
}

/// Also inside a savepoint of the caller's.
pub(super) async fn insert(connection: &mut Connection, row: LedgerRow) -> sql::Result<()> {
    let insert = "INSERT INTO ledger (number, task_id, tenant, api_key, model, pool, tokens_in, tokens_cached, tokens_out, \
                  queue_ms, engine_ms, cost, outcome, ended_ms) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let query = sql::query(insert).bind(row.number).bind(row.task_id).bind(row.tenant).bind(row.api_key);
    let query = query.bind(row.model).bind(row.pool).bind(row.tokens_in).bind(row.tokens_cached).bind(row.tokens_out);
    let query = query.bind(row.queue_ms).bind(row.engine_ms).bind(row.cost).bind(row.outcome).bind(row.ended_ms);
    query.execute(connection).await.map(|_| ())
}

async fn delete(connection: &mut Connection, before_ms: i64) -> sql::Result<()> {
    sql::query("DELETE FROM ledger WHERE ended_ms < $1").bind(before_ms).execute(connection).await.map(|_| ())
}

async fn sum(connection: &mut Connection, query: UsageQuery) -> sql::Result<Vec<UsageRow>> {
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
