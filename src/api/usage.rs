//! `GET /v2/usage`: what tasks have used that have ended, as JSON, CSV or JSON lines.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, UsageView};

use super::Api;
use super::errors::Failure;
use super::native::{Parameters, pairs};
use crate::admission::Caller;
use crate::gateway::{Grouping, UsageFilter, usage_rows, usage_table};

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
            let table = usage_table(usage, &group_by).map_err(|error| unwritable(&error))?;
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

fn lines(usage: UsageView, group_by: &[Grouping]) -> serde_json::Result<String> {
    let mut lines = String::new();
    for row in usage_rows(usage, group_by) {
        lines += &serde_json::to_string(&row)?;
        lines.push('\n');
    }
    Ok(lines)
}

fn unwritable(error: &dyn std::error::Error) -> ErrorEnvelope {
    tracing::error!(%error, "usage cannot be written");
    ErrorEnvelope::new(ErrorCode::Internal, "the usage cannot be written")
}
