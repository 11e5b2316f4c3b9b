//! The budgets of tenants and keys, ready for use: what was spent of them before is asked of the store, once.

use futures_util::future::BoxFuture;
use sluicegate_compat::native::{Budget, BudgetView, ErrorEnvelope};
use tokio::sync::Mutex;

use super::again::not_kept;
use crate::budgets::{Amounts, Budgets, NoSuchZone, Owner, Sought};
use crate::store::{SpentSums, Store, StoreError, signed};

/// Opens the accounts of owners when they are first asked for. Built once.
pub struct Accounts {
    budgets: Budgets,
    store: Store,
    /// One opens accounts at a time: that each is opened once.
    opening: Mutex<()>,
}

impl Accounts {
    pub fn new(budgets: Budgets, store: Store) -> Self {
        Self { budgets, store, opening: Mutex::new(()) }
    }

    /// Sees to it that owners have just these budgets, with what was spent of them before.
    ///
    /// # Errors
    ///
    /// What a client is told where the store does not say what was spent.
    pub async fn ready(&self, owned: &[(Owner, &[Budget])]) -> Result<(), ErrorEnvelope> {
        for (owner, budgets) in owned {
            if !self.budgets.is_ready(owner, budgets) {
                self.open(owner, budgets).await?;
            }
        }
        Ok(())
    }

    async fn open(&self, owner: &Owner, budgets: &[Budget]) -> Result<(), ErrorEnvelope> {
        let _one_at_a_time = self.opening.lock().await;
        if self.budgets.is_ready(owner, budgets) {
            return Ok(());
        }
        // What ends before this is in the sums, and what ends after is charged.
        let sought = self.budgets.between_ends(|| {
            let sought = self.budgets.adopt(owner, budgets)?;
            Ok::<_, NoSuchZone>(sought.into_iter().map(|sought| (self.sum(&sought), sought)).collect::<Vec<_>>())
        });
        let sought = sought.map_err(|error| {
            tracing::error!(%error, "a budget cannot be counted, and nothing is let in that counts for it");
            not_kept()
        })?;
        for (sum, sought) in sought {
            let sums = sum.await.map_err(|error| {
                tracing::error!(%error, "the store does not say what was spent of a budget");
                not_kept()
            })?;
            self.budgets.opened(&sought, amounts(sums));
        }
        Ok(())
    }

    /// What was spent before, asked of the store now.
    fn sum(&self, sought: &Sought) -> BoxFuture<'static, Result<SpentSums, StoreError>> {
        let (tenant, key) = match &sought.owner {
            Owner::Tenant(tenant) => (tenant, None),
            Owner::Key(tenant, key) => (tenant, Some(key.to_string())),
        };
        self.store.spent(tenant.to_string(), key, signed(sought.from_ms))
    }

    /// How the budgets of an owner stand, which are these.
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready).
    pub async fn standing(&self, owner: Owner, budgets: &[Budget]) -> Result<Vec<BudgetView>, ErrorEnvelope> {
        self.ready(&[(owner.clone(), budgets)]).await?;
        Ok(self.budgets.standing(&owner))
    }
}

fn amounts(SpentSums { tokens, engine_ms, cost }: SpentSums) -> Amounts {
    Amounts { tokens: tokens.cast_unsigned(), time_ms: engine_ms.cast_unsigned(), cost: cost.cast_unsigned() }
}
