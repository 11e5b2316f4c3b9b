//! Prices of models that administrators set while the gateway runs. A task keeps the price that it was let in with.

use std::sync::Arc;

use serde_json::{Map, Value};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, ModelPrice, PriceList, PriceView, detail};

use super::Gateway;
use crate::audit::{Act, difference};
use crate::catalog::LiveCatalog;
use crate::catalog::live::{Model, Priced};
use crate::store::{PriceRow, Store, StoreError, signed};
use crate::tasks::Clock;

/// Takes in the prices that were set in an earlier process.
///
/// # Errors
///
/// [`StoreError`].
pub async fn take_in_prices(catalog: &LiveCatalog, store: &Store) -> Result<(), StoreError> {
    for PriceRow { model, price, version, changed_ms } in store.prices().await? {
        let price = match price.as_deref().map(serde_json::from_str).transpose() {
            Ok(price) => price,
            Err(error) => {
                tracing::error!(model, %error, "the price that was set for this model cannot be read");
                None
            }
        };
        let priced = Priced { price, version, changed_ms: changed_ms.cast_unsigned() };
        if let Err(gone) = catalog.set_price(&model, priced) {
            tracing::warn!(model, %gone, "a price was set for this model, and counts once it is there again");
        }
    }
    Ok(())
}

impl Gateway {
    /// What each model of the catalog costs.
    pub fn prices(&self) -> PriceList {
        PriceList { prices: self.catalog.models().iter().map(view).collect() }
    }

    /// What a model costs, by any of its names; and the number of the last change of that, 0 where there was none.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn price(&self, name: &str) -> Result<(PriceView, i64), ErrorEnvelope> {
        let model = self.named(name)?;
        Ok((view(&model), model.facts.priced.version))
    }

    /// Sets what a model costs from now on, or has the price of the configuration count again. `expected`: where nobody has
    /// changed it since.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; CONFLICT where somebody has changed it; INTERNAL where it cannot be stored.
    pub async fn set_price(
        &self,
        name: &str,
        expected: Option<i64>,
        price: Option<ModelPrice>,
        act: &Arc<Act>,
    ) -> Result<(), ErrorEnvelope> {
        let _one_at_a_time = self.pricing.lock().await;
        let model = self.named(name)?;
        let id = model.entry.id.as_str();
        act.about(id);
        let version = model.facts.priced.version;
        if expected.is_some_and(|expected| expected != version) {
            let message = "somebody else has changed it meanwhile; look at it again";
            return Err(ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::PRECONDITION_FAILED));
        }
        let changed_ms = Clock::now().unix_ms;
        let priced = Priced { price, version: version + 1, changed_ms };
        let facts = |price: &ModelPrice, overridden: bool| {
            let mut facts = fields(price);
            facts.insert("overridden".to_owned(), overridden.into());
            facts
        };
        let before = facts(&model.price(), model.facts.priced.price.is_some());
        act.changes(difference(&before, &facts(&price.unwrap_or(model.entry.price), price.is_some())));
        let row = PriceRow {
            model: id.to_owned(),
            price: price.map(|price| Value::Object(fields(&price)).to_string()),
            version: priced.version,
            changed_ms: signed(changed_ms),
        };
        self.store.acting(act).put_price(row).await.map_err(|error| {
            tracing::error!(model = id, %error, "a price cannot be stored");
            error.away().unwrap_or_else(|| ErrorEnvelope::new(ErrorCode::Internal, "this cannot be stored now"))
        })?;
        // One that was removed meanwhile has no price any more.
        self.catalog.set_price(id, priced).map_err(super::catalog::refused)
    }
}

fn view(model: &Model) -> PriceView {
    let Priced { price, changed_ms, .. } = model.facts.priced;
    PriceView {
        model_id: model.entry.id.clone(),
        price: model.price(),
        overridden: price.is_some(),
        configured: model.entry.price,
        changed_ms: (changed_ms > 0).then_some(changed_ms),
    }
}

fn fields(price: &ModelPrice) -> Map<String, Value> {
    match serde_json::to_value(price) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}
