//! One task on an engine, from its first slot to its last event.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sluicegate_compat::native::{ChoiceEnd, ErrorCode, ErrorEnvelope, Event, FinishReason, Started, Token};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::rates::Measured;
use super::replica::{Health, Moment, Slots};
use super::{Job, Pool};
use crate::engine::{Engine, EngineError, EngineInfo, Finish, Finished, LET_GO_DEADLINE, Piece, Sink};
use crate::tasks::{Durable, Sealed, Task, Usage};

/// How long a task that lost its engine before its first token waits for the engine to work again.
const RETRY_WITHIN: Duration = Duration::from_secs(10);

/// A limit of the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Wall,
    Idle,
}

/// How an attempt to run a task ended.
enum Attempt {
    /// All choices ended; or the task was ended by somebody else, and then nobody looks at them.
    Done(Vec<(u16, Finished)>),
    Failed(EngineError),
    /// The watchdog's limit that was exceeded.
    TimedOut(Limit),
}

impl Pool {
    /// Runs `job` to its end. The slots are held until the engine has let go of every sequence.
    pub(super) async fn run(self: Arc<Self>, job: Job, slots: Slots) {
        let unfinished = Unfinished { pool: &self, task: &job.task };
        let mut slots = slots;
        if let Ok(durable) = self.announce(&job, slots.replica()) {
            if let Some(Err(error)) = OptionFuture::from(durable).await {
                // It would be run again after a crash, which is better than not at all.
                tracing::error!(task_id = %job.task.spec.id, %error, "the start of a task could not be stored");
            }
            let mut attempt = self.attempt(&job, &slots).await;
            if matches!(attempt, Attempt::Failed(EngineError::Reset)) {
                self.engine_failed(slots.replica());
                if let Some(again) = self.slots_again(&job.task, slots.replica()).await {
                    slots = again.unwrap_or(slots);
                    attempt = self.attempt(&job, &slots).await;
                }
            }
            self.conclude(&job.task, slots.replica(), attempt);
        }
        drop(unfinished);
        drop(slots);
    }

    /// Appends `started`, unless the task has ended while it waited.
    fn announce(&self, job: &Job, replica: usize) -> Result<Option<Durable>, Sealed> {
        let (replica_id, engine) = {
            let state = self.lock();
            let replica = &state.replicas[replica];
            (replica.id.clone(), replica.engine.clone())
        };
        job.task.runs_on(replica_id.clone());
        let info = engine.as_ref().map(|engine| engine.info());
        let text = |get: fn(&EngineInfo) -> &String| info.map(get).cloned().unwrap_or_default();
        let (position, predicted_ms) =
            job.admitted.map_or((0, 0), |(_, place)| (place.position, place.prediction.start_ms));
        let started = Started {
            queue_position: position,
            predicted_start_ms: predicted_ms,
            engine: self.spec.engine.as_str().to_owned(),
            engine_version: text(|info| &info.engine_version),
            pool_id: self.spec.id.to_string(),
            replica_id: replica_id.to_string(),
            sampler_profile_version: text(|info| &info.sampler_profile_version),
            model_digest: text(|info| &info.model_digest),
        };
        let (now, started) = (Instant::now(), Arc::new(started));
        let durable = job.task.start(Arc::clone(&started), now)?;
        let predicted = job.admitted.map(|(at, _)| at + Duration::from_millis(predicted_ms));
        self.metrics.started(self, &job.task, &started, now, predicted);
        Ok(durable)
    }

    /// Runs all choices, as many at once as there are slots, under the watchdog.
    async fn attempt(self: &Arc<Self>, job: &Job, slots: &Slots) -> Attempt {
        let engine = self.lock().replicas[slots.replica()].engine.clone();
        let Some(engine) = engine else { return Attempt::Failed(EngineError::Reset) };
        let began = Instant::now();
        let sequences = self.sequences(engine.as_ref(), job, slots);
        tokio::pin!(sequences);
        let limit = tokio::select! {
            attempt = &mut sequences => return attempt,
            limit = self.watch(&job.task, began) => limit,
        };
        // The task ends now; the slots wait for the engine to let go.
        job.task.fail(timed_out(limit).with_pool(self.spec.id.as_str()));
        let let_go = timeout(LET_GO_DEADLINE, sequences).await.is_ok();
        if !let_go {
            tracing::error!(pool = %self.spec.id, "the engine does not let go of a sequence");
        }
        // A task that was only long says nothing about its engine.
        if limit == Limit::Idle || !let_go {
            self.engine_failed(slots.replica());
        }
        Attempt::TimedOut(limit)
    }

