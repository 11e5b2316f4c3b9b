//! What is asked of an engine that embeds inputs or scores them against a query.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::TaskResult;
use tokio_util::sync::CancellationToken;

use super::Prepared;
use crate::ids::CorrelationId;

/// Inputs, each prepared as a prompt of its own; with a query where they are to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub query: Option<Prepared>,
    /// At least one.
    pub inputs: Vec<Prepared>,
}

impl Batch {
    /// Tokens of all of it, or an upper bound of them.
    pub fn tokens(&self) -> usize {
        self.inputs.iter().chain(&self.query).map(Prepared::len).sum()
    }

    /// Tokens of the longest text, or an upper bound of them.
    pub fn longest(&self) -> usize {
        self.inputs.iter().chain(&self.query).map(Prepared::len).max().unwrap_or(0)
    }

    /// What vectors amount to, the query's first where there is one: themselves, or how near the others are to it.
    pub fn result(&self, vectors: Vec<Vec<f32>>) -> TaskResult {
        match (vectors.split_first(), &self.query) {
            (Some((query, inputs)), Some(_)) => {
                TaskResult::Scores(inputs.iter().map(|input| cosine(query, input)).collect())
            }
            _ => TaskResult::Embeddings(vectors),
        }
    }
}

/// A batch to embed, or to score.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub batch: Arc<Batch>,
    /// Numbers of each vector that are wanted. Only for an engine that knows better what to leave out: whoever asks for them
    /// shortens what is longer.
    pub dimensions: Option<u32>,
    /// Whose it is, for an engine that has a log of its own; `None` for a probe.
    pub correlation_id: Option<CorrelationId>,
    pub cancel: CancellationToken,
}

/// What came of a batch, and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// As many vectors or numbers as there are inputs; `None` where it was cancelled.
    pub result: Option<TaskResult>,
    pub took: Duration,
    /// Tokens of all of it, where the batch has only an upper bound of them and the engine knows better.
    pub tokens_in: Option<u32>,
}

/// How a model's makers want texts to be introduced where they are compared with each other. Empty where they say nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instructions {
    /// Before a query.
    pub query: String,
    /// Before a document.
    pub document: String,
}

/// The first `dimensions` numbers of a vector, with length 1 again.
pub fn shorten(vector: &mut Vec<f32>, dimensions: usize) {
    vector.truncate(dimensions);
    normalize(vector);
}

/// Gives a vector the length 1; one of zeros stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let length = length(vector);
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
}

/// The cosine of the angle between two vectors of one length; 0 where one of them is all zeros.
pub fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let product: f64 = one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum();
    let lengths = length(one) * length(other);
    if lengths > 0.0 { (product / lengths) as f32 } else { 0.0 }
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vectors_of_zeros_have_no_direction() {
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!((zeros, cosine(&zeros, &[1.0, 2.0, 3.0])), ([0.0; 3], 0.0));
    }

    proptest! {
        #[test]
        fn a_shortened_vector_points_where_its_numbers_did_and_has_length_one(
            vector in prop::collection::vec(-100.0_f32..100.0, 4..32),
            dimensions in 1..4_usize,
        ) {
            prop_assume!(vector[0].abs() > 0.01);
            let mut short = vector.clone();
            shorten(&mut short, dimensions);
            prop_assert_eq!(short.len(), dimensions);
            prop_assert!((length(&short) - 1.0).abs() < 1e-6);
            prop_assert!((cosine(&short, &vector[..dimensions]) - 1.0).abs() < 1e-6);
        }
    }
}
