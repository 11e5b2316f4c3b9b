//! Tasks of an earlier process, from what is filed of them.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{Event, TaskRequest};

use super::super::log::EventLog;
use super::super::{Clock, Limits, Progress, TaskSpec};
use super::{Facts, Kept, Last, Outcome, Stage, Start};
use crate::ids::{CorrelationId, KeyId, ModelId, PoolId, ReplicaId, TaskId, TenantId};
use crate::store::TaskRow;

/// A row as a task; `None` where it is not one.
pub(super) fn read(row: TaskRow, now: Clock) -> Option<Kept> {
    let facts: Facts = serde_json::from_str(&row.facts).ok()?;
    let id = TaskId::parse(&row.id)?;
    let created = Clock { instant: now.instant_at(facts.created_at_ms), unix_ms: facts.created_at_ms };
    let start = row.started.map(|start| serde_json::from_str::<Start>(&start)).transpose().ok()?;
    let mut replica_id = start.as_ref().map(|start| ReplicaId::from(start.event.replica_id.as_str()));
    let mut pool_id = PoolId::from(facts.pool_id.as_str());
    let stage = match (row.outcome, start, row.request) {
        (Some(outcome), _, _) => {
            let mut outcome: Outcome = serde_json::from_str(&outcome).ok()?;
            pool_id = PoolId::from(outcome.pool_id.as_str());
            replica_id = outcome.start.as_ref().map(|start| ReplicaId::from(start.event.replica_id.as_str()));
            let ended_at_ms = row.ended_at_ms?.cast_unsigned();
            let ago = Duration::from_millis(now.unix_ms.saturating_sub(ended_at_ms));
            let outputs = std::mem::take(&mut outcome.outputs);
            let passages = std::mem::take(&mut outcome.passages);
            Stage::Ended { log: ended_log(outcome, ended_at_ms, now), outputs, passages, ago }
        }
        (None, Some(start), _) => {
            let started = (now.instant_at(start.at_ms), Arc::new(start.event));
            // Its `started` event, and whatever came after it, is not repeated.
            Stage::Started(EventLog::kept(1, Progress { started: Some(started), ..Progress::default() }))
        }
        (None, None, Some(request)) => {
            let request = TaskRequest::parse(request.as_bytes()).ok()?;
            Stage::Waiting(Box::new(TaskRequest { only_pools: facts.only_pools.clone(), ..request }))
        }
        (None, None, None) => return None,
    };
    let weight = facts.weight;
    Some(Kept { spec: spec(id, facts, now), created, pool_id, replica_id, weight, stage })
}

fn spec(id: TaskId, facts: Facts, now: Clock) -> TaskSpec {
    TaskSpec {
        id,
        correlation_id: CorrelationId::from(facts.correlation_id),
        tenant_id: TenantId::from(facts.tenant),
        key_id: facts.key.as_deref().map(KeyId::from),
        only_pools: facts.only_pools.map(Arc::from),
        session_id: facts.session_id,
        workload: facts.workload,
        model_id: ModelId::from(if facts.model.is_empty() { &facts.model_ref } else { &facts.model }.as_str()),
        price: facts.price,
        model_ref: facts.model_ref,
        priority: facts.priority,
        determinism: facts.determinism,
        metadata: facts.metadata,
        memo: facts.memo.map(Into::into),
        limits: Limits {
            prompt_tokens: facts.prompt_tokens,
            max_tokens: facts.max_tokens,
            choices: facts.choices,
            alone: facts.alone,
            expected_tokens: facts.expected_tokens,
            deadline: facts
                .deadline_at_ms
                .map(|at| now.instant + Duration::from_millis(at.saturating_sub(now.unix_ms))),
        },
    }
}

/// A log whose events but the last are gone.
fn ended_log(outcome: Outcome, ended_at_ms: u64, now: Clock) -> Arc<EventLog> {
    let last = match outcome.last {
        Last::End(end) => Event::End(Arc::new(end)),
        Last::Error(error) => Event::Error(Arc::new(error)),
    };
    let progress = Progress {
        started: outcome.start.map(|start| (now.instant_at(start.at_ms), Arc::new(start.event))),
        first_token: outcome.first_token_at_ms.map(|at| now.instant_at(at)),
        tokens: outcome.tokens,
        ..Progress::default()
    };
    let log = EventLog::kept(outcome.id.saturating_sub(1), progress);
    if let Some(seal) = log.seal() {
        seal.end(last, now.instant_at(ended_at_ms));
    }
    log
}
