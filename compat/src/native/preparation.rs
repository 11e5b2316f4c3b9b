//! What has to happen before a task can start, and how far it has come.

use std::collections::BTreeMap;

use serde::Serialize;

/// What has to happen before the task can start; empty for a model that is loaded.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Preparation {
    /// In the order in which they are taken.
    pub steps: Vec<PreparationStep>,
}

impl Preparation {
    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreparationStep {
    pub id: &'static str,
    pub kind: StepKind,
    /// The model that it is for: tasks of one model wait for the same steps.
    pub group: String,
    pub description: &'static str,
    /// Null where nothing is known of how long it takes.
    pub estimated_ms: Option<u64>,
    /// Of the file that is being read or fetched now, where that is known.
    pub bytes_total: Option<u64>,
    pub status: StepStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Files are fetched where they are missing, and their digest is computed.
    ModelFetch,
    /// A pool becomes free for the model.
    EngineProvision,
    /// The model is loaded and answers a first generation.
    PoolWarmup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Pending,
    Running,
    Done,
}

/// How the steps stand, by the id of each, as `metrics` events tell it.
pub type StepsProgress = BTreeMap<&'static str, StepProgress>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepProgress {
    pub status: StepStatus,
    /// Of one file: a model of several has this counted anew for each.
    pub bytes_total: Option<u64>,
    pub bytes_done: u64,
    /// 0 to 100, where there is something to count.
    pub pct: Option<u8>,
    /// What of the step is being done: a word.
    pub phase: &'static str,
    /// The same for a person.
    pub human: String,
}
