//! One generation, from its request to the engine's letting go.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mistralrs::{NormalRequest, Request, RequestMessage, SamplingParams};
use sluicegate_compat::native::{TokenLogprobs, TopLogprob};
use tokio::sync::watch;

use super::MistralEngine;
use super::embed::vector_in;
use super::lanes::Place;
use super::processor::Processor;
use super::replies::{Replies, Word};
use super::tap::{Record, Tap};
use crate::engine::text::{Output, Sampler, TextModel};
use crate::engine::{EngineError, Finish, Finished, Generation, LET_GO_DEADLINE, Nowhere, Prepared, Reading, Sink};
use crate::lifecycle::low_priority;

/// Chunks that may come beyond one per token: the engine can be a token ahead of us at the end.
const SPARE_CHUNKS: usize = 16;

/// How an engine that failed is tried before it gets work again: it loses what is sent to it until its thread has ended
/// and a new one has begun. Each pause is twice as long as the one before; 635 ms in all.
const TRIALS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// How long one trial may take: an engine that died with a lock in its hand can hang for ever.
const TRIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs one sequence. When the future is dropped the sequence ends at its next token.
pub async fn run(engine: &MistralEngine, generation: Generation, sink: &mut dyn Sink) -> Result<Finished, EngineError> {
    if !engine.accepts(&generation) {
        tracing::warn!(
            prompt_tokens = generation.prompt.len(),
            max_tokens = generation.max_tokens,
            "a generation does not fit the model"
        );
        return Err(EngineError::Rejected);
    }
    let begin = async { Ok((message(engine, &generation.prompt).await?, trusted_place(engine).await?)) };
    let (message, place) = tokio::select! {
        biased;
        () = generation.cancel.cancelled() => return Ok(Progress::new(engine, &generation).finished(Finish::Canceled)),
        begun = begin => begun?,
    };
    run_in(engine, place, message, &generation, sink).await
}

/// Takes a place in an engine that works, as far as one can know.
pub(super) async fn trusted_place(engine: &MistralEngine) -> Result<Place, EngineError> {
    for trial in 0..TRIALS {
        let place = engine.lanes.take().await?;
        if !place.lane().is_suspect() {
            return Ok(place);
        }
        let generation = engine.trial(1);
        let run = async {
            if engine.embeds {
                vector_in(engine, place, generation.prompt.ids(), &generation.cancel).await.is_ok()
            } else {
                let message = RequestMessage::CompletionTokens(generation.prompt.ids().to_vec());
                run_in(engine, place, message, &generation, &mut Nowhere).await.is_ok()
            }
        };
        let worked = tokio::time::timeout(TRIAL_DEADLINE, run).await.is_ok_and(|worked| worked);
        if !worked && trial + 1 < TRIALS {
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(trial)).await;
        }
    }
    let place = engine.lanes.take().await?;
    if place.lane().is_suspect() { Err(EngineError::Reset) } else { Ok(place) }
}

async fn run_in(
    engine: &MistralEngine,
    place: Place,
    message: RequestMessage,
    generation: &Generation,
    sink: &mut dyn Sink,
) -> Result<Finished, EngineError> {
    let lane = place.watch();
    let mut failures = lane.failures();
    let seen = *failures.borrow_and_update();
    let mut progress = Progress::new(engine, generation);
    let outcome = match Sequence::start(engine, place, message, generation).await {
        Ok(mut sequence) => {
            let outcome = sequence.follow(generation, &mut failures, &mut progress, sink).await;
            if progress.engine_failed || outcome == Err(EngineError::Reset) {
                lane.fail(seen);
            }
            sequence.end().await;
            outcome
        }
        Err(error) => {
            lane.fail(seen);
            Err(error)
        }
    };
    if outcome.is_ok_and(|finish| finish != Finish::Canceled) {
        lane.trust();
    }
    outcome.map(|finish| progress.finished(finish))
}

/// A sequence inside the engine. Its drop makes the engine end it.
struct Sequence {
    tap: Arc<Tap>,
    replies: Replies,
    grammar: bool,
    /// Whether the end token can bring it to an end.
    can_end: bool,
    records: Vec<Record>,
}

