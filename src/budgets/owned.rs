//! Budgets of tenants and keys: which there are, and the account of each.
//!
//! Plain data beside the accounts. What an owner had spent before its accounts were opened is in the store: an account is
//! open once that was added, and until then takes in what tasks use meanwhile, and gives nothing away: its limit is 0.

use std::collections::HashMap;
use std::fmt;

use sluicegate_compat::native::{Budget, BudgetKind, BudgetView};
use smallvec::SmallVec;

use super::ledger::{AccountId, Amounts, Ledger, Left, Unit};
use super::period::{NoSuchZone, Periods, Span};
use crate::ids::{KeyId, TenantId};

/// An owner whose budgets nobody has used for so long is read from the store again when it comes back.
const IDLE_MS: u64 = 15 * 60 * 1000;

/// Whose a budget is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    Tenant(TenantId),
    /// A key, and whose that is.
    Key(TenantId, KeyId),
}

/// Whose budgets a task counts for: its tenant's, and its key's.
pub type Owners = SmallVec<[Owner; 2]>;

impl Owner {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Key(..) => "key",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::Key(tenant, key) => write!(f, "key {key} of tenant {tenant}"),
        }
    }
}

/// The owners of a task's budgets.
pub fn owners(tenant: &TenantId, key: Option<&KeyId>) -> Owners {
    let key = key.map(|key| Owner::Key(tenant.clone(), key.clone()));
    [Owner::Tenant(tenant.clone())].into_iter().chain(key).collect()
}

/// An account that wants to know what was spent before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAccount {
    pub owner: Owner,
    pub account: AccountId,
    /// From then on.
    pub from_ms: u64,
}

/// Something that an owner is to be told of a budget, once in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetEvent {
    pub what: Reached,
    pub owner: Owner,
    pub budget: Budget,
    pub spent: u64,
    pub span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// As much is spent.
    SoftLimit,
    /// A task was refused because too little was left.
    Limit,
}

/// A budget that holds somebody up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingBudget {
    pub owner: Owner,
    pub budget: Budget,
    pub resets_ms: Option<u64>,
}

/// One budget.
#[derive(Debug)]
struct Line {
    budget: Budget,
    account: AccountId,
    /// What was spent before is known.
    open: bool,
    told: Told,
}

/// What an owner was told of a budget.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// In the period that began then.
    began_ms: u64,
    soft_limit: bool,
    limit: bool,
}

#[derive(Debug, Default)]
struct Lines {
    each: Vec<Line>,
    used_ms: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Owned(HashMap<Owner, Lines>);

/// The unit that a kind of budget is counted in.
pub const fn unit(kind: BudgetKind) -> Unit {
    match kind {
        BudgetKind::Tokens => Unit::Tokens,
        BudgetKind::Cost => Unit::Cost,
        BudgetKind::EngineMs => Unit::Time,
    }
}

impl Line {
    fn limits(budget: &Budget) -> Left {
        Left::of(unit(budget.kind), budget.limit)
    }

    /// One whose period has not begun has seen a wrong time, and knows nothing of what was spent in the period that it is.
    fn is_open(&self, ledger: &Ledger, now_ms: u64) -> bool {
        self.open && ledger.span(self.account).began_ms <= now_ms
    }

    fn spent(&self, ledger: &Ledger) -> u64 {
        ledger.used(self.account).unwrap_or_default().0.get(unit(self.budget.kind))
    }

    fn is_soft(&self, ledger: &Ledger) -> bool {
        self.budget.soft_limit.is_some_and(|soft| self.spent(ledger) >= soft)
    }

