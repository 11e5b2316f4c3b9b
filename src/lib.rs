//! Sluicegate: an inference gateway with the engine inside it.
//!
//! One binary serves a native task API (`/v2`) and the OpenAI API (`/v1`), sends both through the same admission and
//! queues, and streams tokens from mistral.rs engines in its own process. Because the engine is in the process, it counts a
//! prompt with the model's own tokenizer before it admits it, knows which slots are free, and measures its own rates.
//!
//! # The path of a request
//!
//! ```text
//! socket -> correlation id -> local callers only -> api::native, api::openai or api::anthropic
//!   -> compat: the body becomes a TaskRequest
//!   -> gateway::submit -> admission: checks, placement, exact tokens, limits -> Task in the queue of a pool
//!   -> pools: a slot is free -> run -> engine::generate: tokens -> the task's event log
//!   -> any number of readers: native SSE, OpenAI chunks, Anthropic events, one collected answer
//! ```
//!
//! There is one path. A request of another dialect makes the same [`Task`](tasks::Task) and reads the same log; when its client
//! hangs up the task is cancelled. A native task lives on its own until it ends or is cancelled.
//!
//! # Where to begin reading
//!
//! [`app`] builds everything, top to bottom; [`api::router`] is every route with its layers; [`gateway`] has each use case
//! on a screen; [`tasks`] and [`pools`] are the heart; [`engine`] is the seam to whatever runs a model.
//!
//! # Layers
//!
//! They point down only. Two modules of one layer do not import each other; what they share moves down.
//!
//! | layer | module | job |
//! | --- | --- | --- |
//! | contract | `sluicegate_compat` | wire types of all dialects and the translation between them; pure |
//! | 0 | [`audit`] | what administrators do, as it is recorded |
//! | 0 | [`causes`] | errors in words |
//! | 0 | [`clock`] | the time of day |
//! | 0 | [`ids`] | names, each its own type |
//! | 0 | [`lifecycle`] | the only place that spawns; signals, drain, force |
//! | 0 | [`store`] | what survives a restart, in an embedded SQLite database or in PostgreSQL; the only place that knows SQL |
//! | 0 | [`media`] | images and recordings: what they are by their bytes |
//! | 0 | [`web`] | getting what is at an address that somebody has named, and from nowhere else |
//! | 0 | [`budgets`] | what may still be used, by a session, a tenant, a key, in a day, a month or ever: reserved before, settled after, never overspent |
//! | 1 | [`tasks`] | a task, its event log, the ways it can end, the registry and its retention |
//! | 1 | [`engine`] | `trait Engine`; `mistral` (the only place that knows mistralrs), `remote` (any OpenAI-compatible server), `scripted`, and the text machinery |
//! | 1 | [`catalog`] | model references and entries; files from the binary, the disk, a hub or a web server, with digests; state, trust and verification |
//! | 1 | [`tenants`] | tenants and their API keys, over the store; who asks, and what they may |
//! | 1 | [`placement`] | which pools may run a task, and in which order to try them; pure |
//! | 2 | [`pools`] | fair queue, replicas and their slots, dispatcher, measured rates, predictions, drain, reload, purge, recovery, watchdog |
//! | 2 | [`sessions`] | what tasks that belong together have in common: time to live, turns, the last good replica, budgets; also over a restart |
//! | 3 | [`admission`] | the checks in order; from a request to a task in a queue |
//! | 4 | [`gateway`] | the use cases |
//! | 5 | [`api`] | HTTP: router, layers, extractors, event streams, rendering of errors |
//! | 6 | [`config`], [`telemetry`], [`app`], [`cli`] | configuration, logs, the composition root, the command line |
//!
//! # What holds everywhere
//!
//! - Nothing below [`api`] knows HTTP; nothing but `engine::mistral` knows mistralrs; nothing but `engine::remote` speaks to
//!   servers that run models; nothing but [`config`] and [`cli`]
//!   reads the environment; nothing but [`lifecycle`] spawns. A test reads the `use` lines and says so.
//! - Nothing is ever appended to a task's log once its [`Seal`](tasks::Seal) is taken, and exactly one party takes it.
//! - No reader can slow an engine: a log is bounded by what admission granted, and readers have cursors.
//! - A slot is free again only when the engine has let go of its sequence.
//! - No message of an engine reaches a client; no prompt, answer or key reaches a log.

pub mod admission;
pub mod api;
pub mod app;
pub mod audit;
pub mod budgets;
pub mod catalog;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod ids;
pub mod lifecycle;
pub mod media;
pub mod placement;
pub mod pools;
pub mod sessions;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tenants;
pub mod web;
