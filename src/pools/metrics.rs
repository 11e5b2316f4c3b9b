//! The metrics of pools and of the tasks that run in them.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use sluicegate_compat::native::{ErrorCode, Event, FinishReason, PolicyLabel, Priority, Started};
use tokio::time::Instant;

use super::{Eviction, Pool, PoolSpec};
use crate::engine::EngineInfo;
use crate::ids::ReplicaId;
use crate::tasks::{Ended, Task};

mod gauges;

use gauges::EngineGauges;

/// The label value of what is not known yet.
pub(super) const NONE: &str = "none";

/// The time between two tokens, in ms; cheap to observe.
pub(super) type InterToken = prometheus::Histogram;

const REPLICA: [&str; 4] = ["engine", "engine_version", "pool_id", "replica_id"];
const TASK: [&str; 5] = ["engine", "engine_version", "pool_id", "replica_id", "priority"];
const CANCELED: [&str; 5] = ["engine", "engine_version", "pool_id", "replica_id", "reason"];
const LATENCY: [&str; 4] = ["engine", "engine_version", "pool_id", "priority"];

/// Buckets in ms for short times: finer ones below those that the contract names.
const SHORT: [f64; 15] =
    [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0];
/// Buckets in ms for long times.
const LONG: [f64; 13] =
    [25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0, 6000.0, 8000.0, 12000.0];

/// Counters, gauges and histograms; the help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct PoolMetrics {
    tasks_enqueued: IntCounterVec,
    tasks_started: IntCounterVec,
    tasks_canceled: IntCounterVec,
    tasks_rejected: IntCounterVec,
    tasks_finished: IntCounterVec,
    tokens_in: IntCounterVec,
    tokens_out: IntCounterVec,
    tasks_dropped: IntCounterVec,
    backpressure: IntCounterVec,
    reloads: IntCounterVec,
    queue_depth: IntGaugeVec,
    slots_active: IntGaugeVec,
    slots_total: IntGaugeVec,
    first_token_ms: HistogramVec,
    decode_ms: HistogramVec,
    queue_wait_ms: HistogramVec,
    inter_token_ms: HistogramVec,
    start_error_ms: HistogramVec,
    engines: EngineGauges,
}

