//! `GET /v2/usage`: what tasks have used that have ended, as JSON, CSV or JSON lines.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, UsageGroup, UsageView};

use super::Api;
use super::errors::Failure;
use super::native::{Parameters, pairs};
use crate::admission::Caller;
use crate::gateway::{Grouping, UsageFilter};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    JsonLines,
}

/// `GET /v2/usage`.
pub async fn usage(State(api): State<Api>, caller: Caller, query: Parameters) -> Result<Response, Failure> {
    let (filter, format) = filter(query)?;
    let group_by = filter.group_by.clone();
    let usage = api.gateway.usage(&caller, filter).await?;
    Ok(match format {
        Format::Json => axum::Json(usage).into_response(),
        Format::JsonLines => {
            let lines = lines(usage, &group_by).map_err(|error| unwritable(&error))?;
            ([(CONTENT_TYPE, "application/jsonl")], lines).into_response()
        }
        Format::Csv => {
            let table = table(usage, &group_by).map_err(|error| unwritable(&error))?;
            ([(CONTENT_TYPE, "text/csv")], table).into_response()
        }
    })
}

fn filter(query: Parameters) -> Result<(UsageFilter, Format), ErrorEnvelope> {
    let (mut filter, mut format) = (UsageFilter::default(), Format::Json);
    for (name, value) in pairs(query, &[])? {
        let invalid = |message: &str| ErrorEnvelope::invalid(name.clone(), format!("`{name}` {message}"));
        let time = || value.parse().map_err(|_| invalid("is a Unix time in ms"));
        match name.as_str() {
            "from_ms" => filter.from_ms = Some(time()?),
            "to_ms" => filter.to_ms = Some(time()?),
            "tenant_id" => filter.tenant = Some(value),
            "key_id" => filter.key = Some(value),
            "model" => filter.model = Some(value),
            "pool_id" => filter.pool = Some(value),
            "group_by" => {
                for word in value.split(',') {
                    let grouping = Grouping::ALL.into_iter().find(|grouping| grouping.as_str() == word);
                    let names = Grouping::ALL.map(Grouping::as_str).join(", ");
                    let unknown = || invalid(&format!("has some of {names}, with commas between"));
                    filter.group_by.push(grouping.ok_or_else(unknown)?);
                }
            }
            "format" => {
                format = match value.as_str() {
                    "json" => Format::Json,
                    "csv" => Format::Csv,
                    "jsonl" => Format::JsonLines,
                    _ => return Err(invalid("is one of json, csv, jsonl")),
                }
            }
            _ => return Err(invalid("is not a parameter of usage")),
        }
    }
    // What has a NUL in it is nobody's name, and no database takes it.
    let names = [&mut filter.tenant, &mut filter.key, &mut filter.model, &mut filter.pool];
    for name in names.into_iter().flatten() {
        name.retain(|char| char != '\0');
    }
    Ok((filter, format))
}

/// The groups, or the total where it is not grouped.
fn rows(usage: UsageView, group_by: &[Grouping]) -> Vec<UsageGroup> {
    let total = UsageGroup { sums: usage.total, ..UsageGroup::default() };
    if group_by.is_empty() { vec![total] } else { usage.groups }
}

fn lines(usage: UsageView, group_by: &[Grouping]) -> serde_json::Result<String> {
    let mut lines = String::new();
    for row in rows(usage, group_by) {
        lines += &serde_json::to_string(&row)?;
        lines.push('\n');
    }
    Ok(lines)
}

/// With a line of names first.
fn table(usage: UsageView, group_by: &[Grouping]) -> Result<Vec<u8>, csv::Error> {
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
    for row in rows(usage, group_by) {
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

fn unwritable(error: &dyn std::error::Error) -> ErrorEnvelope {
    tracing::error!(%error, "usage cannot be written");
    ErrorEnvelope::new(ErrorCode::Internal, "the usage cannot be written")
}
