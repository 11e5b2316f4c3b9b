//! The places in which sequences run.
//!
//! A lane is one engine thread with its own copy of the model. On a GPU there is one lane, and its sequences are batched.
//! On the CPU each lane runs one sequence at a time, because mistralrs 0.8.1 does not compute a batch right there: the
//! attention of a decoding step keeps one scratch buffer for all rows of the batch (`flash_attn_cpu_single_q`), so every
//! row gets what the last one attends to, and answers would leak from one caller to another.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mistralrs::core::Pipeline;
use mistralrs::{MistralRs, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::engine::EngineError;

/// A model as the engine holds it.
pub type SharedPipeline = tokio::sync::Mutex<dyn Pipeline + Send + Sync>;

/// All places of one engine.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    /// One permit for each entry of `free`.
    permits: Arc<Semaphore>,
    /// The lane of each free place; the place given back last is taken first, so that a lane that failed is tried soon.
    /// Held for a push or a pop; a push comes before its permit.
    free: Mutex<Vec<usize>>,
}

/// One engine thread.
pub struct Lane {
    /// `None` once unloaded. Held only to clone or to take it.
    runner: Mutex<Option<Arc<MistralRs>>>,
    /// Gone when the engine's thread has dropped the model.
    pipeline: Weak<SharedPipeline>,
    /// Counts the engine's failures; each ends every generation in the lane that began before it.
    failures: watch::Sender<u64>,
    /// Whether it has failed since it last worked: then it will lose requests until it has restarted itself.
    suspect: AtomicBool,
}

/// A place taken by one sequence: the engine's processor holds it, so it is free again when the engine has let go.
#[derive(Debug)]
pub struct Place {
    lanes: Arc<Lanes>,
    lane: usize,
    _permit: OwnedSemaphorePermit,
}

impl Lanes {
    /// `places` in each of `lanes`.
    pub fn new(lanes: Vec<Lane>, places: u32) -> Arc<Self> {
        let free: Vec<usize> = (0..places).flat_map(|_| (0..lanes.len()).rev()).collect();
        Arc::new(Self { lanes, permits: Arc::new(Semaphore::new(free.len())), free: Mutex::new(free) })
    }

    /// Takes a place, waiting for one where none is free.
    ///
    /// # Errors
    ///
    /// [`EngineError::Reset`] once unloaded.
    pub async fn take(self: &Arc<Self>) -> Result<Place, EngineError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| EngineError::Reset)?;
        let lane = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or(EngineError::Reset)?;
        Ok(Place { lanes: self.clone(), lane, _permit: permit })
    }

    /// Orders every engine thread to end; all generations end with [`EngineError::Reset`].
    pub fn close(&self) {
        self.permits.close();
        for lane in &self.lanes {
            // Dropping the runner sends the thread its order.
            drop(lane.runner.lock().unwrap_or_else(PoisonError::into_inner).take());
            lane.failures.send_modify(|failures| *failures += 1);
        }
    }

    /// Whether every engine thread has dropped its model.
    pub fn are_gone(&self) -> bool {
        self.lanes.iter().all(|lane| lane.pipeline.strong_count() == 0)
    }

    #[cfg(test)]
    pub fn first(&self) -> &Lane {
        &self.lanes[0]
    }
}

impl Place {
    pub fn lane(&self) -> &Lane {
        &self.lanes.lanes[self.lane]
    }

    /// The lane, for longer than the place is held.
    pub fn watch(&self) -> LaneRef {
        LaneRef { lanes: self.lanes.clone(), lane: self.lane }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.lane);
    }
}

/// A lane, shared.
#[derive(Debug, Clone)]
pub struct LaneRef {
    lanes: Arc<Lanes>,
    lane: usize,
}

impl std::ops::Deref for LaneRef {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        &self.lanes.lanes[self.lane]
    }
}

impl Lane {
    pub fn new(runner: Arc<MistralRs>, pipeline: &Arc<SharedPipeline>) -> Self {
        Self {
            runner: Mutex::new(Some(runner)),
            pipeline: Arc::downgrade(pipeline),
            failures: watch::Sender::new(0),
            suspect: AtomicBool::new(false),
        }
    }

    /// The engine's request channel; restarts the engine where its thread has died.
    pub fn requests(&self) -> Result<mpsc::Sender<Request>, EngineError> {
        let runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(EngineError::Reset)?;
        std::panic::catch_unwind(AssertUnwindSafe(|| runner.get_sender(None)))
            .map_err(|_| EngineError::Reset)?
            .map_err(|_| EngineError::Reset)
    }

    /// Changes when the lane fails.
    pub fn failures(&self) -> watch::Receiver<u64> {
        self.failures.subscribe()
    }

    /// The engine failed under a generation that began when there had been `seen` failures: all that began before now
    /// have failed with it.
    pub fn fail(&self, seen: u64) {
        self.suspect.store(true, Ordering::Release);
        self.failures.send_if_modified(|failures| {
            let first = *failures == seen;
            *failures += u64::from(first);
            first
        });
    }

    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    pub fn trust(&self) {
        self.suspect.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("suspect", &self.suspect).finish_non_exhaustive()
    }
}