impl PoolMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        Ok(Self {
            tasks_enqueued: counter("tasks_enqueued_total", "Tasks taken into a queue.", &TASK)?,
            tasks_started: counter("tasks_started_total", "Tasks that got their slots.", &TASK)?,
            tasks_canceled: counter(
                "tasks_canceled_total",
                "Tasks that were cancelled, by where they were.",
                &CANCELED,
            )?,
            tasks_rejected: counter("tasks_rejected_total", "Requests refused at admission.", &["engine", "reason"])?,
            tasks_finished: counter(
                "tasks_finished_total",
                "Tasks that ended, by outcome.",
                &["engine", "pool_id", "outcome"],
            )?,
            tokens_in: counter("tokens_in_total", "Prompt tokens of tasks that started and ended.", &REPLICA)?,
            tokens_out: counter("tokens_out_total", "Tokens sampled for tasks that ended.", &REPLICA)?,
            tasks_dropped: counter(
                "tasks_dropped_total",
                "Tasks that had to leave a full queue for others.",
                &["engine", "pool_id", "reason"],
            )?,
            backpressure: counter(
                "admission_backpressure_events_total",
                "Requests met by a full queue, by its policy.",
                &["engine", "policy"],
            )?,
            reloads: counter("pool_reloads_total", "Reloads of pools that ended.", &["pool_id", "outcome"])?,
            queue_depth: gauge("queue_depth", "Tasks waiting.", &["engine", "engine_version", "pool_id", "priority"])?,
            slots_active: gauge("slots_active", "Slots in use.", &["pool_id", "replica_id"])?,
            slots_total: gauge("slots_total", "Sequences that the replica runs at once.", &["pool_id", "replica_id"])?,
            first_token_ms: histogram("latency_first_token_ms", "From start to first token, in ms.", &LATENCY, &SHORT)?,
            decode_ms: histogram("latency_decode_ms", "From first token to the end, in ms.", &LATENCY, &LONG)?,
            queue_wait_ms: histogram(
                "queue_wait_ms",
                "From admission to start, in ms.",
                &["pool_id", "priority"],
                &LONG,
            )?,
            inter_token_ms: histogram(
                "inter_token_ms",
                "Between two tokens of a sequence, in ms.",
                &["pool_id"],
                &[0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 1000.0],
            )?,
            start_error_ms: histogram(
                "predicted_start_error_ms",
                "How far the start predicted at admission was off, in ms.",
                &["pool_id"],
                &LONG,
            )?,
            engines: EngineGauges::register(registry)?,
        })
    }

    /// What is looked at when somebody asks.
    pub(super) fn engines(&self) -> &EngineGauges {
        &self.engines
    }

    /// Makes the series that exist from the start, at 0.
    pub(super) fn add_pool(&self, spec: &PoolSpec) {
        let (engine, pool) = (spec.engine.as_str(), spec.id.as_str());
        for outcome in ["finished", "failed", "canceled"] {
            self.tasks_finished.with_label_values(&[engine, pool, outcome]);
        }
        for reason in [PolicyLabel::QueueReject.as_str(), ErrorCode::InvalidParams.as_str()] {
            self.tasks_rejected.with_label_values(&[engine, reason]);
        }
        for eviction in [Eviction::DropLru, Eviction::ShedBatch] {
            self.tasks_dropped.with_label_values(&[engine, pool, reason(eviction)]);
        }
        self.backpressure.with_label_values(&[engine, spec.queue_policy.as_str()]);
        for succeeded in [true, false] {
            self.reloads.with_label_values(&[pool, outcome(succeeded)]);
        }
        self.inter_token_ms.with_label_values(&[pool]);
        self.start_error_ms.with_label_values(&[pool]);
        for priority in Priority::ALL {
            self.queue_wait_ms.with_label_values(&[pool, priority.as_str()]);
        }
    }

    pub(super) fn add_replica(&self, spec: &PoolSpec, replica: &ReplicaId) {
        self.slots_active.with_label_values(&[spec.id.as_str(), replica.as_str()]);
        self.slots_total.with_label_values(&[spec.id.as_str(), replica.as_str()]);
    }

    /// A server is registered no longer; its place may be another one's later.
    pub(super) fn remove_replica(&self, spec: &PoolSpec, replica: &ReplicaId) {
        self.slots_total.with_label_values(&[spec.id.as_str(), replica.as_str()]).set(0);
    }

    /// The series of a replica whose engine version is now known.
    pub(super) fn add_engine(&self, pool: &Pool, replica: &ReplicaId, info: &EngineInfo) {
        let (engine, version) = (info.engine.as_str(), info.engine_version.as_str());
        let (id, replica) = (pool.spec.id.as_str(), replica.as_str());
        self.slots_total.with_label_values(&[id, replica]).set(i64::from(info.slots));
        self.tokens_in.with_label_values(&[engine, version, id, replica]);
        self.tokens_out.with_label_values(&[engine, version, id, replica]);
        for priority in Priority::ALL.map(Priority::as_str) {
            self.tasks_enqueued.with_label_values(&[engine, version, id, NONE, priority]);
            self.tasks_started.with_label_values(&[engine, version, id, replica, priority]);
            self.queue_depth.with_label_values(&[engine, version, id, priority]);
            self.first_token_ms.with_label_values(&[engine, version, id, priority]);
            self.decode_ms.with_label_values(&[engine, version, id, priority]);
        }
        self.tasks_canceled.with_label_values(&[engine, version, id, NONE, "queued"]);
        self.tasks_canceled.with_label_values(&[engine, version, id, replica, "running"]);
    }
}

/// What moves the series: one method per real event.
impl PoolMetrics {
    /// The histogram that is observed for each token, looked up once.
    pub(super) fn inter_token(&self, spec: &PoolSpec) -> InterToken {
        self.inter_token_ms.with_label_values(&[spec.id.as_str()])
    }

    pub(super) fn enqueued(&self, pool: &Pool, task: &Task) {
        let version = version(pool);
        let (id, priority) = (pool.spec.id.as_str(), task.spec.priority.as_str());
        // Which replica will run it is not known yet.
        self.tasks_enqueued.with_label_values(&[pool.spec.engine.as_str(), &version, id, NONE, priority]).inc();
        self.queue_changed(pool);
    }

    /// A request was refused at admission. `reason` is a policy label or an error code, both closed sets.
    pub fn rejected(&self, pool: Option<&Pool>, reason: &str) {
        let engine = pool.map_or(NONE, |pool| pool.spec.engine.as_str());
        self.tasks_rejected.with_label_values(&[engine, reason]).inc();
    }

