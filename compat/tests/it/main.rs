//! The translation as clients see it: what they send, what they read back.

mod errors;
mod events;
mod models;
mod request;
mod request_errors;
mod request_laws;
mod sse;
mod stream;
mod whole;
