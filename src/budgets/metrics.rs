//! The metrics of budgets of tenants and keys.

use prometheus::{IntCounterVec, Opts, Registry};
use sluicegate_compat::native::BudgetKind;

use super::owned::{BudgetEvent, Reached};

/// Three counters; the help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct BudgetMetrics {
    soft_limits: IntCounterVec,
    limits: IntCounterVec,
    webhooks: IntCounterVec,
}

/// What became of an event that somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Delivered,
    /// Nobody took it, however often it was tried.
    Failed,
}

impl Delivery {
    const ALL: [Self; 2] = [Self::Delivered, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl BudgetMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help, label| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let soft = "Budgets of tenants and keys that have reached their soft limit, once in each of their periods.";
        let limit = "Budgets of tenants and keys that a task was refused for, once in each of their periods.";
        let webhooks = "Events of budgets that were sent to the webhook: delivered, or failed for good.";
        let metrics = Self {
            soft_limits: counter("budget_soft_limits_reached_total", soft, "kind")?,
            limits: counter("budget_limits_reached_total", limit, "kind")?,
            webhooks: counter("budget_webhooks_total", webhooks, "outcome")?,
        };
        for kind in BudgetKind::ALL {
            metrics.soft_limits.with_label_values(&[kind.as_str()]);
            metrics.limits.with_label_values(&[kind.as_str()]);
        }
        for outcome in Delivery::ALL {
            metrics.webhooks.with_label_values(&[outcome.as_str()]);
        }
        Ok(metrics)
    }

    /// An owner has reached something.
    pub fn reached(&self, event: &BudgetEvent) {
        let counter = match event.what {
            Reached::SoftLimit => &self.soft_limits,
            Reached::Limit => &self.limits,
        };
        counter.with_label_values(&[event.budget.kind.as_str()]).inc();
    }

    pub fn told(&self, outcome: Delivery) {
        self.webhooks.with_label_values(&[outcome.as_str()]).inc();
    }
}