    /// A reload has ended.
    pub(super) fn reloaded(&self, pool: &Pool, succeeded: bool) {
        self.reloads.with_label_values(&[pool.spec.id.as_str(), outcome(succeeded)]).inc();
    }

    /// A task came to a full queue.
    pub(super) fn full(&self, pool: &Pool) {
        let labels = [pool.spec.engine.as_str(), pool.spec.queue_policy.as_str()];
        self.backpressure.with_label_values(&labels).inc();
    }

    /// A task had to leave the queue for another.
    pub(super) fn dropped(&self, pool: &Pool, eviction: Eviction) {
        let labels = [pool.spec.engine.as_str(), pool.spec.id.as_str(), reason(eviction)];
        self.tasks_dropped.with_label_values(&labels).inc();
    }

    /// The queue or the slots of a pool are not what they were.
    pub(super) fn queue_changed(&self, pool: &Pool) {
        let (engine, id) = (pool.spec.engine.as_str(), pool.spec.id.as_str());
        // Set under the lock, so that the last to look is the last to write.
        let state = pool.lock();
        for priority in Priority::ALL {
            let depth = state.queue.depth(priority);
            let gauge = self.queue_depth.with_label_values(&[engine, state.engine_version(), id, priority.as_str()]);
            gauge.set(i64::try_from(depth).unwrap_or(i64::MAX));
        }
        for replica in &state.replicas {
            let active = i64::from(replica.slots_used());
            self.slots_active.with_label_values(&[id, replica.id.as_str()]).set(active);
        }
    }

    /// A task got its slots; `predicted` is the start that its admission foresaw.
    pub(super) fn started(&self, pool: &Pool, task: &Task, told: &Started, now: Instant, predicted: Option<Instant>) {
        let (id, priority) = (pool.spec.id.as_str(), task.spec.priority.as_str());
        let labels = [told.engine.as_str(), &told.engine_version, id, &told.replica_id, priority];
        self.tasks_started.with_label_values(&labels).inc();
        self.queue_wait_ms.with_label_values(&[id, priority]).observe(ms(now - task.created.instant));
        if let Some(predicted) = predicted {
            let error = now.saturating_duration_since(predicted).max(predicted.saturating_duration_since(now));
            self.start_error_ms.with_label_values(&[id]).observe(ms(error));
        }
    }

    /// A task ended, in whichever way.
    pub(super) fn ended(&self, pool: &Pool, task: &Task, how: &Ended) {
        let (engine, id) = (pool.spec.engine.as_str(), pool.spec.id.as_str());
        let replica = task.replica_id();
        let replica = replica.as_ref().map_or(NONE, |replica| replica.as_str());
        let outcome = match &how.last {
            Event::Error(_) => "failed",
            Event::End(end) if end.finish_reason == FinishReason::Canceled => "canceled",
            _ => "finished",
        };
        self.tasks_finished.with_label_values(&[engine, id, outcome]).inc();
        if outcome == "canceled" {
            let labels = match &how.progress.started {
                Some((_, told)) => [engine, told.engine_version.as_str(), id, replica, "running"],
                None => [engine, &version(pool), id, NONE, "queued"],
            };
            self.tasks_canceled.with_label_values(&labels).inc();
        }
        let Some((started, told)) = &how.progress.started else { return };
        let version = told.engine_version.as_str();
        let tokens_in = u64::from(task.limits().prompt_tokens);
        self.tokens_in.with_label_values(&[engine, version, id, replica]).inc_by(tokens_in);
        let tokens_out = if let Event::End(end) = &how.last { end.tokens_out } else { how.progress.tokens };
        self.tokens_out.with_label_values(&[engine, version, id, replica]).inc_by(tokens_out);
        let labels = [engine, version, id, task.spec.priority.as_str()];
        if let Some(first) = how.progress.first_token {
            self.first_token_ms.with_label_values(&labels).observe(ms(first - *started));
            let ended = how.progress.ended.as_ref().map_or(first, |(at, _)| *at);
            self.decode_ms.with_label_values(&labels).observe(ms(ended.saturating_duration_since(first)));
        }
    }
}

const fn outcome(succeeded: bool) -> &'static str {
    if succeeded { "succeeded" } else { "failed" }
}

const fn reason(eviction: Eviction) -> &'static str {
    match eviction {
        Eviction::DropLru => "drop_lru",
        Eviction::ShedBatch => "shed_batch",
    }
}

fn version(pool: &Pool) -> String {
    pool.lock().engine_version().to_owned()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
