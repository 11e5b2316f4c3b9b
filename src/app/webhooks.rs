//! Events of budgets: counted, logged, and sent to whoever the configuration names.
//!
//! They are sent one after the other. What is not told when the process ends is not told at all.

use serde::Serialize;
use sluicegate_compat::native::Budget;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::budgets::{BudgetMetrics, Delivery, Notice, Owner, Reached};
use crate::clock::unix_ms;
use crate::web::{Courier, Webhook};

/// The body of an event.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    at_ms: u64,
    data: Data<'a>,
}

#[derive(Debug, Serialize)]
struct Data<'a> {
    tenant_id: &'a str,
    /// Of a key's budget.
    key_id: Option<&'a str>,
    #[serde(flatten)]
    budget: &'a Budget,
    spent: u64,
    resets_ms: Option<u64>,
}

impl<'a> Event<'a> {
    fn of(notice: &'a Notice, at_ms: u64) -> Self {
        let (tenant_id, key_id) = match &notice.owner {
            Owner::Tenant(tenant) => (tenant.as_str(), None),
            Owner::Key(tenant, key) => (tenant.as_str(), Some(key.as_str())),
        };
        let kind = match notice.what {
            Reached::SoftLimit => "budget.soft_limit_reached",
            Reached::Limit => "budget.limit_reached",
        };
        let Notice { budget, spent, span, .. } = notice;
        Self { kind, at_ms, data: Data { tenant_id, key_id, budget, spent: *spent, resets_ms: span.resets_ms } }
    }
}

/// Tells of what comes until nobody sends any more, or the process ends.
pub(super) async fn tell(
    mut notices: mpsc::Receiver<Notice>,
    metrics: BudgetMetrics,
    webhook: Option<Webhook>,
    ended: CancellationToken,
) {
    let courier = webhook.map(Courier::new).transpose();
    let courier = courier.inspect_err(|error| tracing::error!(%error, "nobody can be told of budgets")).ok().flatten();
    while let Some(Some(notice)) = ended.run_until_cancelled(notices.recv()).await {
        metrics.reached(&notice);
        let event = Event::of(&notice, unix_ms());
        let Data { tenant_id, key_id, .. } = event.data;
        let (kind, period) = (notice.budget.kind.as_str(), notice.budget.period.as_str());
        tracing::info!(event = event.kind, tenant_id, key_id, kind, period, spent = notice.spent, "a budget");
        let Some(courier) = &courier else { continue };
        let Ok(body) = serde_json::to_string(&event) else { continue };
        match ended.run_until_cancelled(courier.deliver(&body)).await {
            Some(Ok(())) => metrics.told(Delivery::Delivered),
            Some(Err(_logged)) => metrics.told(Delivery::Failed),
            None => return,
        }
    }
}
