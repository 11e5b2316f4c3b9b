//! Tasks: what a client asked for, what became of it, and the log of events that every reader follows.
//!
//! A [`Task`] is made at admission and lives until its retention ends. Its [`EventLog`] is the only way from an engine to
//! a client: the engine's side appends, any number of [`Reader`]s follow at their own pace. Exactly one party wins the
//! [`Seal`] of a log and writes its last event; after that nothing is ever appended, which is what makes cancellation
//! free of races.

mod journal;
mod log;
mod progress;
mod registry;
mod spending;
mod sync;
mod task;

pub use journal::{Durable, Journal, Kept, Key, Stage};
pub use log::{EventLog, Read, Reader, Seal, Sealed};
pub use progress::Progress;
pub use registry::{Conflict, Registry, Retention};
pub use spending::{Hold, Holder, SLICE_MS, Settled, Spending, Terms, Ties, label, slice};
pub use task::{Clock, Ended, Home, Limits, Observer, Owner, Passage, Reason, Task, TaskSpec, Usage, millis};
