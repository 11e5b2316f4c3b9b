//! From a request that passed to the task and the job that are made of it.

use std::sync::Arc;

use sluicegate_compat::native::{Determinism, KvHint, ModelPrice, TaskRequest};

use super::Caller;
use super::recipe::Asked;
use crate::ids::{ModelId, TaskId};
use crate::pools::{Fitted, Job, Recipe};
use crate::tasks::{Limits, Task, TaskSpec};

/// What is kept of a request in its task.
pub(super) fn spec(
    request: &TaskRequest,
    caller: &Caller,
    (model_id, price): (&ModelId, ModelPrice),
    limits: Limits,
    memo: Option<Arc<str>>,
) -> TaskSpec {
    TaskSpec {
        id: request.task_id.map_or_else(TaskId::new, TaskId),
        correlation_id: caller.correlation_id.clone(),
        tenant_id: caller.share.tenant.clone(),
        session_id: request.session_id,
        workload: request.workload,
        model_ref: request.model_ref.clone(),
        model_id: model_id.clone(),
        price,
        key_id: caller.key.clone(),
        priority: request.priority.unwrap_or_default(),
        only_pools: request.only_pools.clone().map(Arc::from),
        determinism: request.determinism,
        metadata: request.metadata.clone(),
        memo,
        limits,
    }
}

/// The devices that it may run on; all where that is `None`.
pub(super) fn device_mask(request: &TaskRequest) -> Option<&str> {
    request.placement.as_ref()?.require_device_mask.as_deref()
}

/// What the dispatcher needs of it.
pub(super) fn job(asked: &Arc<Asked>, task: &Arc<Task>, caller: &Caller, fitted: Fitted) -> Job {
    let request = &asked.request;
    let strict = request.determinism == Determinism::Strict;
    Job {
        task: Arc::clone(task),
        allowed: None,
        near: None,
        devices: device_mask(request).map(Arc::from),
        share: caller.share.clone(),
        fitted,
        recipe: Arc::clone(asked) as Arc<dyn Recipe>,
        stop: request.stop.clone(),
        top_logprobs: request.logprobs.then(|| request.top_logprobs.unwrap_or(0)),
        grammar: asked.grammar.clone(),
        dimensions: request.dimensions,
        reading: asked.reading.clone(),
        cold: strict || request.kv_hint == Some(KvHint::Cold),
        admitted: None,
    }
}
