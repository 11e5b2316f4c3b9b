//! Sluicegate: an inference gateway with the engine inside it.

pub mod admission;
pub mod api;
pub mod app;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod ids;
pub mod lifecycle;
pub mod pools;
pub mod tasks;
pub mod telemetry;
