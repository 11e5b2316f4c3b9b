//! The translation as clients see it: what they send, what they read back.

// A test that cannot go on panics, and says where.
#![allow(clippy::unwrap_used)]

mod anthropic;
mod errors;
mod events;
mod golden_laws;
mod goldens;
mod inputs;
mod models;
mod reading;
mod request;
mod request_errors;
mod request_laws;
mod sse;
mod stream;
mod whole;