    /// Notes that its owner is told, where that is not done in this period.
    fn tell(&mut self, owner: &Owner, what: Reached, ledger: &Ledger) -> Option<BudgetEvent> {
        let span = ledger.span(self.account);
        if self.told.began_ms != span.began_ms {
            self.told = Told { began_ms: span.began_ms, ..Told::default() };
        }
        let told = match what {
            Reached::SoftLimit => &mut self.told.soft_limit,
            Reached::Limit => &mut self.told.limit,
        };
        if std::mem::replace(told, true) {
            return None;
        }
        Some(BudgetEvent { what, owner: owner.clone(), budget: self.budget.clone(), spent: self.spent(ledger), span })
    }
}

impl Owned {
    /// Whether an owner has just these budgets, and they are open.
    pub fn is_ready(&mut self, ledger: &Ledger, owner: &Owner, budgets: &[Budget], now_ms: u64) -> bool {
        let Some(lines) = self.0.get_mut(owner) else { return budgets.is_empty() };
        lines.used_ms = now_ms;
        lines.each.len() == budgets.len()
            && lines
                .each
                .iter()
                .zip(budgets)
                .all(|(line, budget)| line.is_open(ledger, now_ms) && line.budget == *budget)
    }

    /// Gives an owner just these budgets. Those that are counted as one that it had go on with that.
    ///
    /// # Errors
    ///
    /// Where one has no time zone that there is; the owner has no budgets then.
    pub fn adopt(
        &mut self,
        ledger: &mut Ledger,
        owner: &Owner,
        budgets: &[Budget],
        now_ms: u64,
    ) -> Result<Vec<PendingAccount>, NoSuchZone> {
        let mut before = self.0.remove(owner).unwrap_or_default().each;
        let (mut each, mut pending) = (Vec::with_capacity(budgets.len()), Vec::new());
        let mut wrong = None;
        for budget in budgets {
            let known = before.iter().position(|line| line.is_open(ledger, now_ms) && line.budget.counts_like(budget));
            match known.map(|place| before.swap_remove(place)) {
                Some(line) => {
                    ledger.limit(line.account, Line::limits(budget));
                    let mut line = Line { budget: budget.clone(), ..line };
                    // Of other limits it has not been told.
                    line.told.soft_limit &= line.is_soft(ledger);
                    line.told.limit = false;
                    each.push(line);
                }
                None => match Periods::of(budget) {
                    Ok(periods) => {
                        let account = ledger.open_for(Left::of(unit(budget.kind), 0), periods, now_ms);
                        let from_ms = ledger.span(account).began_ms;
                        pending.push(PendingAccount { owner: owner.clone(), account, from_ms });
                        let told = Told { began_ms: from_ms, ..Told::default() };
                        each.push(Line { budget: budget.clone(), account, open: false, told });
                    }
                    Err(error) => wrong = Some(error),
                },
            }
        }
        if let Some(error) = wrong {
            before.extend(each);
            before.iter().for_each(|line| ledger.close(line.account));
            return Err(error);
        }
        before.iter().for_each(|line| ledger.close(line.account));
        if !each.is_empty() {
            self.0.insert(owner.clone(), Lines { each, used_ms: now_ms });
        }
        Ok(pending)
    }

    /// An account is open: so much was spent before in the period that it was pending from.
    pub fn opened(&mut self, ledger: &mut Ledger, pending: &PendingAccount, spent: Amounts) {
        let lines = self.0.get_mut(&pending.owner).map(|lines| lines.each.as_mut_slice()).unwrap_or_default();
        let Some(line) = lines.iter_mut().find(|line| line.account == pending.account) else { return };
        if ledger.span(line.account).began_ms == pending.from_ms {
            ledger.spend(line.account, spent, pending.from_ms);
        }
        ledger.limit(line.account, Line::limits(&line.budget));
        line.open = true;
        // Who has reached it before was told before.
        line.told.soft_limit = line.is_soft(ledger);
    }

    /// The accounts of owners.
    pub fn accounts<'a>(&'a self, owners: &'a [Owner]) -> impl Iterator<Item = AccountId> + 'a {
        let lines = owners.iter().filter_map(|owner| self.0.get(owner)).flat_map(|lines| &lines.each);
        lines.map(|line| line.account)
    }

