//! Events of budgets: counted, logged, and sent to whoever the configuration names.
//!
//! They are sent one after the other. What is not told when the process ends is not told at all.

use serde::Serialize;
use sluicegate_compat::native::Budget;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::budgets::{BudgetEvent, BudgetMetrics, Delivery, Owner, Reached};
use crate::clock::unix_ms;
use crate::lifecycle::{Lifecycle, OnPanic};
use crate::web::{Webhook, WebhookClient};

/// Events that wait to be counted, or to be told, at most.
const MOST_WAITING: usize = 1024;

/// An event as it is sent.
#[derive(Debug, Serialize)]
struct Payload<'a> {
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

impl<'a> Payload<'a> {
    fn of(event: &'a BudgetEvent, at_ms: u64) -> Self {
        let (tenant_id, key_id) = match &event.owner {
            Owner::Tenant(tenant) => (tenant.as_str(), None),
            Owner::Key(tenant, key) => (tenant.as_str(), Some(key.as_str())),
        };
        let kind = match event.what {
            Reached::SoftLimit => "budget.soft_limit_reached",
            Reached::Limit => "budget.limit_reached",
        };
        let BudgetEvent { budget, spent, span, .. } = event;
        Self { kind, at_ms, data: Data { tenant_id, key_id, budget, spent: *spent, resets_ms: span.resets_ms } }
    }
}

/// Counts and logs what comes, and has it told, until nobody sends any more or the process ends.
pub(super) async fn follow(
    mut events: mpsc::Receiver<BudgetEvent>,
    metrics: BudgetMetrics,
    bodies: Option<mpsc::Sender<String>>,
    ended: CancellationToken,
) {
    while let Some(Some(event)) = ended.run_until_cancelled(events.recv()).await {
        metrics.reached(&event);
        let payload = Payload::of(&event, unix_ms());
        let Data { tenant_id, key_id, .. } = payload.data;
        let (kind, period) = (event.budget.kind.as_str(), event.budget.period.as_str());
        tracing::info!(event = payload.kind, tenant_id, key_id, kind, period, spent = event.spent, "a budget");
        let Some(bodies) = &bodies else { continue };
        let sent = serde_json::to_string(&payload).map(|body| bodies.try_send(body));
        if !matches!(sent, Ok(Ok(()))) {
            tracing::error!(event = payload.kind, tenant_id, key_id, "an event is told to nobody: too many wait");
            metrics.told(Delivery::Failed);
        }
    }
}

/// Tells of events, one after the other.
pub(super) async fn tell(
    mut bodies: mpsc::Receiver<String>,
    metrics: BudgetMetrics,
    client: WebhookClient,
    ended: CancellationToken,
) {
    while let Some(Some(body)) = ended.run_until_cancelled(bodies.recv()).await {
        match ended.run_until_cancelled(client.deliver(&body)).await {
            Some(Ok(())) => metrics.told(Delivery::Delivered),
            Some(Err(_logged)) => metrics.told(Delivery::Failed),
            None => return,
        }
    }
}

/// Starts both; what owners are to be told goes to what is returned.
pub(super) fn start(
    lifecycle: &Lifecycle,
    metrics: BudgetMetrics,
    webhook: Option<Webhook>,
) -> mpsc::Sender<BudgetEvent> {
    let (events, to_follow) = mpsc::channel(MOST_WAITING);
    let client = webhook.map(WebhookClient::new).transpose();
    let client = client.inspect_err(|error| tracing::error!(%error, "nobody can be told of budgets")).ok().flatten();
    let bodies = client.map(|client| {
        let (bodies, to_tell) = mpsc::channel(MOST_WAITING);
        let telling = tell(to_tell, metrics.clone(), client, lifecycle.forced().clone());
        lifecycle.spawn("webhook", OnPanic::Continue, telling);
        bodies
    });
    let following = follow(to_follow, metrics, bodies, lifecycle.forced().clone());
    lifecycle.spawn("budget events", OnPanic::Continue, following);
    events
}
