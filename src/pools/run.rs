//! One task on an engine, from its first slot to its last event.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sluicegate_compat::native::{
    ChoiceEnd, ErrorCode, ErrorEnvelope, Event, FinishReason, PolicyLabel, Started, TaskResult, Token, detail,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::rates::Measured;
use super::replica::{Health, Moment, Seat, Slots};
use super::{Job, Pool, prepare};
use crate::engine::{Engine, EngineError, Finish, Finished, LET_GO_DEADLINE, Material, Piece, Prepared, Sink};
use crate::tasks::{Durable, Reason, Sealed, Task, Usage};

mod evaluation;

/// How long a task that lost its engine before its first token waits for the engine to work again.
const RETRY_WITHIN: Duration = Duration::from_secs(10);

/// A limit of the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Wall,
    Idle,
    /// A budget is used up.
    Budget(PolicyLabel),
}

/// How an attempt to run a task ended.
enum Attempt {
    /// All choices ended; or the task was ended by somebody else, and then nobody looks at them.
    Done(Vec<(u16, Finished)>),
    /// All inputs were embedded or scored; `None` where the task was ended by somebody else.
    Evaluated(Option<TaskResult>),
    Failed(EngineError),
    /// The watchdog's limit that was exceeded.
    TimedOut(Limit),
}

impl Pool {
    /// Runs `job` to its end. The slots are held until the engine has let go of every sequence.
    pub(super) async fn run(self: Arc<Self>, job: Job, slots: Slots) {
        let task = Arc::clone(&job.task);
        let unfinished = Unfinished { pool: &self, task: &task };
        let (mut job, mut slots) = (job, slots);
        let fitted = self.fit(&mut job, &slots.seat.engine).await;
        if let Ok(true) = fitted {
            slots.refit(&task.limits());
        }
        if let Err(error) = fitted {
            task.fail(error.with_pool(self.spec.id.as_str()));
        } else if let Ok(durable) = self.announce(&job, &slots.seat) {
            // Whoever has hung up meanwhile holds no slots for that.
            if let Some(Some(Err(error))) = task.stop.run_until_cancelled(OptionFuture::from(durable)).await {
                // After a crash it would be run again, or not be charged, which is better than not at all.
                tracing::error!(task_id = %task.spec.id, %error, "the start of a task could not be stored");
            }
            let mut attempt = self.attempt(&job, &slots.seat).await;
            if matches!(attempt, Attempt::Failed(EngineError::Reset)) {
                self.engine_failed(&slots.seat);
                if self.find_slots_again(&job, &mut slots).await {
                    attempt = self.attempt(&job, &slots.seat).await;
                }
            }
            self.conclude(&task, &slots.seat, attempt).await;
        }
        drop(unfinished);
        drop(slots);
    }

    /// Prepares a job for the model that it gets, and says whether that is another one than it was prepared for.
    async fn fit(&self, job: &mut Job, engine: &Arc<dyn Engine>) -> Result<bool, ErrorEnvelope> {
        if job.fitted.model_digest == engine.info().model_digest {
            return Ok(false);
        }
        let fitted = prepare(&job.recipe, engine, &self.lifecycle).await;
        job.refit(fitted).map(|()| true)
    }

    /// Appends `started`, unless the task has ended while it waited.
    fn announce(&self, job: &Job, seat: &Seat) -> Result<Option<Durable>, Sealed> {
        let replica_id = self.lock().replicas[seat.replica].id.clone();
        job.task.runs_on(replica_id.clone());
        let info = seat.engine.info();
        let (position, predicted_ms) =
            job.admitted.map_or((0, 0), |(_, place)| (place.position, place.prediction.start_ms));
        let started = Started {
            queue_position: position,
            predicted_start_ms: predicted_ms,
            engine: self.spec.engine.as_str().to_owned(),
            engine_version: info.engine_version.clone(),
            pool_id: self.spec.id.to_string(),
            replica_id: replica_id.to_string(),
            sampler_profile_version: info.sampler_profile_version.clone(),
            model_digest: info.model_digest.clone(),
        };
        let (now, started) = (Instant::now(), Arc::new(started));
        let durable = job.task.start(Arc::clone(&started), now)?;
        job.task.tell_budget();
        let predicted = job.admitted.map(|(at, _)| at + Duration::from_millis(predicted_ms));
        self.metrics.started(self, &job.task, &started, now, predicted);
        Ok(durable)
    }

