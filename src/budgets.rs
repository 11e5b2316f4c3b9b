//! Budgets: what somebody may still use, in tokens, engine time and money.
//!
//! A task reserves the worst case before it is let in, and settles with what it used at its end. Between the two the
//! difference belongs to nobody else, so tasks that run at once can never overspend together.
//!
//! [`Ledger`] is the machine: pure, with no clock, no I/O and no lock. [`Budgets`] is one mutex around it, and
//! [`Reservation`] a value that gives back on drop. A reservation is held by a list of accounts together (a session, its
//! key, its tenant), all or nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod ledger;
pub mod price;
#[cfg(test)]
mod tests;

pub use ledger::{AccountId, Amounts, Exceeded, Ledger, Left, Unit};

/// All accounts. One mutex: every operation under it is a few look-ups, and a list of accounts is changed at one moment.
#[derive(Debug, Clone, Default)]
pub struct Budgets(Arc<Mutex<Ledger>>);

impl Budgets {
    pub fn new() -> Self {
        Self::default()
    }

    /// A new account that may use so much in all, of which so much is spent.
    pub fn open(&self, limits: Left, spent: Amounts) -> AccountId {
        self.lock().open(limits, spent)
    }

    /// Forgets an account. What is still reserved there goes with it.
    pub fn close(&self, account: AccountId) {
        self.lock().close(account);
    }

    /// Changes what an account may use in all, what is spent included. Running tasks keep what they have reserved.
    pub fn limit(&self, account: AccountId, limits: Left) {
        self.lock().limit(account, limits);
    }

    /// What is spent of an account; nothing where it is closed.
    pub fn spent(&self, account: AccountId) -> Amounts {
        self.lock().used(account).unwrap_or_default().0
    }

    /// What all of `accounts` leave: of each unit the least.
    pub fn left(&self, accounts: &[AccountId]) -> Left {
        self.lock().left(accounts)
    }

    /// Reserves in all of `accounts` what `plan` makes of what they leave; what else it says comes back. Nobody else
    /// reserves in between.
    ///
    /// # Errors
    ///
    /// What `plan` refuses with, or the unit of which too little is left. Nothing is reserved then.
    pub fn reserve<T>(
        &self,
        accounts: Vec<AccountId>,
        plan: impl FnOnce(&Left) -> Result<(Amounts, T), Exceeded>,
    ) -> Result<(Reservation, T), Exceeded> {
        let mut ledger = self.lock();
        let (held, said) = plan(&ledger.left(&accounts))?;
        ledger.reserve(&accounts, held)?;
        drop(ledger);
        Ok((Reservation { budgets: self.clone(), accounts, held }, said))
    }

    /// As [`reserve`](Self::reserve), once for each of `plans` with its accounts, all of them or none: each has what those before
    /// it leave, and nobody else reserves in between.
    ///
    /// # Errors
    ///
    /// As there, of the first that is not covered. Nothing is reserved then.
    pub fn reserve_each<T, P>(
        &self,
        plans: impl IntoIterator<Item = (Vec<AccountId>, P)>,
    ) -> Result<Vec<(Reservation, T)>, Exceeded>
    where
        P: FnOnce(&Left) -> Result<(Amounts, T), Exceeded>,
    {
        let mut ledger = self.lock();
        let mut reserved = Vec::new();
        for (accounts, plan) in plans {
            let covered = plan(&ledger.left(&accounts)).and_then(|(held, said)| {
                ledger.reserve(&accounts, held)?;
                Ok((accounts, held, said))
            });
            match covered {
                Ok(covered) => reserved.push(covered),
                Err(exceeded) => {
                    for (accounts, held, _) in reserved {
                        ledger.settle(&accounts, held, Amounts::default());
                    }
                    return Err(exceeded);
                }
            }
        }
        drop(ledger);
        let reservation = |(accounts, held, said)| (Reservation { budgets: self.clone(), accounts, held }, said);
        Ok(reserved.into_iter().map(reservation).collect())
    }

    /// Reserves what `plan` makes of what `accounts` leave, whether or not that covers it: for a task that had reserved it
    /// before an earlier process ended.
    pub fn reserve_again(&self, accounts: Vec<AccountId>, plan: impl FnOnce(&Left) -> Amounts) -> Reservation {
        let mut ledger = self.lock();
        let held = plan(&ledger.left(&accounts));
        ledger.reserve_again(&accounts, held);
        drop(ledger);
        Reservation { budgets: self.clone(), accounts, held }
    }

    /// Whether nothing is reserved in any account: so it is whenever no task is left that has not ended.
    pub fn is_settled(&self) -> bool {
        self.lock().is_settled()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task may use for certain. Given back whole when dropped, unless it was settled.
#[derive(Debug)]
pub struct Reservation {
    budgets: Budgets,
    accounts: Vec<AccountId>,
    held: Amounts,
}

impl Reservation {
    /// What is reserved now.
    pub fn held(&self) -> Amounts {
        self.held
    }

    /// What the accounts leave to others.
    pub fn left(&self) -> Left {
        self.budgets.left(&self.accounts)
    }

    /// Reserves more: what `plan` makes of what the accounts leave.
    ///
    /// # Errors
    ///
    /// What `plan` refuses with, or the unit of which too little is left. What is held stays as it is.
    pub fn renew(&mut self, plan: impl FnOnce(&Left) -> Result<Amounts, Exceeded>) -> Result<(), Exceeded> {
        let mut ledger = self.budgets.lock();
        let more = plan(&ledger.left(&self.accounts))?;
        ledger.reserve(&self.accounts, more)?;
        drop(ledger);
        self.held = self.held.plus(more);
        Ok(())
    }

    /// Charges what was used, at most what is held, and gives back the rest; returns what it has charged.
    pub fn settle(mut self, used: Amounts) -> Amounts {
        let held = std::mem::take(&mut self.held);
        self.budgets.lock().settle(&self.accounts, held, used)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held != Amounts::default() {
            self.budgets.lock().settle(&self.accounts, held, Amounts::default());
        }
    }
}
