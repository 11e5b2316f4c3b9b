//! Budgets: what somebody may still use, in tokens, engine time and money.
//!
//! A task reserves the worst case before it is let in, and settles with what it used at its end. Between the two the
//! difference belongs to nobody else, so tasks that run at once can never overspend together.
//!
//! [`Ledger`] is the machine: pure, with no clock, no I/O and no lock; `owned` has the budgets of tenants and keys, whose
//! accounts begin anew in each of their periods. [`Budgets`] is one mutex around both, and [`Reservation`] a value that gives
//! back on drop. A reservation is held by a list of accounts together (a session, its key, its tenant), all or nothing.
//!
//! What a tenant has spent is what the store's ledger says of it. So that each row counts once, an end settles and hands its
//! row over [at one moment](Budgets::ending), and who opens accounts asks for the sum [between such
//! moments](Budgets::between_ends).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use sluicegate_compat::native::{Budget, BudgetView};
use tokio::sync::mpsc;

use crate::clock::unix_ms;

mod ledger;
mod metrics;
mod owned;
mod period;
pub mod price;
#[cfg(test)]
mod tests;

pub use ledger::{AccountId, Amounts, Exceeded, Ledger, Left, Unit};
pub use metrics::{BudgetMetrics, Delivery};
use owned::Owned;
pub use owned::{BindingBudget, BudgetEvent, Owner, Owners, PendingAccount, Reached, owners};
pub use period::{NoSuchZone, Periods, Span};

/// All accounts. One mutex: every operation under it is a few look-ups, and a list of accounts is changed at one moment.
#[derive(Debug, Clone, Default)]
pub struct Budgets(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Read while a task settles and its row is handed over; never while `state` is locked.
    ends: RwLock<()>,
    /// Who tells owners; `None` where nobody does.
    events: Option<mpsc::Sender<BudgetEvent>>,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    owned: Owned,
}

impl State {
    /// The open accounts of who holds a reservation, in the period of this moment.
    fn accounts(&mut self, holders: &Holders, now_ms: u64) -> Vec<AccountId> {
        let owned = self.owned.accounts(&holders.owners);
        let accounts: Vec<_> = holders.accounts.iter().copied().chain(owned).collect();
        self.ledger.advance(&accounts, now_ms);
        accounts
    }

    /// Reserves what `plan` makes of what the accounts of these holders leave: in which accounts, how much, and what it says.
    fn cover<T>(
        &mut self,
        holders: &Holders,
        plan: impl FnOnce(&Left) -> Result<(Amounts, T), Exceeded>,
        now_ms: u64,
    ) -> Result<(Vec<AccountId>, Amounts, T), Exceeded> {
        let accounts = self.accounts(holders, now_ms);
        let (held, said) = plan(&self.ledger.left(&accounts))?;
        self.ledger.reserve(&accounts, held)?;
        Ok((accounts, held, said))
    }
}

/// The accounts that a task counts for.
#[derive(Debug, Clone, Default)]
pub struct Holders {
    pub accounts: Vec<AccountId>,
    /// With those of their accounts that are open.
    pub owners: Owners,
}

impl From<Vec<AccountId>> for Holders {
    fn from(accounts: Vec<AccountId>) -> Self {
        Self { accounts, owners: Owners::new() }
    }
}

