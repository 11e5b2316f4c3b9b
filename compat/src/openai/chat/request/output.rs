//! What the answer must look like: `response_format` and `modalities`.

use serde_json::Value;

use super::body::{JsonSchemaFormat, ResponseFormat};
use crate::json::{Object, missing, one_of, unsupported_value};
use crate::native::{ErrorEnvelope, OutputMode};

/// # Errors
///
/// A type that does not exist, or a schema without its parts.
pub fn translate(format: Option<Object<ResponseFormat>>) -> Result<(OutputMode, Option<Value>), ErrorEnvelope> {
    let Some(Object(format)) = format else { return Ok((OutputMode::Text, None)) };
    let word = format.r#type.ok_or_else(|| missing("response_format.type"))?;
    let words = [("text", Format::Text), ("json_object", Format::JsonObject), ("json_schema", Format::JsonSchema)];
    match one_of("response_format.type", &word, &words)? {
        Format::Text => Ok((OutputMode::Text, None)),
        Format::JsonObject => Ok((OutputMode::Json, None)),
        Format::JsonSchema => Ok((OutputMode::Json, schema(format.json_schema)?)),
    }
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    JsonObject,
    JsonSchema,
}

/// Without a schema, any object will do.
fn schema(format: Option<Object<JsonSchemaFormat>>) -> Result<Option<Value>, ErrorEnvelope> {
    let Object(format) = format.ok_or_else(|| missing("response_format.json_schema"))?;
    format.name.ok_or_else(|| missing("response_format.json_schema.name"))?;
    Ok(format.schema)
}

/// # Errors
///
/// Any output but text.
pub fn check_modalities(modalities: &[String]) -> Result<(), ErrorEnvelope> {
    for modality in modalities {
        if one_of("modalities", modality, &[("text", true), ("audio", false)])? {
            continue;
        }
        return Err(unsupported_value("modalities", "audio output"));
    }
    Ok(())
}