    async fn sequences(&self, engine: &dyn Engine, job: &Job, slots: &Slots) -> Attempt {
        let choices = job.task.spec.limits.choices;
        // When one choice fails the task does, and the others need not go on.
        let stop = job.task.stop.child_token();
        let mut waiting = (0..choices).map(|choice| self.sequence(engine, job, slots.replica(), choice, &stop));
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(slots.count().max(1) as usize).collect();
        let mut done = Vec::with_capacity(usize::from(choices));
        let mut failed = None;
        while let Some((choice, result)) = running.next().await {
            match result {
                Ok(finished) => done.push((choice, finished)),
                Err(error) => {
                    failed.get_or_insert(error);
                    stop.cancel();
                }
            }
            if failed.is_none()
                && let Some(next) = waiting.next()
            {
                running.push(next);
            }
        }
        done.sort_unstable_by_key(|(choice, _)| *choice);
        failed.map_or(Attempt::Done(done), Attempt::Failed)
    }

    /// One choice. A panic of the engine's code is the engine's failure, not ours.
    async fn sequence(
        &self,
        engine: &dyn Engine,
        job: &Job,
        replica: usize,
        choice: u16,
        stop: &CancellationToken,
    ) -> (u16, Result<Finished, EngineError>) {
        let since = self.lock().replicas[replica].moment(Instant::now());
        let mut sink = ChoiceSink { pool: self, task: &job.task, choice, index: 0, last: None };
        let generation = engine.generate(job.generation(choice, stop.clone()), &mut sink);
        let result = AssertUnwindSafe(generation).catch_unwind().await.unwrap_or_else(|_panic| {
            tracing::error!(pool = %self.spec.id, "the engine panicked");
            Err(EngineError::Reset)
        });
        if let Ok(finished) = &result {
            self.measure(job, finished, replica, since);
        }
        (choice, result)
    }

    fn measure(&self, job: &Job, finished: &Finished, replica: usize, since: Moment) {
        if finished.tokens_out == 0 {
            return;
        }
        let tokens_in = job.task.spec.limits.prompt_tokens.saturating_sub(finished.cached_tokens);
        let (tokens_out, prefill, decode) = (finished.tokens_out, finished.prefill, finished.decode);
        let mut state = self.lock();
        let occupancy = state.replicas[replica].occupancy(since, Instant::now());
        state.rates.measure_speed(Measured { tokens_in, tokens_out, prefill, decode, occupancy });
        if finished.finish != Finish::Canceled {
            state.rates.measure_length(job.task.spec.limits.max_tokens, tokens_out);
        }
    }

    /// Sleeps until the task exceeds a limit of the watchdog, and says which.
    async fn watch(&self, task: &Task, began: Instant) -> Limit {
        let limits = self.spec.watchdog;
        let wall = began + limits.wall;
        loop {
            let active = task.log.progress().last_token.unwrap_or(began).max(began);
            let idle = active + limits.idle;
            let now = Instant::now();
            if now >= wall {
                return Limit::Wall;
            }
            if now >= idle {
                return Limit::Idle;
            }
            sleep_until(wall.min(idle)).await;
        }
    }

    /// Whether a task whose engine failed can be run once more: its clients have seen nothing, and there are slots of another
    /// replica (which come back), or its own engine works again soon enough.
    async fn slots_again(self: &Arc<Self>, task: &Task, replica: usize) -> Option<Option<Slots>> {
        if task.log.progress().tokens > 0 {
            return None;
        }
        let elsewhere = self.lock().move_running(Instant::now(), task, replica);
        if let Some((replica, count)) = elsewhere {
            let id = self.lock().replicas[replica].id.clone();
            task.runs_on(id);
            return Some(Some(Slots::new(Arc::clone(self), replica, count, &task.spec.limits)));
        }
        let health = || self.lock().replicas[replica].health;
        let ready = async {
            loop {
                // Made before the look, so that no change between the two is lost.
                let recovered = self.recovered.notified();
                if health() != Health::Recovering {
                    return;
                }
                recovered.await;
            }
        };
        let in_time = task.stop.run_until_cancelled(timeout(RETRY_WITHIN, ready)).await;
        (matches!(in_time, Some(Ok(()))) && health() == Health::Ready).then_some(None)
    }

