//! What the rows of the ledger come to, for each tenant and key and each quarter of an hour: so that what somebody has spent in
//! a day, or ever, is a sum of few rows. Rows are added up a while after they have come; those that are not yet are counted as
//! they are.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Scrub, Store, StoreError, ledger};

/// In every time zone, days begin with one.
const QUARTER_MS: i64 = 15 * 60 * 1000;

/// What ended so long ago is in no day or month that is counted.
const LONG_OVER_MS: i64 = 40 * 24 * 60 * 60 * 1000;

/// What somebody has spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpentSums {
    pub tokens: i64,
    pub engine_ms: i64,
    /// Micro-units.
    pub cost: i64,
}

from_row!(SpentSums { tokens, engine_ms, cost });

impl Store {
    /// What tasks of a tenant, and of one of its keys where one is named, have used that ended at this Unix time in ms or later,
    /// which a quarter of an hour begins with. Each row that was handed over before is in it, and none that comes after.
    pub fn spent(
        &self,
        tenant: String,
        api_key: Option<String>,
        from_ms: i64,
    ) -> BoxFuture<'static, Result<SpentSums, StoreError>> {
        self.run(move |connection| Box::pin(spent(connection, tenant.clone(), api_key.clone(), from_ms)))
    }

    /// Adds up the rows that are not added up yet, up to one with this number. All up to it have been handed over.
    pub fn ledger_sum_up(&self, last: i64) {
        self.enqueue(Scrub::No, move |connection| Box::pin(sum_up(connection, last)), |_| ());
    }

    /// The number of the last row that is added up; 0 where none is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn ledger_summed(&self) -> Result<i64, StoreError> {
        let last = "SELECT COALESCE(MAX(number), 0) FROM ledger_summed";
        self.run(move |connection| Box::pin(sql::query(last).fetch_one(connection))).await
    }
}

async fn spent(
    connection: &mut Connection,
    tenant: String,
    api_key: Option<String>,
    from_ms: i64,
) -> sql::Result<SpentSums> {
    ledger::flush(connection).await?;
    let sums = "SELECT CAST(COALESCE(SUM(tokens), 0) AS BIGINT) AS tokens, \
                CAST(COALESCE(SUM(engine_ms), 0) AS BIGINT) AS engine_ms, \
                CAST(COALESCE(SUM(cost), 0) AS BIGINT) AS cost FROM (\
                SELECT tokens, engine_ms, cost FROM ledger_sums \
                WHERE tenant = $1 AND ($2 IS NULL OR api_key = $2) AND quarter >= $3 \
                UNION ALL \
                SELECT tokens_in + tokens_out AS tokens, engine_ms, cost FROM ledger \
                WHERE number > (SELECT MAX(number) FROM ledger_summed) \
                AND tenant = $1 AND ($2 IS NULL OR api_key = $2) AND ended_ms >= $4) AS all_rows";
    let query = sql::query(sums).bind(tenant).bind(api_key).bind(from_ms.div_euclid(QUARTER_MS)).bind(from_ms);
    query.fetch_one(connection).await
}

async fn sum_up(connection: &mut Connection, last: i64) -> sql::Result<()> {
    ledger::flush(connection).await?;
    let mut all_or_none = connection.begin().await?;
    let add = "INSERT INTO ledger_sums (tenant, api_key, quarter, tokens, engine_ms, cost) \
               SELECT tenant, api_key, ended_ms / $2, CAST(SUM(tokens_in + tokens_out) AS BIGINT), \
               CAST(SUM(engine_ms) AS BIGINT), CAST(SUM(cost) AS BIGINT) FROM ledger \
               WHERE number > (SELECT MAX(number) FROM ledger_summed) AND number <= $1 GROUP BY 1, 2, 3 \
               ON CONFLICT (tenant, api_key, quarter) DO UPDATE SET tokens = ledger_sums.tokens + excluded.tokens, \
               engine_ms = ledger_sums.engine_ms + excluded.engine_ms, cost = ledger_sums.cost + excluded.cost";
    sql::query(add).bind(last).bind(QUARTER_MS).execute(&mut all_or_none).await?;
    let note = "UPDATE ledger_summed SET number = $1 WHERE number < $1";
    sql::query(note).bind(last).execute(&mut all_or_none).await?;
    all_or_none.commit().await
}

/// Makes one sum of all that are long over by now.
pub(super) async fn gather(connection: &mut Connection, now_ms: i64) -> sql::Result<()> {
    let over = now_ms.saturating_sub(LONG_OVER_MS).div_euclid(QUARTER_MS);
    let mut all_or_none = connection.begin().await?;
    let add = "INSERT INTO ledger_sums (tenant, api_key, quarter, tokens, engine_ms, cost) \
               SELECT tenant, api_key, CAST(0 AS BIGINT), CAST(SUM(tokens) AS BIGINT), CAST(SUM(engine_ms) AS BIGINT), \
               CAST(SUM(cost) AS BIGINT) FROM ledger_sums WHERE quarter > 0 AND quarter < $1 GROUP BY tenant, api_key \
               ON CONFLICT (tenant, api_key, quarter) DO UPDATE SET tokens = ledger_sums.tokens + excluded.tokens, \
               engine_ms = ledger_sums.engine_ms + excluded.engine_ms, cost = ledger_sums.cost + excluded.cost";
    sql::query(add).bind(over).execute(&mut all_or_none).await?;
    let forget = "DELETE FROM ledger_sums WHERE quarter > 0 AND quarter < $1";
    sql::query(forget).bind(over).execute(&mut all_or_none).await?;
    all_or_none.commit().await
}
