//! The order in which pools are tried: where a task would start soonest.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

use super::Tiers;
use super::refusal::{nowhere, refused};
use crate::ids::{ModelId, PoolId};
use crate::placement::NoPlace;
use crate::pools::{Coming, Job, Place, Pool, Refused, submit_all};

/// A pool with the place that a task would have there, where that was looked at.
pub(super) type Choice = (Arc<Pool>, Option<Result<Place, Refused>>);

/// Whether the place that a task would have is looked at. The queue that takes it says it once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Always,
    /// Where there is a choice of pools.
    Needed,
}

/// Leaves the pools where a task would start before its deadline; refuses what is already known to come too late.
pub(super) fn in_time(mut order: Vec<Choice>, deadline_ms: Option<u64>) -> Result<Vec<Choice>, ErrorEnvelope> {
    let Some(deadline_ms) = deadline_ms else { return Ok(order) };
    let start_ms = |place: &Option<Result<Place, Refused>>| match place {
        Some(Ok(place)) => place.prediction.start_ms,
        // It takes nothing before then.
        Some(Err(Refused::QueueFull { retry_after_ms } | Refused::BatchShed { retry_after_ms })) => *retry_after_ms,
        Some(Err(_)) | None => 0,
    };
    let soonest_ms = order.iter().map(|(_, place)| start_ms(place)).min();
    order.retain(|(_, place)| start_ms(place) < deadline_ms);
    match soonest_ms.filter(|_| order.is_empty()) {
        None => Ok(order),
        Some(start_ms) => {
            let message = format!("it would start in about {start_ms} ms, after its deadline of {deadline_ms} ms");
            let error = ErrorEnvelope::new(ErrorCode::DeadlineUnmet, message);
            Err(ErrorEnvelope { param: Some("deadline_ms".into()), ..error })
        }
    }
}

/// The pools of each tier in the order in which they would start the task, the tiers one after the other. Of those that
/// would start it at the same time, the one that is `near` comes first.
pub(super) fn by_start(tiers: Tiers, coming: &Coming<'_>, near: Option<&PoolId>, look: Look) -> Vec<Choice> {
    let pools: usize = tiers.iter().map(Vec::len).sum();
    if look == Look::Needed && pools == 1 {
        return tiers.into_iter().flatten().map(|pool| (pool, None)).collect();
    }
    let sorted = tiers.into_iter().flat_map(|tier| {
        let foresee = |pool: Arc<Pool>| (pool.foresee(coming), pool);
        let mut tier: Vec<_> = tier.into_iter().map(foresee).collect();
        tier.sort_by_key(|(place, pool)| {
            let start_ms = place.as_ref().map_or(u64::MAX, |place| place.prediction.start_ms);
            (start_ms, near != Some(pool.id()))
        });
        tier.into_iter().map(|(place, pool)| (pool, Some(place)))
    });
    sorted.collect()
}

/// Queues tasks for `model` in `pools`, all of them or none.
pub(super) fn submit(jobs: Vec<Job>, model: &ModelId, pools: &[Arc<Pool>]) -> Result<Vec<Place>, ErrorEnvelope> {
    let Some(best) = pools.first() else { return Err(nowhere(NoPlace::Unavailable("no pool"))) };
    submit_all(jobs, model, pools).map_err(|reason| refused(reason, best))
}
