//! What tasks have used that have ended, from the ledger.

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, UsageGroup, UsageSums, UsageView};

use super::Gateway;
use crate::admission::Caller;
use crate::store::{Store, UsageQuery, UsageRow, signed};

/// Groups of an answer at most.
const MOST_GROUPS: usize = 10_000;

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What usage is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    Tenant,
    Key,
    Model,
    Pool,
    /// In UTC, as the hour.
    Day,
    Hour,
}

impl Grouping {
    pub const ALL: [Self; 6] = [Self::Tenant, Self::Key, Self::Model, Self::Pool, Self::Day, Self::Hour];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Model => "model",
            Self::Pool => "pool",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }
}

/// Which tasks are added up: by when they ended, and whose they were.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    pub from_ms: Option<u64>,
    /// Up to before it.
    pub to_ms: Option<u64>,
    pub tenant: Option<String>,
    pub key: Option<String>,
    pub model: Option<String>,
    pub pool: Option<String>,
    pub group_by: Vec<Grouping>,
}

impl Gateway {
    /// What tasks have used that have ended: of all tenants for an administrator, else of the caller's own.
    ///
    /// # Errors
    ///
    /// FORBIDDEN for another tenant's; INVALID_PARAMS where there are too many groups; INTERNAL where the store does not say.
    pub async fn usage(&self, caller: &Caller, filter: UsageFilter) -> Result<UsageView, ErrorEnvelope> {
        let own = caller.share.tenant.as_str();
        if !caller.is_admin && filter.tenant.as_deref().is_some_and(|tenant| tenant != own) {
            let message = "this takes an API key with the scope `admin`: others see the usage of their own tenant";
            return Err(ErrorEnvelope::new(ErrorCode::Forbidden, message));
        }
        let tenant = if caller.is_admin { filter.tenant } else { Some(own.to_owned()) };
        add_up(&self.store, UsageFilter { tenant, ..filter }).await
    }
}

/// Adds up what the ledger of a store has.
///
/// # Errors
///
/// INVALID_PARAMS where there are too many groups; INTERNAL where the store does not say.
pub async fn add_up(store: &Store, filter: UsageFilter) -> Result<UsageView, ErrorEnvelope> {
    let UsageFilter { from_ms, to_ms, tenant, key, model, pool, group_by } = filter;
    let by = |grouping| group_by.contains(&grouping);
    let query = UsageQuery {
        from_ms: signed(from_ms.unwrap_or(0)),
        to_ms: signed(to_ms.unwrap_or(u64::MAX)),
        tenant,
        api_key: key,
        model,
        pool,
        by_tenant: by(Grouping::Tenant),
        by_key: by(Grouping::Key),
        by_model: by(Grouping::Model),
        by_pool: by(Grouping::Pool),
        by_ms: if by(Grouping::Hour) {
            HOUR_MS
        } else if by(Grouping::Day) {
            DAY_MS
        } else {
            0
        },
        most: signed(MOST_GROUPS as u64 + 1),
    };
    let rows = store.usage(query.clone()).await.map_err(|error| {
        if let Some(away) = error.away() {
            return away;
        }
        tracing::error!(%error, "the ledger cannot be read");
        ErrorEnvelope::new(ErrorCode::Internal, "the ledger cannot be read now")
    })?;
    if rows.len() > MOST_GROUPS {
        let message =
            format!("`group_by`: there are more than {MOST_GROUPS} groups; ask for a shorter time or less of it");
        return Err(ErrorEnvelope::invalid("group_by", message));
    }
    let total = rows.iter().map(sums).fold(UsageSums::default(), UsageSums::plus);
    let groups = if group_by.is_empty() { Vec::new() } else { rows.iter().map(|row| group(&query, row)).collect() };
    Ok(UsageView { total, groups })
}

/// The groups, or the total where it is not grouped.
pub fn usage_rows(usage: UsageView, group_by: &[Grouping]) -> Vec<UsageGroup> {
    let total = UsageGroup { sums: usage.total, ..UsageGroup::default() };
    if group_by.is_empty() { vec![total] } else { usage.groups }
}

/// As CSV, with a line of names first.
///
/// # Errors
///
/// Where it cannot be written, which memory has room for.
pub fn usage_table(usage: UsageView, group_by: &[Grouping]) -> Result<Vec<u8>, csv::Error> {
    let by = |grouping| group_by.contains(&grouping);
    let columns = [
        ("tenant_id", by(Grouping::Tenant)),
        ("key_id", by(Grouping::Key)),
        ("model", by(Grouping::Model)),
        ("pool_id", by(Grouping::Pool)),
        ("from_ms", by(Grouping::Day) || by(Grouping::Hour)),
    ];
    let mut table = csv::Writer::from_writer(Vec::new());
    let names = columns.iter().filter(|(_, there)| *there).map(|(name, _)| *name);
    table.write_record(names.chain(usage.total.named().map(|(name, _)| name)))?;
    for row in usage_rows(usage, group_by) {
        let from = row.from_ms.map(|from| from.to_string());
        let names = [row.tenant_id, row.key_id, row.model, row.pool_id, from];
        let sums = row.sums.named().map(|(_, sum)| sum.to_string());
        table.write_record(names.into_iter().flatten().map(harmless).chain(sums))?;
    }
    table.into_inner().map_err(|error| error.into_error().into())
}

/// What a spreadsheet does not take for a formula.
fn harmless(name: String) -> String {
    if name.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{name}") } else { name }
}

fn sums(row: &UsageRow) -> UsageSums {
    UsageSums {
        tasks: row.tasks.cast_unsigned(),
        tokens_in: row.tokens_in.cast_unsigned(),
        tokens_cached: row.tokens_cached.cast_unsigned(),
        tokens_out: row.tokens_out.cast_unsigned(),
        queue_ms: row.queue_ms.cast_unsigned(),
        engine_ms: row.engine_ms.cast_unsigned(),
        cost: row.cost.cast_unsigned(),
    }
}

fn group(query: &UsageQuery, row: &UsageRow) -> UsageGroup {
    let named = |wanted: bool, name: &String| wanted.then(|| name.clone());
    UsageGroup {
        tenant_id: named(query.by_tenant, &row.tenant),
        key_id: named(query.by_key, &row.api_key),
        model: named(query.by_model, &row.model),
        pool_id: named(query.by_pool, &row.pool),
        from_ms: (query.by_ms > 0).then(|| row.bucket.saturating_mul(query.by_ms).cast_unsigned()),
        sums: sums(row),
    }
}
