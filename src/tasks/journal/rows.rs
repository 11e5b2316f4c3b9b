//! What is filed, as rows and as JSON.

use serde::Serialize;
use sluicegate_compat::native::{ErrorCode, Event};

use super::super::{Holder, Progress, Task, TaskSpec, millis};
use super::{Facts, Spent, Used};
use crate::budgets::Amounts;
use crate::ids::{KeyId, TaskId};
use crate::store::{LedgerRow, SpentRow, signed};

/// What a row has at most, so that the sum of very many is a number too.
const MOST: u64 = 1 << 50;

pub(super) fn holder(task: &Task) -> Holder {
    let spec = &task.spec;
    Holder {
        tenant: spec.tenant_id.to_string(),
        key: spec.key_id.as_ref().map(KeyId::to_string),
        model: spec.model_id.to_string(),
        pool: task.pool_id().to_string(),
        prompt_tokens: spec.limits.prompt_tokens,
        created_ms: task.created.unix_ms,
    }
}

/// Of a task that went with its process, with what it was charged for.
pub(super) fn lost_entry(
    number: i64,
    id: TaskId,
    (at_ms, amounts): (u64, Amounts),
    holder: &Holder,
    started_ms: u64,
) -> LedgerRow {
    let input = u64::from(holder.prompt_tokens).min(amounts.tokens);
    LedgerRow {
        number,
        task_id: id.to_string(),
        tenant: holder.tenant.clone(),
        api_key: holder.key.clone().unwrap_or_default(),
        model: holder.model.clone(),
        pool: holder.pool.clone(),
        tokens_in: signed(input),
        tokens_cached: 0,
        tokens_out: signed(amounts.tokens - input),
        queue_ms: signed(started_ms.saturating_sub(holder.created_ms)),
        engine_ms: signed(amounts.time_ms.min(MOST)),
        cost: signed(amounts.cost.min(MOST)),
        outcome: ErrorCode::WorkerReset.as_str().to_owned(),
        ended_ms: signed(at_ms),
    }
}

pub(super) fn entry(
    number: i64,
    task: &Task,
    progress: &Progress,
    Used { tokens, engine_ms, cost, owned: _ }: &Used,
    (ended_ms, last): (u64, &Event),
) -> LedgerRow {
    let started = progress.started.as_ref().map(|(at, _)| *at);
    let waited_until = started.or(progress.ended.as_ref().map(|(at, _)| *at));
    let waited = waited_until.map(|until| until.saturating_duration_since(task.created.instant));
    LedgerRow {
        number,
        task_id: task.spec.id.to_string(),
        tenant: task.spec.tenant_id.to_string(),
        api_key: task.spec.key_id.as_ref().map(KeyId::to_string).unwrap_or_default(),
        model: task.spec.model_id.to_string(),
        pool: task.pool_id().to_string(),
        tokens_in: signed(tokens.input),
        tokens_cached: signed(tokens.cached.min(tokens.input)),
        tokens_out: signed(tokens.output),
        queue_ms: signed(waited.map_or(0, millis)),
        engine_ms: signed(*engine_ms.min(&MOST)),
        cost: signed(*cost.min(&MOST)),
        outcome: match last {
            Event::End(end) => end.finish_reason.as_str(),
            Event::Error(error) => error.code.as_str(),
            _ => "",
        }
        .to_owned(),
        ended_ms: signed(ended_ms),
    }
}

pub(super) fn spent_row(id: TaskId, at_ms: u64, Spent { amounts, turn }: Spent) -> SpentRow {
    SpentRow {
        task_id: id.to_string(),
        tokens: signed(amounts.tokens),
        time_ms: signed(amounts.time_ms),
        cost: signed(amounts.cost),
        turn,
        ended_at_ms: signed(at_ms),
    }
}

pub(super) fn facts(task: &Task, weight: u32) -> Facts {
    let TaskSpec { correlation_id, tenant_id, session_id, workload, model_ref, priority, .. } = &task.spec;
    let limits = &task.spec.limits;
    Facts {
        created_at_ms: task.created.unix_ms,
        correlation_id: correlation_id.to_string(),
        tenant: tenant_id.to_string(),
        key: task.spec.key_id.as_ref().map(KeyId::to_string),
        only_pools: task.spec.only_pools.as_deref().map(<[String]>::to_vec),
        weight,
        session_id: *session_id,
        workload: *workload,
        model_ref: model_ref.clone(),
        model: task.spec.model_id.to_string(),
        price: task.spec.price,
        priority: *priority,
        determinism: task.spec.determinism,
        metadata: task.spec.metadata.clone(),
        prompt_tokens: limits.prompt_tokens,
        max_tokens: limits.max_tokens,
        choices: limits.choices,
        alone: limits.alone,
        expected_tokens: limits.expected_tokens,
        deadline_at_ms: limits.deadline.map(|deadline| task.created.unix_ms_at(deadline)),
        pool_id: task.pool_id().to_string(),
        memo: task.spec.memo.as_deref().map(str::to_owned),
    }
}

/// None of what is filed can fail to be JSON: names and numbers only, and maps whose keys are strings.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