impl Budgets {
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`new`](Self::new); what owners are to be told goes to `events`, and is lost where that is full.
    pub fn telling(events: mpsc::Sender<BudgetEvent>) -> Self {
        Self(Arc::new(Shared { events: Some(events), ..Shared::default() }))
    }

    /// A new account that may use so much in all, of which so much is spent.
    pub fn open(&self, limits: Left, spent: Amounts) -> AccountId {
        self.lock().ledger.open(limits, spent)
    }

    /// Forgets an account. What is still reserved there goes with it.
    pub fn close(&self, account: AccountId) {
        self.lock().ledger.close(account);
    }

    /// Changes what an account may use in all, what is spent included. Running tasks keep what they have reserved.
    pub fn limit(&self, account: AccountId, limits: Left) {
        self.lock().ledger.limit(account, limits);
    }

    /// What is spent of an account; nothing where it is closed.
    pub fn spent(&self, account: AccountId) -> Amounts {
        self.lock().ledger.used(account).unwrap_or_default().0
    }

    /// What all of the accounts leave: of each unit the least.
    pub fn left(&self, holders: impl Into<Holders>) -> Left {
        let mut state = self.lock();
        let accounts = state.accounts(&holders.into(), unix_ms());
        state.ledger.left(&accounts)
    }

    /// Reserves what `plan` makes of what all of the accounts leave; what else it says comes back. Nobody else reserves in
    /// between.
    ///
    /// # Errors
    ///
    /// What `plan` refuses with, or the unit of which too little is left. Nothing is reserved then.
    pub fn reserve<T>(
        &self,
        holders: impl Into<Holders>,
        plan: impl FnOnce(&Left) -> Result<(Amounts, T), Exceeded>,
    ) -> Result<(Reservation, T), Exceeded> {
        let holders = holders.into();
        let (accounts, held, said) = self.lock().cover(&holders, plan, unix_ms())?;
        Ok((Reservation { budgets: self.clone(), accounts, owners: holders.owners, held }, said))
    }

    /// As [`reserve`](Self::reserve), once for each of `plans` with its accounts, all of them or none: each has what those before
    /// it leave, and nobody else reserves in between.
    ///
    /// # Errors
    ///
    /// As there, of the first that is not covered. Nothing is reserved then.
    pub fn reserve_each<T, P>(
        &self,
        plans: impl IntoIterator<Item = (Holders, P)>,
    ) -> Result<Vec<(Reservation, T)>, Exceeded>
    where
        P: FnOnce(&Left) -> Result<(Amounts, T), Exceeded>,
    {
        let now_ms = unix_ms();
        let mut state = self.lock();
        let mut reserved = Vec::new();
        for (holders, plan) in plans {
            match state.cover(&holders, plan, now_ms) {
                Ok(covered) => reserved.push((covered, holders.owners)),
                Err(exceeded) => {
                    for ((accounts, held, _), _) in reserved {
                        state.ledger.settle(&accounts, held, Amounts::default(), now_ms);
                    }
                    return Err(exceeded);
                }
            }
        }
        drop(state);
        let reservation =
            |((accounts, held, said), owners)| (Reservation { budgets: self.clone(), accounts, owners, held }, said);
        Ok(reserved.into_iter().map(reservation).collect())
    }

    /// Reserves what `plan` makes of what the accounts leave, whether or not that covers it: for a task that had reserved it
    /// before an earlier process ended.
    pub fn reserve_again(&self, holders: impl Into<Holders>, plan: impl FnOnce(&Left) -> Amounts) -> Reservation {
        let holders = holders.into();
        let mut state = self.lock();
        let accounts = state.accounts(&holders, unix_ms());
        let held = plan(&state.ledger.left(&accounts));
        state.ledger.reserve_again(&accounts, held);
        drop(state);
        Reservation { budgets: self.clone(), accounts, owners: holders.owners, held }
    }

    /// Of a task that has reserved nothing, because there was no budget for it when it was let in.
    pub fn unreserved(&self, owners: Owners) -> Reservation {
        Reservation { budgets: self.clone(), accounts: Vec::new(), owners, held: Amounts::default() }
    }

    /// Held from before a task settles until its row is handed to the store.
    pub fn ending(&self) -> RwLockReadGuard<'_, ()> {
        self.0.ends.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something while no task settles: each has handed its row over, or has not been charged yet.
    pub fn between_ends<T>(&self, act: impl FnOnce() -> T) -> T {
        let _no_end = self.0.ends.write().unwrap_or_else(PoisonError::into_inner);
        act()
    }

    /// Whether an owner has just these budgets, and what was spent of them before is known.
    pub fn is_ready(&self, owner: &Owner, budgets: &[Budget]) -> bool {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        owned.is_ready(ledger, owner, budgets, unix_ms())
    }

    /// Gives an owner just these budgets; to be called [between ends](Self::between_ends). The accounts that are returned are
    /// [opened](Self::opened) once it is known what was spent before.
    ///
    /// # Errors
    ///
    /// Where one has no time zone that there is; the owner has no budgets then.
    pub fn adopt(&self, owner: &Owner, budgets: &[Budget]) -> Result<Vec<PendingAccount>, NoSuchZone> {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        owned.adopt(ledger, owner, budgets, unix_ms())
    }

    /// So much was spent before of a pending account.
    pub fn opened(&self, pending: &PendingAccount, spent: Amounts) {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        owned.opened(ledger, pending, spent);
    }

    /// How the budgets of an owner stand.
    pub fn standing(&self, owner: &Owner) -> Vec<BudgetView> {
        let holders = Holders { accounts: Vec::new(), owners: [owner.clone()].into_iter().collect() };
        let mut state = self.lock();
        state.accounts(&holders, unix_ms());
        state.owned.standing(&state.ledger, owner)
    }

    /// The budgets of these owners whose soft limit is reached.
    pub fn soft_limits(&self, owners: &[Owner]) -> Vec<(Owner, Budget)> {
        let mut state = self.lock();
        state.accounts(&Holders { accounts: Vec::new(), owners: owners.iter().cloned().collect() }, unix_ms());
        let soft = state.owned.soft(&state.ledger, owners);
        soft.map(|(owner, budget)| (owner.clone(), budget.clone())).collect()
    }

    /// The budget of one of these owners that leaves no more than `left` of a unit. Where a task was `refused` for it that wants so
    /// much, and which it would not cover if no other task ran, the owner is told.
    pub fn binding(&self, owners: &[Owner], unit: Unit, left: &Left, refused: Option<u64>) -> Option<BindingBudget> {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        let (binding, event) = owned.binding(ledger, owners, (unit, left.get(unit)), refused);
        drop(state);
        self.tell(event);
        binding
    }

    /// Forgets budgets that nobody has asked for in a while. Called now and then.
    pub fn sweep(&self) {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        owned.sweep(ledger, unix_ms());
    }

    /// Whether nothing is reserved in any account: so it is whenever no task is left that has not ended.
    pub fn is_settled(&self) -> bool {
        self.lock().ledger.is_settled()
    }

    /// A reservation of `held` has ended.
    fn settle(&self, owners: &[Owner], accounts: &[AccountId], held: Amounts, (used, at_ms): (Amounts, u64)) {
        let mut state = self.lock();
        let State { ledger, owned } = &mut *state;
        ledger.settle(accounts, held, used, at_ms);
        let events =
            if used == Amounts::default() { Vec::new() } else { owned.ended(ledger, owners, accounts, (used, at_ms)) };
        drop(state);
        self.tell(events);
    }

    fn tell(&self, events: impl IntoIterator<Item = BudgetEvent>) {
        for event in events {
            if let Some(Err(error)) = self.0.events.as_ref().map(|to| to.try_send(event)) {
                let BudgetEvent { owner, what, .. } = error.into_inner();
                tracing::warn!(%owner, ?what, "somebody is not told of a budget: too much is to be told");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task may use for certain. Given back whole when dropped, unless it was settled.
#[derive(Debug)]
pub struct Reservation {
    budgets: Budgets,
    accounts: Vec<AccountId>,
    /// Whose budgets it counts for, also those that have come since.
    owners: Owners,
    held: Amounts,
}

impl Reservation {
    /// What is reserved now.
    pub fn held(&self) -> Amounts {
        self.held
    }

    /// Whether there is any account that it is held in.
    pub fn is_counted(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// Whether a budget of an owner is among them, or is there by now.
    pub fn is_owned(&self) -> bool {
        self.budgets.lock().owned.accounts(&self.owners).next().is_some()
    }

    /// What the accounts leave to others.
    pub fn left(&self) -> Left {
        self.budgets.left(self.accounts.clone())
    }

    /// Reserves more: what `plan` makes of what the accounts leave.
    ///
    /// # Errors
    ///
    /// What `plan` refuses with, or the unit of which too little is left. What is held stays as it is.
    pub fn renew(&mut self, plan: impl FnOnce(&Left) -> Result<Amounts, Exceeded>) -> Result<(), Exceeded> {
        let mut state = self.budgets.lock();
        state.ledger.advance(&self.accounts, unix_ms());
        let more = plan(&state.ledger.left(&self.accounts))?;
        state.ledger.reserve(&self.accounts, more)?;
        drop(state);
        self.held = self.held.plus(more);
        Ok(())
    }

    /// Charges what was used until this moment, at most what is held where it is held in an account, and gives back the rest;
    /// returns what it has charged.
    pub fn settle(mut self, used: Amounts, at_ms: u64) -> Amounts {
        let held = std::mem::take(&mut self.held);
        let charged = if self.is_counted() { used.least(held) } else { used };
        self.budgets.settle(&self.owners, &self.accounts, held, (charged, at_ms));
        charged
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held != Amounts::default() {
            self.budgets.settle(&self.owners, &self.accounts, held, (Amounts::default(), unix_ms()));
        }
    }
}