impl Sequence {
    async fn start(
        engine: &MistralEngine,
        place: Place,
        message: RequestMessage,
        generation: &Generation,
    ) -> Result<Self, EngineError> {
        let requests = place.lane().requests()?;
        let (tap, seat) = Tap::new();
        let (responses, replies) = Replies::channel(generation.max_tokens as usize + SPARE_CHUNKS);
        let grammar = generation.is_constrained();
        let processor = Processor {
            seat,
            prompt: generation.prompt.ids().into(),
            max_tokens: generation.max_tokens as usize,
            ends: engine.ends.clone(),
            grammar,
            logprobs: generation.top_logprobs.is_some(),
            sampler: Mutex::new(Sampler::new(generation.sampling.clone(), generation.top_logprobs)),
            answers: engine.answers.clone(),
            running: engine.meter.sequence(),
            _place: place,
        };
        let mut request = NormalRequest::new_simple(message, sampling(generation.max_tokens), responses, 0, None, None);
        request.is_streaming = true;
        request.constraint = engine.constraint(generation);
        request.logits_processors = Some(vec![Arc::new(processor)]);
        #[cfg(test)]
        engine.inject_fault(&mut request);
        let sequence = Self { tap, replies, grammar, can_end: !engine.ends.is_empty(), records: Vec::new() };
        requests.send(Request::Normal(Box::new(request))).await.map_err(|_| EngineError::Reset)?;
        Ok(sequence)
    }

    /// Hands tokens over until the generation is over.
    async fn follow(
        &mut self,
        generation: &Generation,
        failures: &mut watch::Receiver<u64>,
        progress: &mut Progress<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Finish, EngineError> {
        loop {
            tokio::select! {
                biased;
                () = generation.cancel.cancelled() => return Ok(Finish::Canceled),
                _ = failures.changed() => return Err(EngineError::Reset),
                () = self.tap.news() => {}
            }
            if let Some(outcome) = self.read(progress, sink) {
                return outcome;
            }
        }
    }

    /// Takes what the engine has to tell; `Some` when the generation is over.
    fn read(&mut self, progress: &mut Progress, sink: &mut dyn Sink) -> Option<Result<Finish, EngineError>> {
        let standing = self.tap.take(&mut self.records);
        let word = self.replies.drain();
        let before = progress.tokens_out;
        let finish = self.records.drain(..).find_map(|record| progress.take(record, sink));
        let outcome = match finish {
            Some(finish) => Some(Ok(finish)),
            None if standing.released => Some(released(word, self.grammar, progress, sink)),
            None => standing.broken.then_some(Err(EngineError::Reset)),
        };
        progress.engine.meter.count(progress.tokens_out - before);
        outcome
    }

    /// Brings the sequence to its end and waits until the engine has let go, or the deadline has passed.
    async fn end(mut self) {
        self.tap.close();
        if self.grammar || !self.can_end {
            // The end token may be forbidden or unknown: hang up instead.
            self.replies.close();
        }
        if tokio::time::timeout(LET_GO_DEADLINE, self.tap.released()).await.is_err() {
            tracing::warn!("the engine still holds a sequence that was to end");
        }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.tap.close();
    }
}

/// What the engine is asked. Images are decoded here, off the reactor.
async fn message(engine: &MistralEngine, prompt: &Prepared) -> Result<RequestMessage, EngineError> {
    let (text, prompt) = match prompt {
        Prepared::Ids(ids) => return Ok(RequestMessage::CompletionTokens(ids.to_vec())),
        Prepared::Shown { text, prompt, .. } => (Arc::clone(text), Arc::clone(prompt)),
        Prepared::Content { .. } => return Err(EngineError::Rejected),
    };
    let sight = engine.sight.clone().ok_or(EngineError::Rejected)?;
    let decoded = low_priority("images", move || sight.request(&prompt, &text)).await;
    decoded.ok().flatten().ok_or(EngineError::Rejected)
}

/// The engine has dropped the sequence before it was over for us.
fn released(
    word: Option<&Word>,
    grammar: bool,
    progress: &mut Progress,
    sink: &mut dyn Sink,
) -> Result<Finish, EngineError> {
    match word {
        Some(Word::Refused(reason)) => {
            // What it says quotes the request, which may be anything: only the kind is logged.
            let kind = if grammar && reason.starts_with("Invalid grammar") {
                EngineError::Grammar
            } else {
                EngineError::Rejected
            };
            tracing::warn!(%kind, "the engine refused a request");
            Err(kind)
        }
        Some(Word::Failed(reason)) => {
            tracing::warn!(reason, "the engine failed");
            progress.engine_failed = true;
            // A grammar that it accepted and cannot begin with is the request's fault, and fails again when it is tried again.
            Err(if grammar && progress.tokens_out == 0 { EngineError::Grammar } else { EngineError::Reset })
        }
        // A last chunk is missing where the text is cut inside a character.
        word => match progress.take_last(word.is_some(), sink) {
            Some(finish) => Ok(finish),
            None => {
                tracing::warn!("the engine dropped a sequence without a word");
                Err(EngineError::Reset)
            }
        },
    }
}

/// No sampling by the engine: it takes the likeliest of what our processor answers.
pub(super) fn sampling(max_tokens: u32) -> SamplingParams {
    SamplingParams { temperature: Some(0.0), max_len: Some(max_tokens as usize), ..SamplingParams::neutral() }
}

/// What has come of a generation so far.
struct Progress<'a> {
    engine: &'a MistralEngine,
    output: Output,
    reading: Reading,
    max_tokens: u32,
    /// Under a grammar: the record that a later one of its position may replace.
    unconfirmed: Option<Record>,
    grammar: bool,
    /// The engine said that it failed; its lane has to prove itself again.
    engine_failed: bool,
    tokens_out: u32,
    start: Instant,
    first: Option<Instant>,
    last: Instant,
}

