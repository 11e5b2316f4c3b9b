//! Grammars in the engine's terms.

use mistralrs::Constraint;
use serde_json::{Map, Value, json};

use crate::engine::Grammar;

/// White space that may stand between two parts of a JSON text: without a bound, an unsure model writes it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,16}";

/// The engine's constraint for `grammar`.
pub fn constraint(grammar: Option<&Grammar>) -> Constraint {
    match grammar {
        None => Constraint::None,
        Some(Grammar::JsonObject) => Constraint::JsonSchema(bounded(json!({"type": "object"}))),
        Some(Grammar::JsonSchema(schema)) => Constraint::JsonSchema(bounded(schema.clone())),
    }
}

/// The schema with the options of the grammar compiler, which are ours and not the caller's.
fn bounded(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Map::new(),
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    fields.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE}));
    fields.into()
}
