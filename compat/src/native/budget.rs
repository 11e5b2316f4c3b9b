//! What tenants and keys may use in a time, or at all.

use serde::{Deserialize, Serialize};

use super::request::{Violation, ensure};

/// A limit is at most this: what every reader of JSON takes for a whole number.
const MOST: u64 = (1 << 53) - 1;

/// Of one tenant or key.
const MOST_BUDGETS: usize = 16;

/// What a budget is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// Of prompts and of output.
    Tokens,
    /// In micro-units.
    Cost,
    /// For which an engine had a task.
    EngineMs,
}

impl BudgetKind {
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Cost, Self::EngineMs];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Cost => "cost",
            Self::EngineMs => "engine_ms",
        }
    }
}

/// How long a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// For ever.
    Total,
    /// From midnight to midnight.
    Daily,
    /// From the first of a month.
    Monthly,
}

impl BudgetPeriod {
    pub const ALL: [Self; 3] = [Self::Total, Self::Daily, Self::Monthly];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Daily => "daily",
            Self::Monthly => "monthly",
        }
    }
}

/// What may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub kind: BudgetKind,
    /// In the unit of the kind, what is used already included.
    pub limit: u64,
    pub period: BudgetPeriod,
    /// Whose days and months they are, as the tz database names it; UTC where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Who uses as much is told, and goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u64>,
}

impl Budget {
    /// Whether both are counted alike, whatever their limits.
    pub fn counts_like(&self, other: &Self) -> bool {
        (self.kind, self.period, self.zone()) == (other.kind, other.period, other.zone())
    }

    /// The time zone, as the tz database names it.
    pub fn zone(&self) -> &str {
        self.timezone.as_deref().filter(|_| self.period != BudgetPeriod::Total).unwrap_or("UTC")
    }
}

/// A budget as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetView {
    #[serde(flatten)]
    pub budget: Budget,
    /// By tasks that have ended in its period. Absent where only a running gateway can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<u64>,
    /// By tasks that have not ended, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u64>,
    /// A Unix time in ms at which the next period begins; null for a total.
    pub resets_ms: Option<u64>,
}

impl From<Budget> for BudgetView {
    fn from(budget: Budget) -> Self {
        Self { budget, spent: None, reserved: None, resets_ms: None }
    }
}

pub(super) fn check_budgets(budgets: &[Budget]) -> Result<(), Violation> {
    ensure(budgets.len() <= MOST_BUDGETS, "budgets", "at most 16 budgets")?;
    for (place, budget) in budgets.iter().enumerate() {
        let wrong = |field: &str, message| {
            let param = format!("budgets[{place}]{field}").into();
            Err(Violation { param, message })
        };
        if budget.limit > MOST {
            return wrong(".limit", "0 to 9007199254740991");
        }
        if budget.soft_limit.is_some_and(|soft| soft == 0 || soft > budget.limit) {
            return wrong(".soft_limit", "1 to the limit");
        }
        if budget.timezone.is_some() && budget.period == BudgetPeriod::Total {
            return wrong(".timezone", "only a daily or a monthly budget has one");
        }
        if budget.timezone.as_ref().is_some_and(|zone| !is_zone(zone)) {
            return wrong(".timezone", "the name of a time zone, as Europe/Berlin");
        }
        if budgets[..place].iter().any(|other| other.counts_like(budget)) {
            return wrong("", "there is one of this kind, period and time zone before it");
        }
    }
    Ok(())
}

/// Whether a name looks like a time zone's; which there are is not known here.
fn is_zone(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'+');
    (1..=64).contains(&name.len()) && name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(kind: BudgetKind, limit: u64, period: BudgetPeriod) -> Budget {
        Budget { kind, limit, period, timezone: None, soft_limit: None }
    }

    #[test]
    fn what_is_wrong_with_a_budget_is_told_with_its_place() {
        let (tokens, daily) = (BudgetKind::Tokens, BudgetPeriod::Daily);
        let good = budget(tokens, 10, daily);
        let place = |budgets: &[Budget]| check_budgets(budgets).err().map(|violation| violation.param.into_owned());
        assert_eq!(place(&[good.clone(), budget(tokens, 10, BudgetPeriod::Total)]), None);
        assert_eq!(place(&[good.clone(), budget(tokens, 11, daily)]).as_deref(), Some("budgets[1]"));
        let utc = Budget { timezone: Some("UTC".to_owned()), ..good.clone() };
        assert_eq!(place(&[good.clone(), utc]).as_deref(), Some("budgets[1]"), "that is what it is without one");
        let soft = Budget { soft_limit: Some(11), ..good.clone() };
        assert_eq!(place(&[soft]).as_deref(), Some("budgets[0].soft_limit"));
        let zone = Budget { timezone: Some("Berlin!".to_owned()), ..good.clone() };
        assert_eq!(place(&[zone]).as_deref(), Some("budgets[0].timezone"));
        assert_eq!(place(&[Budget { limit: u64::MAX, ..good }]).as_deref(), Some("budgets[0].limit"));
    }
}
