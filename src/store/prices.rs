//! Prices of models that were set while the gateway ran.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Store, StoreError};

/// What is kept of a model's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    pub model: String,
    /// JSON; `None` where that of the configuration counts again.
    pub price: Option<String>,
    pub version: i64,
    pub changed_ms: i64,
}

from_row!(PriceRow { model, price, version, changed_ms });

impl Store {
    /// Files the price of a model. What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_price(&self, row: PriceRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(put(connection, row.clone())))
    }

    /// All prices that were set.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn prices(&self) -> Result<Vec<PriceRow>, StoreError> {
        let all = "SELECT model, price, version, changed_ms FROM prices";
        self.look(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }
}

async fn put(connection: &mut Connection, row: PriceRow) -> sql::Result<()> {
    let upsert = "INSERT INTO prices (model, price, version, changed_ms) VALUES ($1, $2, $3, $4) \
                  ON CONFLICT (model) DO UPDATE SET price = excluded.price, version = excluded.version, \
                  changed_ms = excluded.changed_ms";
    let query = sql::query(upsert).bind(row.model).bind(row.price).bind(row.version).bind(row.changed_ms);
    query.execute(connection).await.map(|_| ())
}

/// Forgets that of a model that is gone.
pub(super) async fn forget(connection: &mut Connection, model: &str) -> sql::Result<()> {
    sql::query("DELETE FROM prices WHERE model = $1").bind(model).execute(connection).await.map(|_| ())
}
