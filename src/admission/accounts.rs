//! The budgets of tenants and keys, ready for use: as they are to be now, with what was spent of them before, which the store is
//! asked once.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sluicegate_compat::native::{BudgetView, ErrorCode, ErrorEnvelope};
use tokio::sync::Mutex;

use crate::budgets::{Amounts, Budgets, NoSuchZone, Owner, PendingAccount};
use crate::store::{SpentSums, Store, StoreError, signed};
use crate::tenants::Tenants;

/// Opens the accounts of owners when they are first asked for. Built once.
pub struct Accounts {
    budgets: Budgets,
    tenants: Arc<Tenants>,
    store: Store,
    /// One opens accounts at a time: that each is opened once.
    opening: Mutex<()>,
}

/// Why it is not known what is left of somebody's budgets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetUnknown {
    /// Stored by a version with other time zones.
    #[error("a budget of the {owner} cannot be counted: {error}")]
    Zone { owner: Owner, error: NoSuchZone },
    #[error("the store does not say what the {owner} has spent: {error}")]
    Store { owner: Owner, error: StoreError },
}

impl From<BudgetUnknown> for ErrorEnvelope {
    /// As clients are told it; operators find the rest in the log.
    fn from(error: BudgetUnknown) -> Self {
        tracing::error!(%error, "nothing is let in that counts for a budget");
        let message = "the gateway cannot tell what is left of a budget; try again later";
        Self::new(ErrorCode::PoolUnready, message).with_retry_after_ms(5000)
    }
}

impl Accounts {
    pub fn new(budgets: Budgets, tenants: Arc<Tenants>, store: Store) -> Self {
        Self { budgets, tenants, store, opening: Mutex::new(()) }
    }

    /// Sees to it that owners have the budgets that they are to have now, with what was spent of them before.
    ///
    /// # Errors
    ///
    /// [`BudgetUnknown`].
    pub async fn ready(&self, owners: &[Owner]) -> Result<(), BudgetUnknown> {
        for owner in owners {
            if !self.budgets.is_ready(owner, &self.tenants.policy(owner).budgets) {
                self.open(owner).await?;
            }
        }
        Ok(())
    }

    async fn open(&self, owner: &Owner) -> Result<(), BudgetUnknown> {
        let _one_at_a_time = self.opening.lock().await;
        let policy = self.tenants.policy(owner);
        if self.budgets.is_ready(owner, &policy.budgets) {
            return Ok(());
        }
        // What ends before this is in the sums, and what ends after is charged.
        let pending = self.budgets.between_ends(|| {
            let pending = self.budgets.adopt(owner, &policy.budgets)?;
            Ok(pending.into_iter().map(|pending| (self.sum(&pending), pending)).collect::<Vec<_>>())
        });
        let pending = pending.map_err(|error| BudgetUnknown::Zone { owner: owner.clone(), error })?;
        for (sum, pending) in pending {
            let sums = sum.await.map_err(|error| BudgetUnknown::Store { owner: owner.clone(), error })?;
            self.budgets.opened(&pending, amounts(sums));
        }
        Ok(())
    }

    /// What was spent before, asked of the store now.
    fn sum(&self, pending: &PendingAccount) -> BoxFuture<'static, Result<SpentSums, StoreError>> {
        let (tenant, key) = match &pending.owner {
            Owner::Tenant(tenant) => (tenant, None),
            Owner::Key(tenant, key) => (tenant, Some(key.to_string())),
        };
        self.store.spent(tenant.to_string(), key, signed(pending.from_ms))
    }

    /// How the budgets of an owner stand.
    ///
    /// # Errors
    ///
    /// [`BudgetUnknown`].
    pub async fn standing(&self, owner: Owner) -> Result<Vec<BudgetView>, BudgetUnknown> {
        self.ready(std::slice::from_ref(&owner)).await?;
        Ok(self.budgets.standing(&owner))
    }
}

fn amounts(SpentSums { tokens, engine_ms, cost }: SpentSums) -> Amounts {
    Amounts { tokens: tokens.cast_unsigned(), time_ms: engine_ms.cast_unsigned(), cost: cost.cast_unsigned() }
}
