//! What a task has reserved of the budgets that it counts for.
//!
//! A task that counts for none has reserved nothing, and is charged all the same where there is one by the time that it ends.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLockReadGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{Metrics, ModelPrice, PolicyLabel};

use super::Observer;
use crate::budgets::price::{Tokens, affordable_ms, affordable_output, time_cost, tokens_cost, worst_cost};
use crate::budgets::{Amounts, Budgets, Exceeded, Left, Owners, Reservation, Unit, owners};
use crate::ids::{KeyId, TenantId};

/// Engine time is reserved in slices of so many ms, each when the one before is used up.
pub const SLICE_MS: u64 = 1000;

/// The reservation of a task, until it has ended. One plain mutex, held for a look-up in the ledger.
#[derive(Debug)]
pub struct Spending {
    budgets: Budgets,
    state: Mutex<State>,
}

/// What a task holds beside its place in a pool until it has ended. Given back on drop where it is never let in.
#[derive(Default)]
pub struct Ties {
    /// Its turn in a session, its place among the tasks at once: they hear of its end, and are dropped then.
    pub held: Vec<Box<dyn Observer>>,
    pub spending: Option<Spending>,
}

#[derive(Debug)]
struct State {
    /// `None` once it is settled.
    reservation: Option<Reservation>,
    terms: Terms,
    /// The number of the session whose budget is among them.
    session: Option<u64>,
    /// It is charged for all that it holds.
    lost: bool,
}

/// What is filed of a task's reservation: enough to make it again in another process, or to charge it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub amounts: Amounts,
    pub terms: Terms,
    /// Whose it is; nothing is known of a task of an earlier version, or that is to have no row in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// The task of a reservation, as the ledger is to have it where the task goes with its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub model: String,
    pub pool: String,
    pub prompt_tokens: u32,
    pub created_ms: u64,
}

impl Holder {
    /// Whose budgets it counts for.
    pub fn owners(&self) -> Owners {
        let key = self.key.as_deref().map(KeyId::from);
        owners(&TenantId::from(self.tenant.as_str()), key.as_ref())
    }
}

/// What a task was charged in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub charged: Amounts,
    /// Whether that was reserved in some account.
    pub reserved: bool,
    /// Whether it counts for a budget of its tenant or its key.
    pub owned: bool,
}

/// What was agreed with a task when it was let in. It holds also where its pool gets another model while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub price: ModelPrice,
    /// The part of what is reserved that pays for tokens; the rest is for time.
    pub tokens_cost: u64,
    /// The budget that leaves less output than the task would have got.
    pub capped_by: Option<Unit>,
}

/// The policy that a budget is.
pub const fn label(unit: Unit) -> PolicyLabel {
    match unit {
        Unit::Tokens => PolicyLabel::BudgetTokens,
        Unit::Time => PolicyLabel::BudgetTime,
        Unit::Cost => PolicyLabel::BudgetCost,
    }
}

/// The next slice of engine time, which may be shorter than usual.
///
/// # Errors
///
/// No time is left, or nothing to pay for it.
pub fn slice(left: &Left, price: &ModelPrice) -> Result<Amounts, Exceeded> {
    let time_ms = left.time_ms.unwrap_or(SLICE_MS).min(SLICE_MS);
    let paid_ms = left.cost.map_or(u64::MAX, |cost| affordable_ms(price, cost));
    match time_ms.min(paid_ms) {
        0 if time_ms == 0 => Err(Exceeded(Unit::Time)),
        0 => Err(Exceeded(Unit::Cost)),
        time_ms => Ok(Amounts { time_ms, cost: time_cost(price, time_ms), tokens: 0 }),
    }
}

impl Spending {
    /// With the number of the session whose budget is among those that it is reserved of.
    pub fn new(budgets: &Budgets, reservation: Reservation, terms: Terms, session: Option<u64>) -> Self {
        let state = State { reservation: Some(reservation), terms, session, lost: false };
        Self { budgets: budgets.clone(), state: Mutex::new(state) }
    }

    /// Of a task whose process ended while it ran. Nobody knows what it has used, so it is charged for all that it holds.
    pub fn lost(budgets: &Budgets, reservation: Reservation, terms: Terms, session: Option<u64>) -> Self {
        let state = State { reservation: Some(reservation), terms, session, lost: true };
        Self { budgets: budgets.clone(), state: Mutex::new(state) }
    }

    /// Of a task of an earlier process that had reserved nothing.
    pub fn unreserved(budgets: &Budgets, owners: Owners, price: ModelPrice) -> Self {
        let terms = Terms { price, tokens_cost: 0, capped_by: None };
        Self::new(budgets, budgets.unreserved(owners), terms, None)
    }

    /// The number of the session whose budget is among these.
    pub fn session(&self) -> Option<u64> {
        self.lock().session
    }

