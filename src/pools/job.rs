//! What the dispatcher starts: a task with everything its engine needs.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Cache, Engine, Generation, Grammar, Material, Prepared, Reading, Sampling};
use crate::ids::{PoolId, ReplicaId};
use crate::lifecycle::Lifecycle;
use crate::pools::{Place, Share, Work};
use crate::tasks::{Limits, Task};

/// What of a request depends on the model: enough to prepare it for whichever engine will run it.
pub trait Recipe: Send + Sync + 'static {
    /// Of the prompt's texts.
    fn bytes(&self) -> usize;

    /// Counts the prompt, and checks what the model and its engine have to do with. Takes some µs per token.
    ///
    /// # Errors
    ///
    /// What the client is told where the engine cannot run it.
    fn prepare(&self, engine: &dyn Engine) -> Result<Fitted, ErrorEnvelope>;
}

/// A request as it fits one model.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// Of the model.
    pub model_digest: String,
    pub material: Material,
    /// Its seed is the first choice's; the others follow from it.
    pub sampling: Sampling,
    pub limits: Limits,
}

impl Fitted {
    /// Tokens of context that it needs: each input has its own.
    pub fn context(&self) -> u64 {
        match &self.material {
            Material::Prompt(_) => u64::from(self.limits.prompt_tokens) + u64::from(self.limits.max_tokens),
            Material::Batch(batch) => batch.longest() as u64,
        }
    }
}

/// Follows a recipe, off the reactor where that takes long.
///
/// # Errors
///
/// As [`Recipe::prepare`].
pub async fn prepare(
    recipe: &Arc<impl Recipe + ?Sized>,
    engine: &Arc<dyn Engine>,
    lifecycle: &Lifecycle,
) -> Result<Fitted, ErrorEnvelope> {
    let (bytes, recipe, engine) = (recipe.bytes(), Arc::clone(recipe), Arc::clone(engine));
    lifecycle.sized("prepare", bytes, move || recipe.prepare(engine.as_ref())).await?
}

/// A task ready to run. Freed when it ends, while the task itself stays for its retention.
pub struct Job {
    pub task: Arc<Task>,
    /// The pools that may run it; all of its model where that is `None`.
    pub allowed: Option<Arc<[PoolId]>>,
    /// The replica to start on where it can start there at once.
    pub near: Option<ReplicaId>,
    /// The devices that it may run on: see [`placement::devices`](crate::placement::devices). All where that is `None`.
    pub devices: Option<Arc<str>>,
    /// Whose it is, and their weight beside other tenants.
    pub share: Share,
    /// For the model that its pool had when it was last prepared.
    pub fitted: Fitted,
    /// To prepare it again where the pool has another one by the time that it starts.
    pub recipe: Arc<dyn Recipe>,
    pub stop: Vec<String>,
    pub top_logprobs: Option<u8>,
    pub grammar: Option<Grammar>,
    /// Numbers of each embedding, where fewer are wanted than the model gives.
    pub dimensions: Option<u32>,
    pub reading: Reading,
    /// Run with nothing from earlier caches.
    pub cold: bool,
    /// When the queue took it, and the place it had then; set by the pool.
    pub admitted: Option<(Instant, Place)>,
}

impl Job {
    /// Takes what was prepared for the model that the pool has now. The seed stays.
    ///
    /// # Errors
    ///
    /// What the client is told whose task does not fit it, or named its model by the digest and would get another one.
    pub fn refit(&mut self, fitted: Result<Fitted, ErrorEnvelope>) -> Result<(), ErrorEnvelope> {
        let fitted = fitted.map_err(|error| {
            let message = format!("the pool has got another model while the task waited: {}", error.message);
            ErrorEnvelope { message, ..error }
        })?;
        let named = &self.task.spec.model_ref;
        if named.starts_with("sha256:") && !named.eq_ignore_ascii_case(&fitted.model_digest) {
            let message = "the pool has another model now than the one that the task names by its digest";
            return Err(ErrorEnvelope::new(ErrorCode::PoolUnavailable, message).with_retry_after_ms(0));
        }
        self.task.refit(fitted.limits.prompt_tokens, fitted.limits.max_tokens).map_err(|label| {
            let message =
                "the pool has got another model while the task waited, and the budget does not cover it there";
            ErrorEnvelope::rejected(label, message)
        })?;
        let sampling = Sampling { seed: self.fitted.sampling.seed, ..fitted.sampling };
        self.fitted = Fitted { sampling, ..fitted };
        Ok(())
    }

