//! `sluicegate usage`: what tasks have used that have ended.

use clap::Args;
use serde_json::Value;

use super::access::StoreArguments;
use super::administration::Administration;
use super::operate::text;
use super::table::aligned;
use crate::gateway::{Grouping, UsageFilter};

#[derive(Debug, Args)]
pub(super) struct UsageArguments {
    #[command(flatten)]
    pub file: StoreArguments,
    /// Tasks that ended then or later, as a Unix time in ms
    #[arg(long, value_name = "MS")]
    from_ms: Option<u64>,
    /// Tasks that ended before, as a Unix time in ms
    #[arg(long, value_name = "MS")]
    to_ms: Option<u64>,
    /// Of this tenant alone
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Of this key alone
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Of this model alone, by its id
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Of this pool alone
    #[arg(long, value_name = "ID")]
    pool: Option<String>,
    /// What there is a sum for each of: tenant, key, model, pool, and day or hour (UTC), with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = grouping)]
    group_by: Vec<Grouping>,
    /// Print CSV, with a line of names first
    #[arg(long)]
    csv: bool,
}

fn grouping(name: &str) -> Result<Grouping, String> {
    let known = Grouping::ALL.into_iter().find(|grouping| grouping.as_str() == name);
    known.ok_or_else(|| format!("one of {}", Grouping::ALL.map(Grouping::as_str).join(", ")))
}

/// Runs `sluicegate usage`.
///
/// # Errors
///
/// One line, for the operator.
pub(super) async fn usage(at: &Administration, json: bool, arguments: UsageArguments) -> Result<(), String> {
    let UsageArguments { file: _, from_ms, to_ms, tenant, key, model, pool, group_by, csv } = arguments;
    let filter = UsageFilter { from_ms, to_ms, tenant, key, model, pool, group_by };
    match (csv, json) {
        (true, true) => return Err("--csv and --json are two ways to print the same; choose one".to_owned()),
        (true, false) => super::print(&at.usage_csv(filter).await?),
        (false, true) => super::print(&at.usage(filter).await?.to_string()),
        (false, false) => {
            let group_by = filter.group_by.clone();
            super::print(&table(&at.usage(filter).await?, &group_by));
        }
    }
    Ok(())
}

/// The groups and their total.
fn table(usage: &Value, group_by: &[Grouping]) -> String {
    let by = |grouping| group_by.contains(&grouping);
    let names = [
        ("tenant_id", "TENANT", by(Grouping::Tenant)),
        ("key_id", "KEY", by(Grouping::Key)),
        ("model", "MODEL", by(Grouping::Model)),
        ("pool_id", "POOL", by(Grouping::Pool)),
        ("from_ms", "FROM (MS)", by(Grouping::Day) || by(Grouping::Hour)),
    ];
    let sums = [
        ("tasks", "TASKS"),
        ("tokens_in", "TOKENS IN"),
        ("tokens_cached", "CACHED"),
        ("tokens_out", "TOKENS OUT"),
        ("queue_ms", "QUEUE MS"),
        ("engine_ms", "ENGINE MS"),
        ("cost", "COST"),
    ];
    let names: Vec<_> = names.into_iter().filter(|(.., there)| *there).map(|(name, head, _)| (name, head)).collect();
    let columns: Vec<_> = names.iter().copied().chain(sums).collect();
    let row = |group: &Value| columns.iter().map(|(name, _)| text(&group[*name])).collect::<Vec<_>>();
    let mut rows = vec![columns.iter().map(|(_, head)| (*head).to_owned()).collect()];
    rows.extend(usage["groups"].as_array().into_iter().flatten().map(row));
    let mut total = row(&usage["total"]);
    if let Some(first) = total.first_mut().filter(|_| !names.is_empty()) {
        *first = "total".to_owned();
    }
    total[1..names.len().max(1)].iter_mut().for_each(String::clear);
    rows.push(total);
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_stand_above_their_total() {
        let sums = json!({"tasks": 2, "tokens_in": 3, "tokens_cached": 0, "tokens_out": 4, "queue_ms": 0, "engine_ms": 5, "cost": 6});
        let mut group = sums.clone();
        group["tenant_id"] = "acme".into();
        group["model"] = "builtin".into();
        let usage = json!({"total": sums, "groups": [group]});
        insta::assert_snapshot!(table(&usage, &[Grouping::Model, Grouping::Tenant]), @r"
        TENANT  MODEL    TASKS  TOKENS IN  CACHED  TOKENS OUT  QUEUE MS  ENGINE MS  COST
        acme    builtin  2      3          0       4           0         5          6
        total            2      3          0       4           0         5          6
        ");
        insta::assert_snapshot!(table(&usage, &[]).lines().count(), @"3");
    }
}
