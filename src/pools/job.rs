//! What the dispatcher starts: a task with everything its engine needs.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Generation, Grammar, Sampling};
use crate::ids::PoolId;
use crate::pools::{Place, Share, Work};
use crate::tasks::{Limits, Task};

/// A task ready to run. Freed when it ends, while the task itself stays for its retention.
pub struct Job {
    pub task: Arc<Task>,
    /// The pools that may run it; all of its model where that is `None`.
    pub allowed: Option<Arc<[PoolId]>>,
    /// Whose it is, and their weight beside other tenants.
    pub share: Share,
    pub prompt: Arc<[u32]>,
    /// Its seed is the first choice's; the others follow from it.
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub top_logprobs: Option<u8>,
    pub grammar: Option<Grammar>,
    /// Run with nothing from earlier caches.
    pub cold: bool,
    /// When the queue took it, and the place it had then; set by the pool.
    pub admitted: Option<(Instant, Place)>,
}

impl Job {
    /// The generation of one choice.
    pub fn generation(&self, choice: u16, cancel: CancellationToken) -> Generation {
        Generation {
            prompt: Arc::clone(&self.prompt),
            max_tokens: self.task.spec.limits.max_tokens,
            sampling: Sampling { seed: choice_seed(self.sampling.seed, choice), ..self.sampling.clone() },
            stop: self.stop.clone(),
            top_logprobs: self.top_logprobs,
            grammar: self.grammar.clone(),
            cold: self.cold,
            cancel,
        }
    }
}

/// The seed of a choice: the task's own for the first, so that asking for more choices does not change it; for the others
/// the task's seed stepped by the golden ratio, as in SplitMix64 (Steele, Lea and Flood, 2014).
fn choice_seed(seed: u64, choice: u16) -> u64 {
    seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(u64::from(choice)))
}

/// How many of `total` slots a task takes at once: one per choice, as far as there are so many.
pub(super) fn slots(limits: &Limits, total: u32) -> u32 {
    if limits.alone { total } else { u32::from(limits.choices).min(total) }
}

/// Sequences that a task runs at once on so many slots: a task that runs alone takes more slots than it has choices.
pub(super) fn sequences_at_once(limits: &Limits, slots: u32) -> u32 {
    u32::from(limits.choices).min(slots).max(1)
}

/// The work that a task is where there are `total` slots, given how many tokens an answer usually takes under a limit.
pub(super) fn work(limits: &Limits, total: u32, usual_tokens: impl Fn(u32) -> u32) -> Work {
    let expected = limits.expected_tokens.unwrap_or_else(|| usual_tokens(limits.max_tokens)).min(limits.max_tokens);
    let choices = u64::from(limits.choices);
    Work {
        tasks: 1,
        sequences: choices,
        slots: u64::from(slots(limits, total)),
        prefill_tokens: u64::from(limits.prompt_tokens) * choices,
        decode_tokens: u64::from(expected) * choices,
    }
}
