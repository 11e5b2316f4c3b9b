//! Sessions: looking at them, making and changing them, and evicting them.

use std::time::Duration;

use sluicegate_compat::native::{
    Budget, BudgetView, ErrorCode, ErrorEnvelope, SessionBudget, SessionRequest, SessionView,
};
use uuid::Uuid;

use super::{Gateway, stored};
use crate::budgets::{Left, Owner, Owners};
use crate::ids::{SessionId, TenantId};
use crate::sessions::Key;
use crate::tasks::millis;

impl Gateway {
    /// A session as clients see it.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn session(&self, tenant: &TenantId, id: Option<SessionId>) -> Result<SessionView, ErrorEnvelope> {
        let look = self.sessions.look(&key(tenant, id)?).ok_or_else(no_such_session)?;
        let kv_warmth = look.last.map_or(0.0, |last| last.warmth);
        Ok(SessionView {
            ttl_ms_remaining: millis(look.ttl_remaining),
            turns: look.turns,
            // An engine does not say how much it keeps for whom; what is cold takes nothing.
            kv_bytes: (kv_warmth == 0.0).then_some(0),
            kv_warmth,
            tokens_budget_remaining: look.left.tokens,
            time_budget_remaining_ms: look.left.time_ms,
            cost_budget_remaining: look.left.cost,
        })
    }

    /// What is left of the budgets that a task of a session, and of these owners, counts for.
    pub fn budget_left(&self, tenant: &TenantId, session: Option<Uuid>, owners: Owners) -> Left {
        self.admission.left(tenant, session.map(SessionId), owners)
    }

    /// The budgets of these owners whose soft limit is reached.
    pub fn soft_limits(&self, owners: &[Owner]) -> Vec<(Owner, Budget)> {
        self.admission.budgets.soft_limits(owners)
    }

    /// How the budgets of a tenant or a key stand; `None` where the store does not say what was spent, which is logged.
    pub async fn budgets(&self, owner: Owner) -> Option<Vec<BudgetView>> {
        let standing = self.admission.accounts.standing(owner).await;
        standing.inspect_err(|error| tracing::error!(%error, "budgets are shown without what was spent")).ok()
    }

    /// Starts the time to live of a session anew, and returns once that is durable.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where it does not outlive the process.
    pub async fn extend_session(&self, tenant: &TenantId, id: Option<SessionId>) -> Result<(), ErrorEnvelope> {
        self.check_store()?;
        let extended = self.sessions.extend(&key(tenant, id)?);
        stored("a session", extended.ok_or_else(no_such_session)?).await
    }

    /// Makes a session, or changes what the request names, and returns once that is durable.
    ///
    /// # Errors
    ///
    /// NOT_FOUND where the id can be no session's; INTERNAL where the change does not outlive the process.
    pub async fn put_session(
        &self,
        tenant: &TenantId,
        id: Option<SessionId>,
        request: &SessionRequest,
    ) -> Result<(), ErrorEnvelope> {
        self.check_store()?;
        let SessionBudget { tokens, time_ms, cost } = request.budget.unwrap_or_default();
        let ttl = request.ttl_ms.map(Duration::from_millis);
        stored("a session", self.sessions.put(&key(tenant, id)?, ttl, Left { tokens, time_ms, cost })).await
    }

    /// Forgets a session, and returns once that is durable. Its tasks go on.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where the session may come back with the next process.
    pub async fn evict_session(&self, tenant: &TenantId, id: Option<SessionId>) -> Result<(), ErrorEnvelope> {
        self.check_store()?;
        let evicted = self.sessions.evict(&key(tenant, id)?);
        stored("a session", evicted.ok_or_else(no_such_session)?).await
    }
}

fn key(tenant: &TenantId, id: Option<SessionId>) -> Result<Key, ErrorEnvelope> {
    Ok(Key { tenant: tenant.clone(), id: id.ok_or_else(no_such_session)? })
}

fn no_such_session() -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::NotFound, "no such session: its id is a UUID, and it goes when nobody uses it")
}