    /// The generation of one choice, which goes on from its prompt.
    pub fn generation(&self, prompt: &Prepared, choice: u16, cancel: CancellationToken) -> Generation {
        let sampling = &self.fitted.sampling;
        Generation {
            prompt: prompt.clone(),
            max_tokens: self.task.limits().max_tokens,
            sampling: Sampling { seed: choice_seed(sampling.seed, choice), ..sampling.clone() },
            stop: self.stop.clone(),
            top_logprobs: self.top_logprobs,
            grammar: self.grammar.clone(),
            reading: self.reading.clone(),
            cold: self.cold,
            correlation_id: Some(self.task.spec.correlation_id.clone()),
            cancel,
        }
    }
}

/// The seed of a choice: the task's own for the first, so that asking for more choices does not change it; for the others
/// the task's seed stepped by the golden ratio, as in SplitMix64 (Steele, Lea and Flood, 2014).
fn choice_seed(seed: u64, choice: u16) -> u64 {
    seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(u64::from(choice)))
}

/// What a replica has for sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Capacity {
    pub slots: u32,
    pub cache: Option<Cache>,
}

/// What a task takes of it while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Need {
    pub slots: u32,
    /// That run at once: a task that runs alone takes more slots than it has choices.
    pub sequences: u32,
    /// Tokens of the shared cache; 0 where there is none.
    pub cache: u64,
}

impl Capacity {
    /// What a sequence of a task takes of the cache: all of its tokens are there when it ends.
    fn of_sequence(&self, limits: &Limits) -> u64 {
        let tokens = u64::from(limits.prompt_tokens) + u64::from(limits.max_tokens);
        self.cache.map_or(0, |cache| cache.takes(tokens))
    }

    /// Whether the cache can hold a sequence of a task, if nothing else is there.
    pub fn holds(&self, limits: &Limits) -> bool {
        self.cache.is_none_or(|cache| self.of_sequence(limits) <= cache.tokens)
    }
}

impl Need {
    /// A slot for each choice, as far as there are so many, and the cache has room for so many.
    pub fn of(limits: &Limits, capacity: Capacity) -> Self {
        let each = capacity.of_sequence(limits);
        let total = capacity.cache.map_or(u64::MAX, |cache| cache.tokens);
        let fitting = u32::try_from(total / each.max(1)).unwrap_or(u32::MAX);
        let sequences = u32::from(limits.choices).min(capacity.slots).min(fitting).max(1);
        let slots = if limits.alone { capacity.slots } else { sequences };
        Self { slots, sequences, cache: each.saturating_mul(sequences.into()) }
    }
}

/// The work that a task is where there is so much room, given how many tokens an answer usually takes under a limit.
pub(super) fn work(limits: &Limits, capacity: Capacity, usual_tokens: impl Fn(u32) -> u32) -> Work {
    let expected = limits.expected_tokens.unwrap_or_else(|| usual_tokens(limits.max_tokens)).min(limits.max_tokens);
    let choices = u64::from(limits.choices);
    let need = Need::of(limits, capacity);
    Work {
        tasks: 1,
        sequences: choices,
        slots: u64::from(need.slots),
        cache: need.cache,
        prefill_tokens: u64::from(limits.prompt_tokens) * choices,
        decode_tokens: u64::from(expected) * choices,
    }
}
