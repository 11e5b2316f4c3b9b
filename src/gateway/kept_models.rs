//! What of the catalog outlives the process: models that were added while the gateway ran, retirements, and that a model
//! must not be served. A verification that passed is of the files that this process has loaded, and is not kept.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{ErrorEnvelope, ModelPrice, ModelState, ModelTrust, Quantization};

use super::{Gateway, stored};
use crate::catalog::live::{Earlier, Verification};
use crate::catalog::{Entry, LiveCatalog, Model, draft};
use crate::lifecycle::Lifecycle;
use crate::store::{ModelRow, Store, StoreError, signed};

/// An entry as it is filed.
#[derive(Serialize, Deserialize)]
struct FiledEntry {
    source: String,
    aliases: Vec<String>,
    digest: Option<String>,
    #[serde(default)]
    quantization: Option<Quantization>,
    #[serde(default)]
    price: ModelPrice,
    #[serde(default)]
    guest: bool,
}

/// Takes in what an earlier process has filed. What no longer goes with the configuration is left out, and said in the log.
///
/// # Errors
///
/// [`StoreError`].
pub async fn take_in_models(
    catalog: &Arc<LiveCatalog>,
    store: &Store,
    lifecycle: &Lifecycle,
) -> Result<(), StoreError> {
    for row in store.models().await? {
        let id = row.id.clone();
        let catalog = Arc::clone(catalog);
        // It may look at paths.
        let taken = lifecycle.blocking("take in a model", move || take_in(&catalog, row)).await;
        let why = match taken {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(panicked) => panicked.to_string(),
        };
        tracing::warn!(model = id, why, "a model that was added to an earlier process is left out");
    }
    Ok(())
}

fn take_in(catalog: &LiveCatalog, row: ModelRow) -> Result<(), String> {
    let entry = row.entry.as_deref().map(|filed| entry(catalog, &row.id, filed)).transpose()?;
    let state = ModelState::ALL.into_iter().find(|state| state.as_str() == row.state);
    let earlier = Earlier {
        state: state.ok_or_else(|| format!("its state is {:?}", row.state))?,
        distrust: row.distrust,
        created_at_ms: row.created_at_ms.cast_unsigned(),
        updated_at_ms: row.updated_at_ms.cast_unsigned(),
    };
    catalog.take_in(&row.id, entry, earlier).map_err(|refusal| refusal.to_string())
}

fn entry(catalog: &LiveCatalog, id: &str, filed: &str) -> Result<Entry, String> {
    let FiledEntry { source, aliases, digest, quantization, price, guest } =
        serde_json::from_str(filed).map_err(|error| error.to_string())?;
    let entry = draft(id.to_owned(), &source, aliases, digest.as_deref(), price).map_err(|mistake| mistake.why)?;
    catalog.policy().check_source(&entry.source).map_err(|mistake| mistake.why)?;
    Ok(Entry { quantization, guest, ..entry })
}

impl Gateway {
    /// Files a model as it is now, or that it is gone, and returns once that is durable.
    ///
    /// # Errors
    ///
    /// INTERNAL: the change is in effect and does not outlive the process.
    pub(super) async fn keep_model(&self, id: &str) -> Result<(), ErrorEnvelope> {
        self.keep_model_in(&self.store, id).await
    }

    /// As [`keep_model`](Self::keep_model), with what is filed in `store` together with it.
    pub(super) async fn keep_model_in(&self, store: &Store, id: &str) -> Result<(), ErrorEnvelope> {
        let filed = {
            // What is looked at last is filed last.
            let _one_at_a_time = self.filing.lock().unwrap_or_else(PoisonError::into_inner);
            match self.catalog.get(id) {
                Ok(model) => store.put_model(row(&model)),
                Err(_gone) => store.forget_model(id.to_owned()),
            }
        };
        stored(id, filed).await
    }
}

fn row(model: &Model) -> ModelRow {
    let Model { entry, facts } = model;
    let Entry { id, aliases, source, digest, quantization, price, guest, limits: _in_the_configuration_alone } = entry;
    let filed = FiledEntry {
        source: source.to_string(),
        aliases: aliases.clone(),
        digest: digest.clone(),
        quantization: *quantization,
        price: *price,
        guest: *guest,
    };
    let distrust = match (&facts.verification, facts.trust) {
        (Verification::Ended { finding, .. }, ModelTrust::Failed) => finding.words(),
        _ => None,
    };
    ModelRow {
        id: id.clone(),
        // Strings and numbers only.
        entry: (!facts.configured).then(|| serde_json::to_string(&filed).unwrap_or_default()),
        state: facts.state.as_str().to_owned(),
        distrust,
        created_at_ms: signed(facts.created_at_ms),
        updated_at_ms: signed(facts.updated_at_ms),
    }
}
