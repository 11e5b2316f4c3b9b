//! The machine behind budgets: accounts, what is spent and what is reserved in each.
//!
//! The law: in no account is more spent and reserved together than its limit, unless the limit was lowered afterwards. What a
//! task uses is spent in the period in which it ends; what it has reserved counts until then, in whichever period that is.

use serde::{Deserialize, Serialize};
use slotmap::{SlotMap, new_key_type};

use super::period::{Periods, Span};

new_key_type! {
    /// An account. None is used twice, so what comes late for one that is closed cannot meet another.
    pub struct AccountId;
}

/// What budgets are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    Tokens,
    /// Of the engine, in ms.
    Time,
    /// In micro-units.
    Cost,
}

/// So much of each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    pub tokens: u64,
    pub time_ms: u64,
    /// Micro-units.
    pub cost: u64,
}

impl Amounts {
    /// The sum; it stays at the largest number instead of passing it.
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// Of one unit.
    pub fn get(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Time => self.time_ms,
            Unit::Cost => self.cost,
        }
    }

    /// Of each unit the smaller amount.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        self.each(other, u64::min)
    }

    /// Of each unit the larger amount.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    fn each(self, other: Self, join: fn(u64, u64) -> u64) -> Self {
        Self {
            tokens: join(self.tokens, other.tokens),
            time_ms: join(self.time_ms, other.time_ms),
            cost: join(self.cost, other.cost),
        }
    }
}

/// So much of each unit at most; `None`: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    pub tokens: Option<u64>,
    pub time_ms: Option<u64>,
    /// Micro-units.
    pub cost: Option<u64>,
}

impl Left {
    /// Whether `wanted` is left.
    ///
    /// # Errors
    ///
    /// The first unit of which there is too little.
    pub fn covers(&self, wanted: Amounts) -> Result<(), Exceeded> {
        let short = |left: Option<u64>, wanted: u64| left.is_some_and(|left| wanted > left);
        let unit = if short(self.tokens, wanted.tokens) {
            Unit::Tokens
        } else if short(self.time_ms, wanted.time_ms) {
            Unit::Time
        } else if short(self.cost, wanted.cost) {
            Unit::Cost
        } else {
            return Ok(());
        };
        Err(Exceeded(unit))
    }

    /// So much of one unit at most.
    pub fn of(unit: Unit, limit: u64) -> Self {
        let limit = |of: Unit| (unit == of).then_some(limit);
        Self { tokens: limit(Unit::Tokens), time_ms: limit(Unit::Time), cost: limit(Unit::Cost) }
    }

    /// What is left of one unit; `None`: without limit.
    pub fn get(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Time => self.time_ms,
            Unit::Cost => self.cost,
        }
    }

    /// Of each unit what is left, and all there can be of one without limit.
    pub fn whole(&self) -> Amounts {
        let whole = |left: Option<u64>| left.unwrap_or(u64::MAX);
        Amounts { tokens: whole(self.tokens), time_ms: whole(self.time_ms), cost: whole(self.cost) }
    }

    /// These limits, and those of `other` where there are none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.or(other.tokens),
            time_ms: self.time_ms.or(other.time_ms),
            cost: self.cost.or(other.cost),
        }
    }

    /// What is left after so much.
    #[must_use]
    pub fn less(self, used: Amounts) -> Self {
        let less = |left: Option<u64>, used: u64| left.map(|left| left.saturating_sub(used));
        Self {
            tokens: less(self.tokens, used.tokens),
            time_ms: less(self.time_ms, used.time_ms),
            cost: less(self.cost, used.cost),
        }
    }

    /// Of each unit the less that either leaves.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self {
            tokens: least(self.tokens, other.tokens),
            time_ms: least(self.time_ms, other.time_ms),
            cost: least(self.cost, other.cost),
        }
    }
}

/// Too little is left of this unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget does not cover it")]
pub struct Exceeded(pub Unit);

#[derive(Debug)]
struct Account {
    limits: Left,
    /// In `span`.
    spent: Amounts,
    reserved: Amounts,
    /// `None` where it is for ever.
    periods: Option<Periods>,
    span: Span,
}

