//! What models cost, as administrators see and set it.

use serde::{Deserialize, Serialize};

use super::{ErrorEnvelope, ModelPrice};

/// The body of `PUT /v2/admin/prices/{model}`: what is not there is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PriceRequest {
    /// As in [`ModelPrice`], each.
    pub input_per_mtok: Option<u64>,
    pub cached_input_per_mtok: Option<u64>,
    pub output_per_mtok: Option<u64>,
    pub engine_second: Option<u64>,
}

impl PriceRequest {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        match request.price().excess() {
            Some(name) => {
                let message = format!("`{name}`: a price is 0 to {}", ModelPrice::MOST);
                Err(ErrorEnvelope::invalid(name, message))
            }
            None => Ok(request),
        }
    }

    pub fn price(self) -> ModelPrice {
        ModelPrice {
            input_per_mtok: self.input_per_mtok.unwrap_or_default(),
            cached_input_per_mtok: self.cached_input_per_mtok.unwrap_or_default(),
            output_per_mtok: self.output_per_mtok.unwrap_or_default(),
            engine_second: self.engine_second.unwrap_or_default(),
        }
    }
}

/// The body of `GET /v2/admin/prices/{model}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriceView {
    pub model_id: String,
    /// What counts for tasks that are let in now.
    #[serde(flatten)]
    pub price: ModelPrice,
    /// Whether it was set here, in the place of that of the configuration.
    pub overridden: bool,
    /// As the configuration has it, or whoever has added the model.
    pub configured: ModelPrice,
    /// When it was set or reset here last.
    pub changed_ms: Option<u64>,
}

/// The body of `GET /v2/admin/prices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriceList {
    /// In the order of the catalog.
    pub prices: Vec<PriceView>,
}