    /// Writes the last event of a task whose sequences have ended, unless somebody else has.
    fn conclude(self: &Arc<Self>, task: &Task, replica: usize, attempt: Attempt) {
        match attempt {
            Attempt::Done(done) => finish(task, &done),
            Attempt::Failed(error) => {
                if error == EngineError::Reset {
                    self.engine_failed(replica);
                }
                task.fail(engine_error(error).with_pool(self.spec.id.as_str()));
            }
            Attempt::TimedOut(limit) => task.fail(timed_out(limit).with_pool(self.spec.id.as_str())),
        }
    }
}

/// A task that holds slots. Should running it ever panic, the task still ends, and nobody waits for it.
struct Unfinished<'a> {
    pool: &'a Pool,
    task: &'a Task,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.pool.lock().stopped(self.task.spec.id);
        if std::thread::panicking() {
            self.task.fail(ErrorEnvelope::new(ErrorCode::Internal, "something went wrong in the gateway"));
        }
    }
}

/// Ends a task whose choices have all ended by themselves.
fn finish(task: &Task, done: &[(u16, Finished)]) {
    let Some(seal) = task.log.seal() else { return };
    let reason = |finished: &Finished| match finished.finish {
        Finish::Stop => FinishReason::Stop,
        Finish::Length => FinishReason::Length,
        Finish::Canceled => FinishReason::Canceled,
    };
    let usage = Usage {
        tokens_out: done.iter().map(|(_, finished)| u64::from(finished.tokens_out)).sum(),
        // The choices share their prompt, which counts once.
        cached_tokens: done.iter().map(|(_, finished)| u64::from(finished.cached_tokens)).min().unwrap_or(0),
    };
    let first = done.first().map_or(FinishReason::Stop, |(_, finished)| reason(finished));
    let choices = if done.len() < 2 { &[] } else { done };
    let choices = choices
        .iter()
        .map(|(choice, finished)| ChoiceEnd {
            choice: *choice,
            finish_reason: reason(finished),
            tokens_out: u64::from(finished.tokens_out),
        })
        .collect();
    task.finish(seal, first, usage, choices);
}

fn engine_error(error: EngineError) -> ErrorEnvelope {
    match error {
        EngineError::Reset => {
            ErrorEnvelope::new(ErrorCode::WorkerReset, "the engine failed while it ran the task; try again")
                .with_retry_after_ms(1000)
        }
        EngineError::Rejected => {
            ErrorEnvelope::new(ErrorCode::InvalidParams, "the engine does not accept this request")
        }
        EngineError::Grammar => ErrorEnvelope::invalid("json_schema", "this schema cannot be enforced"),
    }
}

fn timed_out(limit: Limit) -> ErrorEnvelope {
    let limit = match limit {
        Limit::Wall => "it ran longer than the pool allows",
        Limit::Idle => "the engine gave no token for longer than the pool allows",
    };
    ErrorEnvelope::new(ErrorCode::DecodeTimeout, format!("the task was ended: {limit}"))
}

/// Hands the tokens of one choice to the task's log.
struct ChoiceSink<'a> {
    pool: &'a Pool,
    task: &'a Task,
    choice: u16,
    index: u32,
    last: Option<Instant>,
}

impl Sink for ChoiceSink<'_> {
    fn token(&mut self, piece: Piece) -> ControlFlow<()> {
        let Piece { text, kind, logprobs } = piece;
        let now = Instant::now();
        let token = Token { choice: self.choice, index: self.index, text, kind, logprobs };
        if self.task.log.append(Event::Token(token), now).is_err() {
            return ControlFlow::Break(());
        }
        self.index += 1;
        if let Some(last) = self.last.replace(now) {
            self.pool.inter_token_ms.observe((now - last).as_secs_f64() * 1000.0);
        }
        ControlFlow::Continue(())
    }
}
