//! What a task has reserved of the budgets that it counts for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{Metrics, ModelPrice, PolicyLabel};

use super::Observer;
use crate::budgets::price::{Tokens, affordable_ms, affordable_output, time_cost, tokens_cost, worst_cost};
use crate::budgets::{Amounts, Exceeded, Left, Reservation, Unit};

/// Engine time is reserved in slices of so many ms, each when the one before is used up.
pub const SLICE_MS: u64 = 1000;

/// The reservation of a task, until it has ended. One plain mutex, held for a look-up in the ledger.
#[derive(Debug)]
pub struct Spending(Mutex<State>);

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
    /// The number of the session whose budgets these are.
    session: u64,
    /// It is charged for all that it holds.
    lost: bool,
}

/// What is filed of a task's reservation: enough to make it again in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub amounts: Amounts,
    pub terms: Terms,
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
    /// Of the budgets of the session with this number.
    pub fn new(reservation: Reservation, terms: Terms, session: u64) -> Self {
        Self(Mutex::new(State { reservation: Some(reservation), terms, session, lost: false }))
    }

    /// Of a task whose process ended while it ran. Nobody knows what it has used, so it is charged for all that it holds.
    pub fn lost(reservation: Reservation, terms: Terms, session: u64) -> Self {
        Self(Mutex::new(State { reservation: Some(reservation), terms, session, lost: true }))
    }

    /// The number of the session whose budgets these are.
    pub fn session(&self) -> u64 {
        self.lock().session
    }

    /// What is to be filed of it.
    pub(super) fn hold(&self) -> Hold {
        let state = self.lock();
        let amounts = state.reservation.as_ref().map(Reservation::held).unwrap_or_default();
        Hold { amounts, terms: state.terms }
    }

    /// What its budgets leave to others; nothing is said once the task has ended.
    pub fn left(&self) -> Option<Left> {
        self.lock().reservation.as_ref().map(Reservation::left)
    }

    /// The policy that ended an output which ended because it was long enough.
    pub fn capped_by(&self) -> Option<PolicyLabel> {
        self.lock().terms.capped_by.map(label)
    }

    /// How much engine time is reserved so far.
    pub(super) fn time(&self) -> Option<Duration> {
        self.lock().reservation.as_ref().map(|reservation| Duration::from_millis(reservation.held().time_ms))
    }

    /// Reserves another slice of time.
    pub(super) fn renew(&self) -> Result<(), Exceeded> {
        let mut state = self.lock();
        let price = state.terms.price;
        state.reservation.as_mut().map_or(Ok(()), |reservation| reservation.renew(|left| slice(left, &price)))
    }

    /// The output tokens of each choice that the reservation covers with a prompt of so many tokens, and no more than
    /// `wanted`; `None` where it does not even cover the prompt. For a task that was prepared anew for another model.
    pub(super) fn cover(&self, prompt_tokens: u32, choices: u16, wanted: u32) -> Option<u32> {
        let mut state = self.lock();
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

    /// Charges what was used and gives back the rest; returns what it has charged. What comes after that changes nothing.
    pub fn settle(&self, tokens: Tokens, time_ms: u64) -> Option<Amounts> {
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
            reservation.settle(used)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