    /// Whether it has reserved anything.
    pub fn is_counted(&self) -> bool {
        self.lock().reservation.as_ref().is_some_and(Reservation::is_counted)
    }

    /// Whether it counts for a budget of its tenant or its key.
    pub fn is_owned(&self) -> bool {
        self.lock().reservation.as_ref().is_some_and(Reservation::is_owned)
    }

    /// Held from before it is settled until what was used is handed to the store.
    pub(super) fn ending(&self) -> RwLockReadGuard<'_, ()> {
        self.budgets.ending()
    }

    /// What is to be filed of it.
    pub(super) fn hold(&self) -> Hold {
        let state = self.lock();
        let amounts = state.reservation.as_ref().map(Reservation::held).unwrap_or_default();
        Hold { amounts, terms: state.terms, holder: None }
    }

    /// What its budgets leave to others; nothing is said once the task has ended.
    pub fn left(&self) -> Option<Left> {
        self.lock().reservation.as_ref().map(Reservation::left)
    }

    /// The policy that ended an output which ended because it was long enough.
    pub fn capped_by(&self) -> Option<PolicyLabel> {
        self.lock().terms.capped_by.map(label)
    }

    /// How much engine time is reserved so far; `None` where it needs none.
    pub(super) fn time(&self) -> Option<Duration> {
        let state = self.lock();
        let counted = state.reservation.as_ref().filter(|reservation| reservation.is_counted())?;
        Some(Duration::from_millis(counted.held().time_ms))
    }

    /// Reserves another slice of time.
    pub(super) fn renew(&self) -> Result<(), Exceeded> {
        let mut state = self.lock();
        let price = state.terms.price;
        state.reservation.as_mut().map_or(Ok(()), |reservation| reservation.renew(|left| slice(left, &price)))
    }

    /// Of a task that is [lost](Self::lost): it ran for no longer than this, for which it is charged as far as its budgets go. What
    /// others have reserved is theirs.
    pub fn ran(&self, ran_ms: u64) {
        let mut state = self.lock();
        let Terms { price, tokens_cost, .. } = state.terms;
        let Some(reservation) = state.reservation.as_mut() else { return };
        let cost = tokens_cost.saturating_add(time_cost(&price, ran_ms));
        let most = Amounts { tokens: 0, time_ms: ran_ms, cost };
        let more = most.minus(reservation.held());
        // It is as much as is left, so there is nothing to refuse.
        let _ = reservation.renew(|left| Ok(more.least(left.whole())));
    }

    /// The output tokens of each choice that the reservation covers with a prompt of so many tokens, and no more than
    /// `wanted`; `None` where it does not even cover the prompt. For a task that was prepared anew for another model.
    pub(super) fn cover(&self, prompt_tokens: u32, choices: u16, wanted: u32) -> Option<u32> {
        let mut state = self.lock();
        if state.reservation.as_ref().is_none_or(|reservation| !reservation.is_counted()) {
            return Some(wanted);
        }
        let held = state.reservation.as_ref().map_or(u64::MAX, |reservation| reservation.held().tokens);
        let Terms { price, tokens_cost, .. } = state.terms;
        let prompt = u64::from(prompt_tokens);
        let by_tokens = held.checked_sub(prompt)?;
        if worst_cost(&price, prompt, 0) > tokens_cost {
            return None;
        }
        let by_cost = affordable_output(&price, tokens_cost, prompt);
        let output = by_tokens.min(by_cost) / u64::from(choices.max(1));
        let covered = u32::try_from(output).unwrap_or(u32::MAX);
        if covered < wanted {
            state.terms.capped_by = Some(if by_cost < by_tokens { Unit::Cost } else { Unit::Tokens });
        }
        Some(covered.min(wanted))
    }

    /// Charges what was used until this moment, and gives back the rest; returns what it has charged. What comes after that
    /// changes nothing.
    pub fn settle(&self, tokens: Tokens, time_ms: u64, at_ms: u64) -> Option<Settled> {
        let mut state = self.lock();
        let (price, lost) = (state.terms.price, state.lost);
        let reservation = state.reservation.take();
        drop(state);
        let used = Amounts {
            tokens: tokens.input.saturating_add(tokens.output),
            time_ms,
            cost: tokens_cost(&price, tokens).saturating_add(time_cost(&price, time_ms)),
        };
        reservation.map(|reservation| {
            let used = if lost { reservation.held() } else { used };
            let (reserved, owned) = (reservation.is_counted(), reservation.is_owned());
            Settled { charged: reservation.settle(used, at_ms), reserved, owned }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left, as `metrics` events show it; `None` where nothing has a limit.
pub(super) fn told(left: &Left) -> Option<Metrics> {
    (*left != Left::default()).then(|| Metrics {
        tokens_budget_remaining: left.tokens,
        time_budget_remaining_ms: left.time_ms,
        cost_budget_remaining: left.cost,
        ..Metrics::default()
    })
}