impl<'a> Progress<'a> {
    fn new(engine: &'a MistralEngine, generation: &Generation) -> Self {
        let start = Instant::now();
        Self {
            engine,
            engine_failed: false,
            output: engine.text.output(generation.stop.clone(), &generation.reading, generation.prompt.ids()),
            reading: generation.reading.clone(),
            max_tokens: generation.max_tokens,
            unconfirmed: None,
            grammar: generation.is_constrained(),
            tokens_out: 0,
            start,
            first: None,
            last: start,
        }
    }

    /// Takes a record; `Some` when it was the last one wanted.
    fn take(&mut self, record: Record, sink: &mut dyn Sink) -> Option<Finish> {
        if !self.grammar {
            return self.confirmed(record, sink);
        }
        let position = record.position;
        let earlier = self.unconfirmed.replace(record)?;
        if earlier.position < position { self.confirmed(earlier, sink) } else { None }
    }

    /// The engine ended the sequence: the record that waits for confirmation has it, if that is the end it makes, or if
    /// the engine gave a reason for the end.
    fn take_last(&mut self, reason: bool, sink: &mut dyn Sink) -> Option<Finish> {
        let finish = self.unconfirmed.take().and_then(|record| self.confirmed(record, sink));
        finish.or_else(|| reason.then(|| self.end(Finish::Stop, sink)))
    }

    fn confirmed(&mut self, record: Record, sink: &mut dyn Sink) -> Option<Finish> {
        if record.position != self.tokens_out {
            return None;
        }
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.tokens_out += 1;
        if self.engine.ends.contains(&record.token) {
            return Some(self.end(Finish::Stop, sink));
        }
        let text = &self.engine.text;
        let ended = self.output.push(text.text_of(record.token, &self.reading), logprobs(text, &record));
        if self.hand_over(sink).is_break() {
            Some(Finish::Canceled)
        } else if ended.is_some() {
            ended
        } else if self.tokens_out >= self.max_tokens {
            Some(self.end(Finish::Length, sink))
        } else {
            None
        }
    }

    fn end(&mut self, finish: Finish, sink: &mut dyn Sink) -> Finish {
        let finish = self.output.finish(finish);
        if self.hand_over(sink).is_break() { Finish::Canceled } else { finish }
    }

    fn hand_over(&mut self, sink: &mut dyn Sink) -> ControlFlow<()> {
        while let Some(piece) = self.output.pop() {
            sink.token(piece)?;
        }
        ControlFlow::Continue(())
    }

    fn finished(&self, finish: Finish) -> Finished {
        let first = self.first.unwrap_or(self.last);
        Finished {
            finish,
            matched_stop: self.output.matched_stop().map(str::to_owned),
            tokens_out: self.tokens_out,
            cached_tokens: 0,
            prefill: first - self.start,
            decode: self.last - first,
        }
    }
}

fn logprobs(text: &TextModel, record: &Record) -> Option<Arc<TokenLogprobs>> {
    let bytes = |token: u32| Box::from(text.bytes().of_token(token));
    let logprobs = record.logprobs.as_ref()?;
    let top = logprobs.top.iter().map(|&(token, logprob)| TopLogprob { bytes: bytes(token), logprob });
    Some(Arc::new(TokenLogprobs { logprob: logprobs.logprob, bytes: bytes(record.token), top: top.collect() }))
}
