//! One sequence on a server: the request, and the answer as it streams.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::RemoteEngine;
use super::body::request;
use super::calls::Calls;
use super::chunk::{Chunk, End, Usage};
use super::events::Events;
use crate::engine::{EngineError, Finish, Finished, Generation, Piece, Sink};
use sluicegate_compat::native::TokenKind;

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
    engine.meter.count(finished.tokens_out.saturating_sub(sequence.seen.tokens));
    Ok(finished)
}

/// What is known of a sequence while it streams.
struct Sequence<'a> {
    engine: &'a RemoteEngine,
    began: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Of what was handed over.
    seen: Seen,
    calls: Calls,
    usage: Option<Usage>,
    /// The stop string that the server says it has found.
    matched_stop: Option<String>,
    events: Events,
}

/// Counts tokens by their pieces. A token that ends one part of an answer and begins another one comes as a piece of each.
#[derive(Debug, Default)]
struct Seen {
    tokens: u32,
    /// Which part the last piece belongs to: its kind, its call, and whether it begins that.
    part: Option<(TokenKind, Option<u32>, bool)>,
    /// Whether the last piece and the one before are taken for one token.
    shared: bool,
}

impl Seen {
    /// Whether the piece is taken for a token of its own.
    fn add(&mut self, piece: &Piece) -> bool {
        let call = piece.tool.as_deref();
        let part = (piece.kind, call.map(|call| call.index), call.is_some_and(|call| call.id.is_some()));
        let before = self.part.replace(part);
        self.shared = !self.shared && before.is_some_and(|before| before != part);
        self.tokens = self.tokens.saturating_add(u32::from(!self.shared));
        !self.shared
    }
}

impl<'a> Sequence<'a> {
    fn new(engine: &'a RemoteEngine, generation: &Generation) -> Self {
        let most = (generation.max_tokens as usize).saturating_mul(BYTES_PER_TOKEN).saturating_add(BYTES_BESIDE);
        let (began, events) = (Instant::now(), Events::new(most));
        let (seen, calls) = (Seen::default(), Calls::of(&generation.reading));
        Self { engine, began, first: None, last: None, seen, calls, usage: None, matched_stop: None, events }
    }

    async fn drain(&mut self, generation: &Generation, sink: &mut dyn Sink) -> Result<Finish, EngineError> {
        let spec = &self.engine.spec;
        let request = request(spec.engine, &spec.model, generation).ok_or(EngineError::Rejected)?;
        let of = generation.correlation_id.as_ref();
        let mut response = self.engine.ask((request.path, "text/event-stream"), of, request.body).await?;
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
            let chunk: Chunk =
                serde_json::from_slice(&data).map_err(|error| self.engine.unreadable(&error, data.len()))?;
            if chunk.error.is_some() {
                return Err(self.failed(&"the server reports an error in its stream"));
            }
            self.usage = chunk.usage.or(self.usage);
            if let Some(stop) = chunk.matched_stop() {
                self.matched_stop = Some(stop.to_owned());
            }
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
        let Self { engine, first, last, seen, calls, .. } = self;
        let ended = chunk.pieces(calls, |piece| {
            if cut.is_some() || after_the_end {
                return;
            }
            let counts = seen.add(&piece);
            if seen.tokens > max_tokens {
                seen.tokens = max_tokens;
                cut = Some(Finish::Length);
                return;
            }
            first.get_or_insert(now);
            *last = Some(now);
            engine.meter.count(u32::from(counts));
            if sink.token(piece).is_break() {
                cut = Some(Finish::Canceled);
            }
        });
        match ended.map_err(|reason| self.failed(&format_args!("it ended with {reason:?}")))? {
            Some(End::Enough(enough)) if !after_the_end => cut = cut.or(Some(enough)),
            Some(End::Told(told)) => *finish = finish.or(Some(told)),
            _ => {}
        }
        Ok(cut)
    }

    fn failed(&self, what: &dyn std::fmt::Display) -> EngineError {
        self.engine.failed(what, self.seen.tokens as usize)
    }

    /// Usage is the server's, as far as it fits what was seen and what was allowed.
    fn finished(&self, finish: Finish, generation: &Generation) -> Finished {
        let max_tokens = generation.max_tokens;
        let told = self.usage.and_then(|usage| usage.completion_tokens);
        let told = told.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
        let seen = self.seen.tokens.min(max_tokens);
        let tokens_out = told.unwrap_or(seen).clamp(seen, max_tokens);
        let cached = self.usage.and_then(|usage| usage.prompt_tokens_details?.cached_tokens).unwrap_or(0);
        let first = self.first.unwrap_or_else(Instant::now);
        Finished {
            finish,
            // Others may mean something else by it.
            matched_stop: self.matched_stop.clone().filter(|stop| generation.stop.contains(stop)),
            tokens_out,
            cached_tokens: u32::try_from(cached.min(generation.prompt.len() as u64)).unwrap_or(u32::MAX),
            prefill: first - self.began,
            decode: self.last.map_or(Duration::ZERO, |last| last - first),
        }
    }
}
