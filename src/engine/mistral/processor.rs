//! The logits processor of one sequence: where tokens are chosen, inside the engine's loop.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mistralrs::{CustomLogitsProcessor, Result, Tensor};

use super::lanes::Place;
use super::tap::{Logprobs, Record, Seat};
use crate::engine::meter::Running;
use crate::engine::text::Sampler;

/// Chooses each token of one sequence and tells it through its [`Seat`]. Never fails, since an error here would take
/// other sequences with it.
pub struct Processor {
    /// Dropped before the seat: who hears of the release finds the sequence no longer counted, and its place free.
    pub running: Running,
    pub _place: Place,
    pub seat: Seat,
    /// What the engine must have begun with: it tokenizes some prompts itself.
    pub prompt: Arc<[u32]>,
    pub max_tokens: usize,
    /// Tokens that end the text.
    pub ends: Arc<[u32]>,
    /// Whether a choice may be put to the engine's grammar and come back masked.
    pub grammar: bool,
    pub logprobs: bool,
    /// Locked by the engine's thread alone, one step after the other.
    pub sampler: Mutex<Sampler>,
    pub answers: Arc<Answers>,
}

impl CustomLogitsProcessor for Processor {
    /// Gives back logits with which the engine can only take our choice.
    fn apply(&self, logits: &Tensor, context: &[u32]) -> Result<Tensor> {
        let Ok(values) = logits.to_vec1::<f32>() else {
            self.seat.fail();
            return Ok(logits.clone());
        };
        let Some(generated) = context.strip_prefix(self.prompt.as_ref()) else {
            self.seat.fail();
            return Ok(logits.clone());
        };
        self.running.holds(context.len());
        let token = self.choose(&values, generated);
        self.answers.naming(token, values.len()).or_else(|_| {
            self.seat.fail();
            Ok(logits.clone())
        })
    }
}

impl Processor {
    fn choose(&self, logits: &[f32], generated: &[u32]) -> u32 {
        if self.seat.is_closing()
            && let Some(end) = self.possible_end(logits)
        {
            return end;
        }
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = sampler.choose(logits, generated);
        let logprobs = || Logprobs { logprob: choice.logprob, top: sampler.top().into() };
        let logprobs = self.logprobs.then(logprobs);
        // Under a grammar the choice is not final yet.
        if !self.grammar && (self.ends.contains(&choice.token) || generated.len() + 1 >= self.max_tokens) {
            self.seat.close();
        }
        self.seat.push(Record { position: generated.len() as u32, token: choice.token, logprobs });
        choice.token
    }

    /// An end token that the grammar (if there is one) does not forbid here.
    fn possible_end(&self, logits: &[f32]) -> Option<u32> {
        self.ends.iter().copied().find(|&end| logits.get(end as usize).is_some_and(|&logit| logit > f32::NEG_INFINITY))
    }
}

/// Logits that name one token, as views of one tensor that all sequences share: making one copies nothing.
#[derive(Debug, Default)]
pub struct Answers {
    /// `width` times −∞, then a 1, then `width` − 1 times −∞: a view of `width` from `width - token` on has the 1 at
    /// `token`.
    ribbon: OnceLock<(usize, Tensor)>,
}

impl Answers {
    /// Logits with 1 for `token` and −∞ for all others; `width` is the same for all calls of a model.
    fn naming(&self, token: u32, width: usize) -> Result<Tensor> {
        let token = (token as usize).min(width.saturating_sub(1));
        match self.ribbon.get() {
            Some((ribbon_width, ribbon)) if *ribbon_width == width => ribbon.narrow(0, width - token, width),
            Some(_) => ribbon(width)?.narrow(0, width - token, width),
            None => {
                let made = ribbon(width)?;
                self.ribbon.get_or_init(|| (width, made.clone()));
                made.narrow(0, width - token, width)
            }
        }
    }
}

fn ribbon(width: usize) -> Result<Tensor> {
    let mut values = vec![f32::NEG_INFINITY; 2 * width];
    if let Some(named) = values.get_mut(width) {
        *named = 1.0;
    }
    Tensor::from_vec(values, 2 * width, &mistralrs::Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_one_token() {
        let answers = Answers::default();
        for (token, width) in [(0, 5), (3, 5), (4, 5), (1, 2), (9, 5)] {
            let values: Vec<f32> = answers.naming(token, width).and_then(|t| t.to_vec1()).expect("a vector");
            assert_eq!(values.len(), width);
            let named = (token as usize).min(width - 1);
            assert!(values.iter().enumerate().all(|(at, &v)| v == if at == named { 1.0 } else { f32::NEG_INFINITY }));
        }
    }
}
