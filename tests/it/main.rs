//! The middle and outer tests, in one binary: linking the engine once is dear enough.

// A test that cannot go on panics, and says where; and it may start what it likes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod access;
mod addresses;
mod artifacts;
mod audit;
mod budgets;
mod cancel;
mod catalog;
mod classes;
mod config;
mod cors;
mod declared;
mod downloads;
mod draining;
mod durability;
mod engine;
mod evaluating;
mod failures;
mod harness;
mod http;
mod idempotency;
mod interleavings;
mod keeping;
mod listing;
mod media;
mod messages;
mod models;
mod native;
mod openai_chat;
mod openai_completions;
mod openai_inputs;
mod openai_responses;
mod openai_tokens;
mod openapi;
mod outer;
mod placing;
mod policies;
#[path = "../support/postgres.rs"]
mod postgres;
mod prices;
mod provisioning;
mod published;
mod purging;
mod quotas;
mod rates;
mod reloading;
mod remote;
mod replicas;
mod sessions;
mod streaming;
mod structured;
mod tidy;
mod tools;
mod usage;
