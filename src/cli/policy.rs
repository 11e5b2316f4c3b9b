//! What tenants and keys may ask for, as the commands that make and change them take it.

use clap::{Args, ValueEnum};
use sluicegate_compat::native::{Priority, RateLimits};

/// What both take. For a change, what is not given stays as it is, but limits, which are given all together.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PolicyArguments {
    /// A model that may be asked, by any of its names; may be given several times; without it, every model
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Requests per minute that are let in, a minute's worth at once
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens per minute that are let in, of prompts and of all output that they may have
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// The same of tasks that have not ended
    #[arg(long, value_name = "N")]
    tokens_in_flight: Option<u64>,
    /// Tasks that have not ended
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,
}

impl PolicyArguments {
    pub fn models(&self) -> Option<Vec<String>> {
        (!self.models.is_empty()).then(|| self.models.clone())
    }

    /// `None` where none is given.
    pub fn limits(&self) -> Option<RateLimits> {
        let limits = RateLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            tokens_in_flight: self.tokens_in_flight,
            concurrency: self.concurrency,
        };
        (!limits.is_none()).then_some(limits)
    }
}

/// What tenants take.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PriorityArguments {
    /// No task of the tenant has more
    #[arg(long, value_name = "PRIORITY")]
    pub priority_ceiling: Option<PriorityArgument>,
    /// Of tasks whose request names none
    #[arg(long, value_name = "PRIORITY")]
    pub default_priority: Option<PriorityArgument>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PriorityArgument {
    /// Somebody waits for it
    Interactive,
    /// It may wait
    Batch,
}

impl From<PriorityArgument> for Priority {
    fn from(argument: PriorityArgument) -> Self {
        match argument {
            PriorityArgument::Interactive => Self::Interactive,
            PriorityArgument::Batch => Self::Batch,
        }
    }
}
