//! The middle and outer tests, in one binary: linking the engine once is dear enough.

mod catalog;
mod config;
mod failures;
mod harness;
mod http;
mod native;
mod openai_chat;
mod outer;
