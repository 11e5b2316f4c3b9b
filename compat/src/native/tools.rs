//! What a request may offer as tools.

use std::collections::BTreeSet;

use super::request::Violation;
use super::{Tool, ToolChoice, schema};

/// Tools of one request, as in the OpenAI API.
const MOST: usize = 128;

/// Bytes of what a tool is said to do.
const LONGEST_DESCRIPTION: usize = 16 << 10;

/// # Errors
///
/// The first tool that is not one, or a choice that no tool fits.
pub fn check(tools: &[Tool], choice: Option<&ToolChoice>) -> Result<(), Violation> {
    let violation = |param: &'static str, message| Err(Violation { param: param.into(), message });
    if tools.is_empty() && choice.is_some() {
        return violation("tool_choice", "there are no tools to choose from");
    }
    if tools.len() > MOST {
        return violation("tools", "at most 128 tools");
    }
    // Whose arguments a grammar holds to their schemas: of all, as soon as it is made for one.
    let forced = matches!(choice, Some(ToolChoice::Required | ToolChoice::Function(_)));
    let held = choice != Some(&ToolChoice::None) && (forced || tools.iter().any(is_strict));
    let (mut names, mut taken) = (BTreeSet::new(), schema::Steps::default());
    for (index, tool) in tools.iter().enumerate() {
        let function = &tool.function;
        let wrong = if !is_name(&function.name) {
            Some(("name", "1 to 128 letters, digits, underscores and hyphens"))
        } else if !names.insert(function.name.as_str()) {
            Some(("name", "another tool has this name"))
        } else if function.description.as_ref().is_some_and(|text| text.len() > LONGEST_DESCRIPTION) {
            Some(("description", "at most 16,384 bytes"))
        } else if function.parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
            Some(("parameters", "a JSON schema is an object"))
        } else {
            None
        };
        if let Some((field, message)) = wrong {
            return Err(Violation { param: format!("tools[{index}].function.{field}").into(), message });
        }
        if let Some(schema) = function.parameters.as_ref().filter(|_| held) {
            let place = format!("tools[{index}].function.parameters");
            let check = if is_strict(tool) { schema::check } else { schema::check_loosely };
            check(schema, &place, &mut taken)?;
            schema::check_takes_objects(schema, &place)?;
        }
    }
    match choice {
        Some(ToolChoice::Function(name)) if !names.contains(name.as_str()) => {
            violation("tool_choice", "no tool has this name")
        }
        _ => Ok(()),
    }
}

fn is_strict(tool: &Tool) -> bool {
    tool.function.strict == Some(true)
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools(functions: &serde_json::Value) -> Vec<Tool> {
        let tool = |function: &serde_json::Value| json!({"type": "function", "function": function});
        serde_json::from_value(functions.as_array().unwrap().iter().map(tool).collect()).unwrap()
    }

    #[test]
    fn each_tool_that_is_none_is_named() {
        let long = "a".repeat(129);
        let cases = [
            (json!([{"name": "a"}, {"name": "b c"}]), "tools[1].function.name"),
            (json!([{"name": ""}]), "tools[0].function.name"),
            (json!([{"name": long}]), "tools[0].function.name"),
            (json!([{"name": "a"}, {"name": "b"}, {"name": "a"}]), "tools[2].function.name"),
            (json!([{"name": "a", "parameters": [1]}]), "tools[0].function.parameters"),
            (json!([{"name": "a", "description": "x".repeat(20_000)}]), "tools[0].function.description"),
            (json!((0..129).map(|n| json!({"name": format!("f{n}")})).collect::<Vec<_>>()), "tools"),
        ];
        for (functions, param) in cases {
            assert_eq!(check(&tools(&functions), None).unwrap_err().param, param);
        }
    }

    #[test]
    fn schemas_are_looked_at_where_they_are_held() {
        let odd = json!({"properties": {"x": {"not": {}}}});
        let of = |strict: bool| tools(&json!([{"name": "a", "strict": strict, "parameters": odd}]));
        let place = "tools[0].function.parameters.properties.x.not";
        assert_eq!(check(&of(true), None).unwrap_err().param, place);
        check(&of(true), Some(&ToolChoice::None)).unwrap();
        check(&of(false), Some(&ToolChoice::Required)).unwrap();
        let endless = tools(&json!([{"name": "a", "parameters": {"$ref": "#"}}]));
        check(&endless, None).unwrap();
        assert_eq!(
            check(&endless, Some(&ToolChoice::Required)).unwrap_err().param,
            "tools[0].function.parameters.$ref"
        );
    }

    #[test]
    fn arguments_that_are_held_are_an_object() {
        let none = [
            json!({"type": "string"}),
            json!({"type": ["array", "null"]}),
            json!({"enum": [1, "a"]}),
            json!({"const": null}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}),
            json!({"allOf": [{"type": "object"}, {"anyOf": [{"type": "string"}, {"const": 1}]}]}),
        ];
        for schema in none {
            let tools = tools(&json!([{"name": "a"}, {"name": "b", "parameters": schema}]));
            let refused = check(&tools, Some(&ToolChoice::Required)).unwrap_err();
            assert_eq!(refused.param, "tools[1].function.parameters", "{schema}");
            assert!(refused.message.contains("are an object"), "{}", refused.message);
            check(&tools, None).unwrap();
        }
        let some = [
            json!({}),
            json!({"type": ["object", "null"]}),
            json!({"enum": [1, {"a": 1}]}),
            json!({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": {}}}}),
        ];
        for schema in some {
            let tools = tools(&json!([{"name": "a", "parameters": schema}]));
            check(&tools, Some(&ToolChoice::Required)).unwrap();
        }
    }

    #[test]
    fn a_choice_names_a_tool_that_is_there() {
        let tools = tools(&json!([{"name": "a", "parameters": {}}, {"name": "get-b_2", "description": "gets b"}]));
        let named = |name: &str| ToolChoice::Function(name.into());
        for choice in [None, Some(ToolChoice::Auto), Some(ToolChoice::Required), Some(named("a"))] {
            check(&tools, choice.as_ref()).unwrap();
        }
        assert_eq!(check(&tools, Some(&named("c"))).unwrap_err().param, "tool_choice");
        assert_eq!(check(&[], Some(&ToolChoice::Required)).unwrap_err().param, "tool_choice");
        check(&[], None).unwrap();
    }
}
