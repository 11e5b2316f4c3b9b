//! One sequence on a server: the request, and the answer as it streams.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::RemoteEngine;
use super::body::request;
use super::chunk::{Chunk, Usage};
use super::events::Events;
use crate::engine::{EngineError, Finish, Finished, Generation, Sink};

/// Bytes of a stream at most: so many for each token, with its log-probabilities, and so many for all else.
const BYTES_PER_TOKEN: usize = 8 << 10;
const BYTES_BESIDE: usize = 1 << 20;

/// How long the end of a stream may take once the sequence has ended, for its usage.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs one sequence to its end.
pub async fn run(engine: &RemoteEngine, generation: Generation, sink: &mut dyn Sink) -> Result<Finished, EngineError> {
    let _running = engine.meter.sequence();
    let mut sequence = Sequence::new(engine, &generation);
    let cancel = generation.cancel.clone();
    // Dropping the work closes the stream, which is how a server is told to stop.
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(Finish::Canceled),
        () = engine.closed.cancelled() => Err(EngineError::Reset),
        done = sequence.drain(&generation, sink) => done,
    };
    let finish = done?;
    if finish != Finish::Canceled {
        engine.note(None);
    }
    let finished = sequence.finished(finish, &generation);
    // Those that came without a piece of their own.
    engine.meter.count(finished.tokens_out.saturating_sub(sequence.seen));
    Ok(finished)
}

/// What is known of a sequence while it streams.
struct Sequence<'a> {
    engine: &'a RemoteEngine,
    began: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Pieces handed over.
    seen: u32,
    usage: Option<Usage>,
    events: Events,
}

impl<'a> Sequence<'a> {
    fn new(engine: &'a RemoteEngine, generation: &Generation) -> Self {
        let most = (generation.max_tokens as usize).saturating_mul(BYTES_PER_TOKEN).saturating_add(BYTES_BESIDE);
        let (began, events) = (Instant::now(), Events::new(most));
        Self { engine, began, first: None, last: None, seen: 0, usage: None, events }
    }

    async fn drain(&mut self, generation: &Generation, sink: &mut dyn Sink) -> Result<Finish, EngineError> {
        let spec = &self.engine.spec;
        let request = request(spec.engine, &spec.model, generation).ok_or(EngineError::Rejected)?;
        let mut response = self.engine.ask(request.path, "text/event-stream", request.body).await?;
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream")) {
            return Err(self.failed(&"the answer is no event stream"));
        }
        let mut finish = None;
        loop {
            // The end is known; what may still come is the usage.
            let patience = if finish.is_some() { LAST_WORDS.min(spec.limits.idle) } else { spec.limits.idle };
            let bytes = match (timeout(patience, response.chunk()).await, finish) {
                (Ok(Ok(Some(bytes))), _) => bytes,
                (_, Some(finish)) => return Ok(finish),
                (Ok(Ok(None)), None) => return Err(self.failed(&"the stream ended before the answer did")),
                (Ok(Err(error)), None) => return Err(self.failed(&error.without_url())),
                (Err(_), None) => return Err(self.failed(&"the stream stalls")),
            };
            match self.take(&bytes, generation.max_tokens, &mut finish, sink)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(finish) => return Ok(finish),
            }
        }
    }

    /// The events in these bytes. `Break` where nothing more is wanted.
    fn take(
        &mut self,
        bytes: &[u8],
        max_tokens: u32,
        finish: &mut Option<Finish>,
        sink: &mut dyn Sink,
    ) -> Result<ControlFlow<Finish>, EngineError> {
        self.events.push(bytes).map_err(|error| self.failed(&error))?;
        let mut data = Vec::new();
        while self.events.next(&mut data).map_err(|error| self.failed(&error))? {
            if data == b"[DONE]" {
                let ended = finish.ok_or_else(|| self.failed(&"the stream ended before the answer did"))?;
                return Ok(ControlFlow::Break(ended));
            }
            let chunk: Chunk = serde_json::from_slice(&data).map_err(|error| self.failed(&error))?;
            if chunk.error.is_some() {
                return Err(self.failed(&"the server reports an error in its stream"));
            }
            self.usage = chunk.usage.or(self.usage);
            if let Some(ended) = self.hand_over(chunk, max_tokens, finish, sink)? {
                return Ok(ControlFlow::Break(ended));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Some where the sequence ends here, whatever the server goes on to say.
    fn hand_over(
        &mut self,
        chunk: Chunk,
        max_tokens: u32,
        finish: &mut Option<Finish>,
        sink: &mut dyn Sink,
    ) -> Result<Option<Finish>, EngineError> {
        let now = Instant::now();
        let mut cut = None;
        let after_the_end = finish.is_some();
        let ended = chunk.pieces(|piece| {
            if cut.is_some() || after_the_end {
                return;
            }
            if self.seen >= max_tokens {
                cut = Some(Finish::Length);
                return;
            }
            self.first.get_or_insert(now);
            self.last = Some(now);
            self.seen += 1;
            self.engine.meter.count(1);
            if sink.token(piece).is_break() {
                cut = Some(Finish::Canceled);
            }
        });
        let ended = ended.map_err(|reason| self.failed(&format_args!("it ended with {reason:?}")))?;
        *finish = finish.or(ended);
        Ok(cut)
    }

    fn failed(&self, what: &dyn std::fmt::Display) -> EngineError {
        self.engine.failed(what, self.seen as usize)
    }

    /// Usage is the server's, as far as it fits what was seen and what was allowed.
    fn finished(&self, finish: Finish, generation: &Generation) -> Finished {
        let max_tokens = generation.max_tokens;
        let told = self.usage.map(|usage| u32::try_from(usage.completion_tokens).unwrap_or(u32::MAX));
        let tokens_out = told.unwrap_or(self.seen).clamp(self.seen.min(max_tokens), max_tokens);
        let cached = self.usage.and_then(|usage| usage.prompt_tokens_details?.cached_tokens).unwrap_or(0);
        let first = self.first.unwrap_or_else(Instant::now);
        Finished {
            finish,
            tokens_out,
            cached_tokens: u32::try_from(cached.min(generation.prompt.len() as u64)).unwrap_or(u32::MAX),
            prefill: first - self.began,
            decode: self.last.map_or(Duration::ZERO, |last| last - first),
        }
    }
}