    /// Runs all choices, as many at once as there are slots, under the watchdog.
    async fn attempt(self: &Arc<Self>, job: &Job, seat: &Seat) -> Attempt {
        let began = Instant::now();
        let sequences = async {
            match &job.fitted.material {
                Material::Prompt(prompt) => self.sequences(seat, job, prompt).await,
                Material::Batch(batch) => self.evaluation(seat, job, batch).await,
            }
        };
        tokio::pin!(sequences);
        let limit = tokio::select! {
            attempt = &mut sequences => return attempt,
            limit = self.watch(&job.task, began) => limit,
        };
        // The task ends now; the slots wait for the engine to let go.
        self.cut_off(&job.task, limit);
        let let_go = timeout(LET_GO_DEADLINE, sequences).await.is_ok();
        if !let_go {
            tracing::error!(pool = %self.spec.id, "the engine does not let go of a sequence");
        }
        // A task that was only long says nothing about its engine.
        if limit == Limit::Idle || !let_go {
            self.engine_failed(seat);
        }
        Attempt::TimedOut(limit)
    }

    async fn sequences(&self, seat: &Seat, job: &Job, prompt: &Prepared) -> Attempt {
        let choices = job.task.limits().choices;
        // When one choice fails the task does, and the others need not go on.
        let stop = job.task.stop.child_token();
        let mut waiting = (0..choices).map(|choice| self.sequence(seat, job, (prompt, choice), &stop));
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(seat.need.sequences.max(1) as usize).collect();
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

    /// One choice.
    async fn sequence(
        &self,
        seat: &Seat,
        job: &Job,
        (prompt, choice): (&Prepared, u16),
        stop: &CancellationToken,
    ) -> (u16, Result<Finished, EngineError>) {
        let since = self.lock().replicas[seat.replica].moment(Instant::now());
        let mut sink = ChoiceSink { pool: self, task: &job.task, choice, index: 0, last: None };
        let generation = seat.engine.generate(job.generation(prompt, choice, stop.clone()), &mut sink);
        let result = self.caught(generation).await;
        if let Ok(finished) = &result {
            self.measure(job, finished, seat, since);
        }
        (choice, result)
    }

    /// What an engine answers; a panic of its code is its failure.
    async fn caught<T>(&self, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_panic| {
            tracing::error!(pool = %self.spec.id, "the engine panicked");
            Err(EngineError::Reset)
        })
    }

    fn measure(&self, job: &Job, finished: &Finished, seat: &Seat, since: Moment) {
        if finished.tokens_out == 0 {
            return;
        }
        let tokens_in = job.task.limits().prompt_tokens.saturating_sub(finished.cached_tokens);
        let (tokens_out, prefill, decode) = (finished.tokens_out, finished.prefill, finished.decode);
        self.measure_speed(seat, since, |occupancy| Measured { tokens_in, tokens_out, prefill, decode, occupancy });
        if finished.finish != Finish::Canceled {
            self.lock().rates.measure_length(job.task.limits().max_tokens, tokens_out);
        }
    }

    pub(super) fn measure_speed(&self, seat: &Seat, since: Moment, measured: impl FnOnce(f64) -> Measured) {
        let mut state = self.lock();
        let replica = &mut state.replicas[seat.replica];
        // What a model that is no longer served has done says nothing about the one that is.
        if !replica.has(&seat.engine) {
            return;
        }
        let occupancy = replica.occupancy(since, Instant::now());
        state.rates.measure_speed(measured(occupancy));
    }

    /// Sleeps until the task exceeds a limit of the watchdog, and says which.
    async fn watch(&self, task: &Task, began: Instant) -> Limit {
        let limits = self.spec.watchdog;
        let wall = began + limits.wall;
        loop {
            let active = task.log.progress().active.unwrap_or(began).max(began);
            let idle = active + limits.idle;
            let now = Instant::now();
            if now >= wall {
                return Limit::Wall;
            }
            if now >= idle {
                return Limit::Idle;
            }
            let paid = task.paid_until();
            if paid.is_some_and(|paid| now >= paid) {
                match task.pay_on() {
                    Ok(()) => continue,
                    Err(label) => return Limit::Budget(label),
                }
            }
            sleep_until(paid.map_or(wall, |paid| wall.min(paid)).min(idle)).await;
        }
    }

