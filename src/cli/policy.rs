//! What tenants and keys may ask for, as the commands that make and change them take it.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use sluicegate_compat::native::{Budget, RateLimits};

/// What both take. For a change, what is not given stays as it is, but limits and budgets, which are given all together.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PolicyArguments {
    /// A model that may be asked, by any of its names; may be given several times; without it, every model
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Requests per minute that are let in, a minute's worth at once
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens per minute that are let in, of prompts and of all output that they may have
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// The same of tasks that have not ended
    #[arg(long, value_name = "N")]
    tokens_in_flight: Option<u64>,
    /// Tasks that have not ended
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,
    /// A budget, as `kind=tokens,limit=1000000,period=daily`; the kind is tokens, cost (micro-units) or engine_ms, the period
    /// total, daily or monthly; with `timezone=Europe/Berlin` its days are those of that zone, with `soft_limit=800000` whoever
    /// uses as much is told; may be given several times
    #[arg(long = "budget", value_name = "BUDGET", value_parser = budget)]
    budgets: Vec<Budget>,
    /// Take all budgets away
    #[arg(long, conflicts_with = "budgets")]
    no_budgets: bool,
}

/// A budget, as the command line has it.
fn budget(text: &str) -> Result<Budget, String> {
    let mut fields = serde_json::Map::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no `name=value`"))?;
        let value = match name {
            "limit" | "soft_limit" => {
                let number = value.replace('_', "").parse::<u64>();
                Value::from(number.map_err(|_| format!("{name} is a whole number"))?)
            }
            "kind" | "period" | "timezone" => Value::from(value),
            _ => return Err(format!("{name:?} is none of kind, limit, period, timezone, soft_limit")),
        };
        if fields.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

impl PolicyArguments {
    /// What is given, as the admin API takes it.
    pub fn fields(&self) -> Map<String, Value> {
        let limits = RateLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            tokens_in_flight: self.tokens_in_flight,
            concurrency: self.concurrency,
        };
        let mut fields = Map::new();
        if !self.models.is_empty() {
            fields.insert("allowed_models".to_owned(), self.models.clone().into());
        }
        if !limits.is_none() {
            fields.insert("limits".to_owned(), json!(limits));
        }
        if self.no_budgets || !self.budgets.is_empty() {
            fields.insert("budgets".to_owned(), json!(self.budgets));
        }
        fields
    }
}

/// What tenants take.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PriorityArguments {
    /// No task of the tenant has more
    #[arg(long, value_name = "PRIORITY")]
    pub priority_ceiling: Option<PriorityArgument>,
    /// Of tasks whose request names none
    #[arg(long, value_name = "PRIORITY")]
    pub default_priority: Option<PriorityArgument>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PriorityArgument {
    /// Somebody waits for it
    Interactive,
    /// It may wait
    Batch,
}

#[cfg(test)]
mod tests {
    use sluicegate_compat::native::{BudgetKind, BudgetPeriod};

    use super::*;

    #[test]
    fn budgets_are_taken_away_where_that_is_asked_and_stay_where_nothing_is() {
        let none = PolicyArguments { no_budgets: true, ..PolicyArguments::default() };
        assert_eq!(none.fields().get("budgets"), Some(&json!([])));
        assert_eq!(PolicyArguments::default().fields().get("budgets"), None);
    }

    #[test]
    fn a_budget_is_written_in_one_word() {
        let all = budget("kind=cost,limit=1_000_000,period=monthly,timezone=Asia/Tokyo,soft_limit=9").unwrap();
        assert_eq!((all.kind, all.limit, all.period), (BudgetKind::Cost, 1_000_000, BudgetPeriod::Monthly));
        assert_eq!((all.timezone.as_deref(), all.soft_limit), (Some("Asia/Tokyo"), Some(9)));
        let wrong = |text: &str| budget(text).unwrap_err();
        assert_eq!(wrong("kind=tokens,limit=many,period=daily"), "limit is a whole number");
        assert_eq!(wrong("kind=tokens,kind=cost"), "kind is there twice");
        assert_eq!(wrong("tokens"), "\"tokens\" is no `name=value`");
        assert_eq!(wrong("kind=tokens,limit=1"), "missing field `period`");
        assert!(wrong("kind=words,limit=1,period=daily").contains("unknown variant `words`"));
    }
}