impl Account {
    fn left(&self) -> Left {
        self.limits.less(self.spent.plus(self.reserved))
    }

    /// Begins the period of a moment, unless that is an earlier one.
    fn advance(&mut self, now_ms: u64) {
        if let Some(periods) = self.periods.as_ref().filter(|_| self.span.is_over(now_ms)) {
            self.span = periods.at(now_ms);
            self.spent = Amounts::default();
        }
    }

    /// What ended in an earlier period was spent in that.
    fn spend(&mut self, used: Amounts, at_ms: u64) {
        self.advance(at_ms);
        if at_ms >= self.span.began_ms {
            self.spent = self.spent.plus(used);
        }
    }
}

/// The accounts. An operation on a list of them changes all or none; those that are closed have no say.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: SlotMap<AccountId, Account>,
}

impl Ledger {
    /// A new account that may use so much in all, of which so much is spent.
    pub fn open(&mut self, limits: Left, spent: Amounts) -> AccountId {
        let reserved = Amounts::default();
        self.accounts.insert(Account { limits, spent, reserved, periods: None, span: Span::ALL })
    }

    /// A new account that may use so much in each of these periods.
    pub fn open_for(&mut self, limits: Left, periods: Periods, now_ms: u64) -> AccountId {
        let span = periods.at(now_ms);
        let (spent, reserved) = (Amounts::default(), Amounts::default());
        self.accounts.insert(Account { limits, spent, reserved, periods: Some(periods), span })
    }

    /// Forgets an account.
    pub fn close(&mut self, account: AccountId) {
        self.accounts.remove(account);
    }

    /// Changes what an account may use in all.
    pub fn limit(&mut self, account: AccountId, limits: Left) {
        if let Some(account) = self.accounts.get_mut(account) {
            account.limits = limits;
        }
    }

    /// What is spent and what is reserved in an account.
    pub fn used(&self, account: AccountId) -> Option<(Amounts, Amounts)> {
        self.accounts.get(account).map(|account| (account.spent, account.reserved))
    }

    /// The period that an account is in.
    pub fn span(&self, account: AccountId) -> Span {
        self.accounts.get(account).map_or(Span::ALL, |account| account.span)
    }

    /// What all of `accounts` leave: of each unit the least.
    pub fn left(&self, accounts: &[AccountId]) -> Left {
        let each = accounts.iter().filter_map(|id| self.accounts.get(*id));
        each.map(Account::left).fold(Left::default(), Left::least)
    }

    /// Begins the periods of a moment.
    pub fn advance(&mut self, accounts: &[AccountId], now_ms: u64) {
        self.each(accounts, |account| account.advance(now_ms));
    }

    /// Reserves so much in each of `accounts`.
    ///
    /// # Errors
    ///
    /// The unit of which one of them has too little; nothing has changed then.
    pub fn reserve(&mut self, accounts: &[AccountId], wanted: Amounts) -> Result<(), Exceeded> {
        self.left(accounts).covers(wanted)?;
        self.reserve_again(accounts, wanted);
        Ok(())
    }

    /// Reserves so much in each of `accounts`, whatever they leave.
    pub fn reserve_again(&mut self, accounts: &[AccountId], held: Amounts) {
        self.each(accounts, |account| account.reserved = account.reserved.plus(held));
    }

    /// Ends a reservation of `held` in each of `accounts` at this moment: what was used is spent.
    pub fn settle(&mut self, accounts: &[AccountId], held: Amounts, used: Amounts, at_ms: u64) {
        self.each(accounts, |account| {
            account.reserved = account.reserved.minus(held);
            account.spend(used, at_ms);
        });
    }

    /// So much was used at this moment that nobody had reserved.
    pub fn spend(&mut self, account: AccountId, used: Amounts, at_ms: u64) {
        self.each(&[account], |account| account.spend(used, at_ms));
    }

    /// Whether nothing is reserved.
    pub fn is_settled(&self) -> bool {
        self.accounts.values().all(|account| account.reserved == Amounts::default())
    }

    fn each(&mut self, accounts: &[AccountId], change: impl Fn(&mut Account)) {
        for id in accounts {
            if let Some(account) = self.accounts.get_mut(*id) {
                change(account);
            }
        }
    }
}
