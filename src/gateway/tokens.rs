//! Texts as tokens, and tokens as texts: with the tokenizer and the template that admission counts with.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest, Workload, detail};

use super::Gateway;
use crate::admission::Caller;
use crate::engine::{Engine, Material, Prepared};

/// Tokens to make a text of at most: each may have many bytes.
const MOST_TOKENS: usize = 131_072;

/// What is wanted of a text in tokens.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// With what the model's makers want around a plain text, such as a token for its beginning.
    pub special: bool,
    /// Each token also as the vocabulary writes it.
    pub names: bool,
}

/// A text in the tokens of a model.
#[derive(Debug)]
pub struct Tokens {
    pub ids: Arc<[u32]>,
    pub names: Option<Vec<String>>,
    pub context_length: u32,
}

impl Gateway {
    /// The prompt of a request in tokens.
    ///
    /// # Errors
    ///
    /// What the client is told, also where the model is elsewhere.
    pub async fn tokenize(
        &self,
        mut request: TaskRequest,
        wanted: Wanted,
        caller: &Caller,
    ) -> Result<Tokens, ErrorEnvelope> {
        let known = |id: &str| self.has_pool(id);
        caller.grade(&mut request);
        let serving = self.serving_for(caller, &request.model_ref)?;
        self.show(&mut request, &serving.pools).await?;
        let writes = serving.pools.iter().any(|pool| pool.workloads().contains(&Workload::Completion));
        if let Some(text) = request.prompt.take_if(|_| !writes) {
            // As a model reads it that only embeds.
            (request.workload, request.inputs) = (Workload::Embedding, Some(vec![text]));
        }
        let (fitted, engine) = self.admission.read(request, &serving.pools(&known), !wanted.special).await?;
        let prepared = match &fitted.material {
            Material::Prompt(prompt) => Some(prompt),
            Material::Batch(batch) => batch.inputs.first(),
        };
        let Some(Prepared::Ids(ids) | Prepared::Shown { ids, .. }) = prepared else { return Err(untold()) };
        let (ids, context_length) = (Arc::clone(ids), engine.info().context_length);
        let names = if wanted.names { Some(self.names(engine, Arc::clone(&ids)).await?) } else { None };
        Ok(Tokens { ids, names, context_length })
    }

    /// The text of tokens, special ones by their names.
    ///
    /// # Errors
    ///
    /// What the client is told, also where the model is elsewhere.
    pub async fn detokenize(&self, model: &str, ids: Vec<u32>, caller: &Caller) -> Result<String, ErrorEnvelope> {
        if ids.len() > MOST_TOKENS {
            return Err(ErrorEnvelope::invalid("tokens", format!("at most {MOST_TOKENS} tokens at once")));
        }
        let serving = self.serving_for(caller, model)?;
        let engine = serving.pools.iter().find_map(|pool| pool.engine());
        let not_ready =
            || ErrorEnvelope::new(ErrorCode::PoolUnready, "the model is not loaded").with_retry_after_ms(1000);
        let engine = engine.ok_or_else(not_ready)?;
        let vocab_size = engine.info().vocab_size;
        if let Some(place) = ids.iter().position(|id| *id >= vocab_size) {
            let message = format!("the ids of the model's tokens are below {vocab_size}");
            return Err(ErrorEnvelope::invalid(format!("tokens[{place}]"), message));
        }
        let bytes = size_of_val(ids.as_slice());
        let text = move || engine.text().map(|model| model.text_of_all(&ids)).ok_or_else(untold);
        self.lifecycle.sized("detokenize", bytes, text).await?
    }

    /// Each token as the vocabulary writes it.
    async fn names(&self, engine: Arc<dyn Engine>, ids: Arc<[u32]>) -> Result<Vec<String>, ErrorEnvelope> {
        let bytes = size_of_val(ids.as_ref());
        let names = move || {
            let model = engine.text().ok_or_else(untold)?;
            Ok(ids.iter().map(|id| model.name_of(*id).unwrap_or_default()).collect())
        };
        self.lifecycle.sized("tokens", bytes, names).await?
    }
}

fn untold() -> ErrorEnvelope {
    let message = "the engine of this model does not tell its tokens";
    ErrorEnvelope::invalid("model_ref", message).with_detail(detail::UNSUPPORTED_VALUE)
}
