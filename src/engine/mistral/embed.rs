//! Inputs through a model that embeds: one after the other, each alone in its engine.
//!
//! mistralrs 0.8.1 fills the inputs of a batch up to the longest one and then takes the vector at the very end, so that in a
//! batch of unequal inputs all but the longest would get the vector of the filling.

use std::sync::Arc;
use std::time::Instant;

use mistralrs::{
    CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, Result as EngineResult, Tensor,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lanes::Place;
use super::run::{sampling, trusted_place};
use super::tap::{Seat, Tap};
use super::{MistralEngine, first_line};
use crate::engine::meter::Running;
use crate::engine::{EngineError, Evaluated, Evaluation, LET_GO_DEADLINE};

/// One answer, and room for an error beside it: the engine never waits for us.
const REPLIES: usize = 4;

/// Has all inputs of a batch embedded.
pub async fn run(
    engine: &MistralEngine,
    evaluation: Evaluation,
    done: &mut (dyn FnMut() + Send),
) -> Result<Evaluated, EngineError> {
    let (began, batch) = (Instant::now(), &evaluation.batch);
    let mut vectors = Vec::with_capacity(batch.inputs.len() + 1);
    for input in batch.query.iter().chain(&batch.inputs) {
        if !engine.accepts_input(input.ids()) {
            tracing::warn!(tokens = input.len(), "an input does not fit the model");
            return Err(EngineError::Rejected);
        }
        let place = tokio::select! {
            biased;
            () = evaluation.cancel.cancelled() => None,
            place = trusted_place(engine) => Some(place?),
        };
        let vector = match place {
            Some(place) => vector_in(engine, place, input.ids(), &evaluation.cancel).await?,
            None => None,
        };
        let Some(vector) = vector else {
            return Ok(Evaluated { result: None, took: began.elapsed(), tokens_in: None });
        };
        vectors.push(vector);
        done();
    }
    Ok(Evaluated { result: Some(batch.result(vectors)), took: began.elapsed(), tokens_in: None })
}

/// The vector of one input; `None` where it was cancelled. Returns once the engine has let go of it.
pub async fn vector_in(
    engine: &MistralEngine,
    place: Place,
    ids: &[u32],
    cancel: &CancellationToken,
) -> Result<Option<Vec<f32>>, EngineError> {
    let lane = place.watch();
    let mut failures = lane.failures();
    let seen = *failures.borrow_and_update();
    let (tap, seat) = Tap::new();
    let (responses, mut replies) = mpsc::channel(REPLIES);
    let hold = Hold { _running: engine.meter.sequence(), _place: place, _seat: seat };
    let message = RequestMessage::EmbeddingTokens { prompt: ids.to_vec() };
    let mut request = NormalRequest::new_simple(message, sampling(1), responses, 0, None, None);
    request.logits_processors = Some(vec![Arc::new(hold)]);
    let outcome = match lane.requests() {
        Ok(requests) if requests.send(Request::Normal(Box::new(request))).await.is_ok() => tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(None),
            _ = failures.changed() => Err(EngineError::Reset),
            reply = replies.recv() => vector(reply).map(Some),
        },
        _ => Err(EngineError::Reset),
    };
    match outcome {
        Err(EngineError::Reset) => lane.fail(seen),
        Ok(Some(_)) => lane.trust(),
        _ => {}
    }
    if tokio::time::timeout(LET_GO_DEADLINE, tap.released()).await.is_err() {
        tracing::warn!("the engine still holds an input that was to end");
    }
    outcome
}

/// What the engine says of an input.
fn vector(reply: Option<Response>) -> Result<Vec<f32>, EngineError> {
    let reason = match reply {
        Some(Response::Embeddings { embeddings, .. }) => return Ok(embeddings),
        Some(Response::ValidationError(error)) => {
            // What it says quotes the request: only the kind is logged.
            drop(error);
            tracing::warn!("the engine refused an input");
            return Err(EngineError::Rejected);
        }
        Some(Response::InternalError(error)) => first_line(&error.to_string()).to_owned(),
        Some(_) => "it answered with something else than a vector".to_owned(),
        None => "it dropped an input without a word".to_owned(),
    };
    tracing::warn!(reason, "the engine failed");
    Err(EngineError::Reset)
}

/// Held by the engine for as long as it has the input. It is never asked to choose a token.
struct Hold {
    /// Dropped before the seat: who hears of the release finds the input no longer counted, and its place free.
    _running: Running,
    _place: Place,
    _seat: Seat,
}

impl CustomLogitsProcessor for Hold {
    fn apply(&self, logits: &Tensor, _: &[u32]) -> EngineResult<Tensor> {
        Ok(logits.clone())
    }
}