    /// Whether a task whose engine failed can be run once more: its clients have seen nothing, and there are slots of another
    /// replica (which it has then), or its own engine works again soon enough; and the model is still the one that it was
    /// announced with.
    async fn find_slots_again(self: &Arc<Self>, job: &Job, slots: &mut Slots) -> bool {
        let (task, replica) = (&job.task, slots.seat.replica);
        if task.log.progress().tokens > 0 {
            return false;
        }
        let same_model = |engine: &Arc<dyn Engine>| engine.info().model_digest == job.fitted.model_digest;
        let elsewhere = {
            let mut state = self.lock();
            let may_move = state.engine().is_some_and(same_model);
            may_move.then(|| state.move_running(Instant::now(), task, replica)).flatten()
        };
        if let Some(seat) = elsewhere {
            let id = self.lock().replicas[seat.replica].id.clone();
            task.runs_on(id);
            *slots = Slots::new(Arc::clone(self), seat);
            return true;
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
        if !matches!(task.stop.run_until_cancelled(timeout(RETRY_WITHIN, ready)).await, Some(Ok(()))) {
            return false;
        }
        let engine = self.lock().engine_again(task, replica).filter(same_model);
        engine.map(|engine| slots.seat.engine = engine).is_some()
    }

    /// Ends a task that has come to a limit.
    fn cut_off(&self, task: &Task, limit: Limit) {
        match limit {
            Limit::Budget(label) => task.exhaust(label),
            Limit::Wall => self.time_out(task, "it ran longer than the pool allows"),
            Limit::Idle => self.time_out(task, "the engine gave nothing for longer than the pool allows"),
        }
    }

    fn time_out(&self, task: &Task, why: &str) {
        let error = ErrorEnvelope::new(ErrorCode::DecodeTimeout, format!("the task was ended: {why}"));
        task.fail(error.with_pool(self.spec.id.as_str()));
    }

    /// Writes the last event of a task whose sequences have ended, unless somebody else has.
    async fn conclude(self: &Arc<Self>, task: &Arc<Task>, seat: &Seat, attempt: Attempt) {
        match attempt {
            Attempt::Done(done) => finish(task, &done),
            Attempt::Evaluated(result) => {
                let bytes = result.as_ref().map_or(0, TaskResult::bytes);
                let ended = Arc::clone(task);
                let finish = move || evaluation::finish(&ended, result);
                // A panic of it is told as the task's.
                if self.lifecycle.sized("finish", bytes, finish).await.is_err() {
                    task.fail(ErrorEnvelope::new(ErrorCode::Internal, "something went wrong in the gateway"));
                }
            }
            Attempt::Failed(error) => {
                if error == EngineError::Reset {
                    self.engine_failed(seat);
                }
                task.fail(engine_error(error).with_pool(self.spec.id.as_str()));
            }
            Attempt::TimedOut(limit) => self.cut_off(task, limit),
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
        self.pool.stopped.notify_waiters();
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
        Finish::ToolCalls => FinishReason::ToolCalls,
        Finish::Length => FinishReason::Length,
        Finish::Canceled => FinishReason::Canceled,
    };
    let usage = Usage {
        tokens_out: done.iter().map(|(_, finished)| u64::from(finished.tokens_out)).sum(),
        // The choices share their prompt, which counts once.
        cached_tokens: done.iter().map(|(_, finished)| u64::from(finished.cached_tokens)).min().unwrap_or(0),
    };
    let first = done.first().map_or(FinishReason::Stop.into(), |(_, finished)| Reason {
        matched_stop: finished.matched_stop.clone(),
        ..reason(finished).into()
    });
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
        EngineError::NoPrompts => {
            let message =
                "the server of this pool has no /completions for this model, so it takes `messages` and no `prompt`";
            ErrorEnvelope::invalid("prompt", message).with_detail(detail::UNSUPPORTED_PARAMETER)
        }
        EngineError::NoWorkload => {
            let message = "the server of this pool does not serve this workload with its model";
            ErrorEnvelope::invalid("workload", message).with_detail(detail::UNSUPPORTED_VALUE)
        }
        EngineError::Rejected => {
            ErrorEnvelope::new(ErrorCode::InvalidParams, "the engine does not accept this request")
        }
        EngineError::Grammar => ErrorEnvelope::invalid("json_schema", "this schema cannot be enforced"),
        EngineError::Dimensions => ErrorEnvelope::invalid("dimensions", "the model's vectors have fewer numbers"),
    }
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
        let Piece { text, kind, tool, logprobs } = piece;
        let now = Instant::now();
        let token = Token { choice: self.choice, index: self.index, text, kind, logprobs, tool };
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