    /// A task of these owners has used so much at this moment. Its `reserved` accounts are charged; others of theirs, which
    /// are there since, are charged now. Returns what owners are to be told.
    pub fn ended(
        &mut self,
        ledger: &mut Ledger,
        owners: &[Owner],
        reserved: &[AccountId],
        (used, at_ms): (Amounts, u64),
    ) -> Vec<BudgetEvent> {
        let mut events = Vec::new();
        for owner in owners {
            for line in self.0.get_mut(owner).map(|lines| lines.each.as_mut_slice()).unwrap_or_default() {
                if !reserved.contains(&line.account) {
                    ledger.spend(line.account, used, at_ms);
                }
                if line.open && line.is_soft(ledger) {
                    events.extend(line.tell(owner, Reached::SoftLimit, ledger));
                }
            }
        }
        events
    }

    /// Of the budgets of these owners, the one that leaves no more than `left` of a unit; with what its owner is to be told where a
    /// task was refused for it that wants so much: not where it would do once other tasks have ended.
    pub fn binding(
        &mut self,
        ledger: &Ledger,
        owners: &[Owner],
        (kind, left): (Unit, Option<u64>),
        refused: Option<u64>,
    ) -> (Option<BindingBudget>, Option<BudgetEvent>) {
        for owner in owners {
            for line in self.0.get_mut(owner).map(|lines| lines.each.as_mut_slice()).unwrap_or_default() {
                if line.open && left.is_some() && ledger.left(&[line.account]).get(kind) == left {
                    let unspent = line.budget.limit.saturating_sub(line.spent(ledger));
                    let for_good = refused.is_some_and(|wanted| wanted > unspent);
                    let event = for_good.then(|| line.tell(owner, Reached::Limit, ledger)).flatten();
                    let resets_ms = ledger.span(line.account).resets_ms;
                    return (
                        Some(BindingBudget { owner: owner.clone(), budget: line.budget.clone(), resets_ms }),
                        event,
                    );
                }
            }
        }
        (None, None)
    }

    /// The budgets of these owners whose soft limit is reached.
    pub fn soft<'a>(
        &'a self,
        ledger: &'a Ledger,
        owners: &'a [Owner],
    ) -> impl Iterator<Item = (&'a Owner, &'a Budget)> {
        let lines = owners.iter().filter_map(|owner| Some((owner, self.0.get(owner)?)));
        let lines = lines.flat_map(|(owner, lines)| lines.each.iter().map(move |line| (owner, line)));
        lines.filter(|(_, line)| line.open && line.is_soft(ledger)).map(|(owner, line)| (owner, &line.budget))
    }

    /// How the budgets of an owner stand.
    pub fn standing(&self, ledger: &Ledger, owner: &Owner) -> Vec<BudgetView> {
        let lines = self.0.get(owner).map(|lines| lines.each.as_slice()).unwrap_or_default();
        let view = |line: &Line| {
            let (spent, reserved) = ledger.used(line.account).unwrap_or_default();
            let unit = unit(line.budget.kind);
            BudgetView {
                budget: line.budget.clone(),
                spent: Some(spent.get(unit)),
                reserved: Some(reserved.get(unit)),
                resets_ms: ledger.span(line.account).resets_ms,
            }
        };
        lines.iter().map(view).collect()
    }

    /// Forgets owners whom nobody has asked for, and for whom nothing is reserved.
    pub fn sweep(&mut self, ledger: &mut Ledger, now_ms: u64) {
        self.0.retain(|_, lines| {
            let idle = now_ms.saturating_sub(lines.used_ms) >= IDLE_MS;
            let reserved = |line: &Line| ledger.used(line.account).is_some_and(|(_, held)| held != Amounts::default());
            // Who was told of a limit is not told again before the period is over.
            let told = |line: &Line| line.told.limit && !ledger.span(line.account).is_over(now_ms);
            let keep = !idle || lines.each.iter().any(|line| reserved(line) || told(line));
            if !keep {
                lines.each.iter().for_each(|line| ledger.close(line.account));
            }
            keep
        });
    }
}
