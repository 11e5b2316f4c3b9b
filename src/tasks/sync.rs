//! The lock of the event log, apart so that the interleaving test can put a model checker's lock in its place.

pub use std::sync::Mutex;
