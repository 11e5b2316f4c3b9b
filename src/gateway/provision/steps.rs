//! The steps by which a model is made ready, and how far they have come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluicegate_compat::native::{
    Event, Metrics, Preparation, PreparationStep, StepKind, StepProgress, StepStatus, StepsProgress,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ProvisionMetrics;
use crate::catalog::Progress;
use crate::tasks::Task;

/// In the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Fetch,
    Engine,
    Warmup,
}

impl Step {
    const ALL: [Self; 3] = [Self::Fetch, Self::Engine, Self::Warmup];

    const fn id(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Engine => "engine",
            Self::Warmup => "warmup",
        }
    }

    const fn kind(self) -> StepKind {
        match self {
            Self::Fetch => StepKind::ModelFetch,
            Self::Engine => StepKind::EngineProvision,
            Self::Warmup => StepKind::PoolWarmup,
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Fetch => "fetch the files of the model where they are missing, and check them",
            Self::Engine => "wait for a pool that is idle",
            Self::Warmup => "load the model, and try it with a generation",
        }
    }
}

/// How far a preparation has come. Shared by whoever does it and those who tell of it.
pub(super) struct Steps {
    model: String,
    /// As loading took the last time, in ms.
    load_ms: u64,
    metrics: ProvisionMetrics,
    state: Mutex<[Stage; 3]>,
    changed: AtomicBool,
    /// Nobody wants the outcome any more.
    stop: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stage {
    status: StepStatus,
    what: String,
    bytes_total: Option<u64>,
    bytes_done: u64,
}

impl Steps {
    pub fn new(model: &str, load_ms: u64, metrics: ProvisionMetrics) -> Self {
        let pending = Stage { status: StepStatus::Pending, what: String::new(), bytes_total: None, bytes_done: 0 };
        let state = Mutex::new([pending.clone(), pending.clone(), pending]);
        let (changed, stop) = (AtomicBool::new(true), CancellationToken::new());
        Self { model: model.to_owned(), load_ms, metrics, state, changed, stop }
    }

    /// A step begins, and what comes after it is yet to come, also where it was done before.
    pub fn begin(&self, step: Step, what: &str) {
        self.lock()[step as usize..].iter_mut().for_each(|stage| stage.status = StepStatus::Pending);
        self.change(step, |stage| {
            stage.status = StepStatus::Running;
            what.clone_into(&mut stage.what);
        });
    }

    pub fn done(&self, step: Step) {
        self.change(step, |stage| stage.status = StepStatus::Done);
    }

    pub fn is_done(&self, step: Step) -> bool {
        self.lock()[step as usize].status == StepStatus::Done
    }

    /// Ends what reads files for it, which nothing else can.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn change(&self, step: Step, change: impl FnOnce(&mut Stage)) {
        change(&mut self.lock()[step as usize]);
        self.changed.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, [Stage; 3]> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has since this was asked last.
    pub fn has_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// As the answer to a request lists them.
    pub fn list(&self) -> Preparation {
        let state = self.lock();
        let step = |step: Step| PreparationStep {
            id: step.id(),
            kind: step.kind(),
            group: self.model.clone(),
            description: step.description(),
            // How long the others take depends on a server, and on other tasks.
            estimated_ms: (step == Step::Warmup).then_some(self.load_ms),
            bytes_total: state[step as usize].bytes_total,
            status: state[step as usize].status,
        };
        Preparation { steps: Step::ALL.map(step).to_vec() }
    }

    /// Appends a `metrics` event to the log of a task that waits. One that has ended meanwhile takes none.
    pub fn tell(&self, task: &Task) {
        let metrics = Metrics { prep: Some(Arc::new(self.progress())), ..task.budget().unwrap_or_default() };
        let _ = task.log.append(Event::Metrics(Arc::new(metrics)), Instant::now());
    }

    fn progress(&self) -> StepsProgress {
        let state = self.lock();
        Step::ALL.into_iter().map(|step| (step.id(), state[step as usize].progress(step))).collect()
    }
}

impl Stage {
    fn progress(&self, step: Step) -> StepProgress {
        let percent = |total: u64| u8::try_from(self.bytes_done.min(total) * 100 / total.max(1)).unwrap_or(100);
        let pct = self.bytes_total.map(percent);
        let human = match (self.status, pct) {
            (StepStatus::Pending, _) => format!("next: {}", step.description()),
            (StepStatus::Running, Some(pct)) => format!("{}: {pct} %", self.what),
            (StepStatus::Running, None) => self.what.clone(),
            (StepStatus::Done, _) => "done".to_owned(),
        };
        let phase = match self.status {
            StepStatus::Pending => "pending",
            StepStatus::Done => "done",
            StepStatus::Running => step.id(),
        };
        StepProgress {
            status: self.status,
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done,
            pct,
            phase,
            human,
        }
    }
}

/// The catalog tells what it does with the files: one after the other.
impl Progress for Steps {
    fn start(&self, what: &str, bytes: Option<u64>) {
        self.change(Step::Fetch, |stage| {
            what.clone_into(&mut stage.what);
            (stage.bytes_total, stage.bytes_done) = (bytes, 0);
        });
    }

    fn advance(&self, bytes: u64) {
        self.metrics.advance(bytes);
        self.change(Step::Fetch, |stage| stage.bytes_done = stage.bytes_done.saturating_add(bytes));
    }

    fn finish(&self) {}

    fn note(&self, what: &str) {
        tracing::warn!(model = self.model, "{what}");
    }

    fn canceled(&self) -> bool {
        self.stop.is_cancelled()
    }
}
