//! One task whose inputs are embedded or scored, on an engine. It holds one slot and takes its inputs one after the other.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{Event, FinishReason, TaskResult};
use tokio::time::Instant;

use super::Attempt;
use crate::engine::{Batch, EngineError, Evaluated, Evaluation, shorten};
use crate::pools::rates::Measured;
use crate::pools::replica::Seat;
use crate::pools::{Job, Pool};
use crate::tasks::{Task, Usage};

impl Pool {
    /// Has all of a task's inputs embedded or scored.
    pub(super) async fn evaluation(&self, seat: &Seat, job: &Job, batch: &Arc<Batch>) -> Attempt {
        let since = self.lock().replicas[seat.replica].moment(Instant::now());
        let (dimensions, cancel) = (job.dimensions, job.task.stop.child_token());
        let correlation_id = Some(job.task.spec.correlation_id.clone());
        let evaluation = Evaluation { batch: Arc::clone(batch), dimensions, correlation_id, cancel };
        let mut done = || job.task.log.touch(Instant::now());
        match self.caught(seat.engine.evaluate(evaluation, &mut done)).await {
            Err(error) => Attempt::Failed(error),
            Ok(Evaluated { result: None, .. }) => Attempt::Evaluated(None),
            Ok(Evaluated { result: Some(result), took, tokens_in: counted }) => {
                let tokens_in = job.task.limits().prompt_tokens;
                let measured =
                    |occupancy| Measured { tokens_in, tokens_out: 0, prefill: took, decode: Duration::ZERO, occupancy };
                self.measure_speed(seat, since, measured);
                if let Some(tokens) = counted {
                    job.task.counted(tokens);
                }
                self.checked(result, batch.inputs.len(), job.dimensions)
                    .map_or_else(Attempt::Failed, |result| Attempt::Evaluated(Some(result)))
            }
        }
    }

    /// The result as the task wants it, if it is one: whatever made it, a client never gets less or other than numbers for
    /// each of its inputs.
    fn checked(&self, result: TaskResult, inputs: usize, dimensions: Option<u32>) -> Result<TaskResult, EngineError> {
        let finite = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite());
        let (count, sound) = match &result {
            TaskResult::Embeddings(vectors) => (vectors.len(), vectors.iter().all(|vector| finite(vector))),
            TaskResult::Scores(scores) => (scores.len(), finite(scores)),
        };
        if count != inputs || !sound {
            tracing::error!(pool = %self.spec.id, count, inputs, sound, "the engine's result is none");
            return Err(EngineError::Reset);
        }
        let TaskResult::Embeddings(mut vectors) = result else { return Ok(result) };
        if let Some(dimensions) = dimensions {
            let dimensions = usize::try_from(dimensions).unwrap_or(usize::MAX);
            if vectors.iter().any(|vector| vector.len() < dimensions) {
                return Err(EngineError::Dimensions);
            }
            let longer = vectors.iter_mut().filter(|vector| vector.len() > dimensions);
            longer.for_each(|vector| shorten(vector, dimensions));
        }
        Ok(TaskResult::Embeddings(vectors))
    }
}

/// Ends a task whose inputs are done.
pub(super) fn finish(task: &Task, result: Option<TaskResult>) {
    // One that was cancelled has had its end.
    let Some(result) = result else { return task.cancel() };
    if task.log.append(Event::Result(Arc::new(result)), Instant::now()).is_err() {
        return;
    }
    let Some(seal) = task.log.seal() else { return };
    task.finish(seal, FinishReason::Stop, Usage { tokens_out: 0, cached_tokens: 0 }, Vec::new());
}
