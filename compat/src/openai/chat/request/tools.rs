//! Tools and how they were spelled before.

use std::collections::HashSet;

use super::body::{CallBody, ChoiceBody, FunctionBody, FunctionChoice, ToolBody};
use crate::json::{Object, StringOrObject, invalid, missing, not_served, one_of};
use crate::native::{ErrorEnvelope, FunctionCall, FunctionDefinition, Tool, ToolChoice, detail};
use crate::openai::chat::context::ParamNames;
use crate::openai::fields::ONLY_FUNCTIONS;

/// The tools and the choice among them; without tools, a choice that forces none says nothing and is left out.
///
/// # Errors
///
/// The first tool that is malformed.
pub fn translate(
    tools: Option<Vec<Object<ToolBody>>>,
    functions: Option<Vec<Object<FunctionBody>>>,
    choice: Option<StringOrObject<Object<ChoiceBody>>>,
    function_call: Option<FunctionChoice>,
    names: &mut ParamNames,
) -> Result<(Option<Vec<Tool>>, Option<ToolChoice>), ErrorEnvelope> {
    not_both(("functions", functions.is_some()), ("tools", tools.is_some()))?;
    not_both(("function_call", function_call.is_some()), ("tool_choice", choice.is_some()))?;
    if functions.is_some() || function_call.is_some() {
        names.use_legacy_tools();
    }
    let tools = indexed(tools.unwrap_or_default()).map(|(index, body)| tool(body, &format!("tools[{index}]")));
    let functions = indexed(functions.unwrap_or_default())
        .map(|(index, body)| definition(body, &format!("functions[{index}]")).map(of_function));
    let mut tools = tools.chain(functions).collect::<Result<Vec<_>, _>>()?;
    let choice = match choice {
        Some(choice) => Some(read_choice(choice, &mut tools)?),
        None => function_call.map(legacy_choice).transpose()?,
    };
    if tools.is_empty() {
        return Ok((None, choice.filter(|choice| !matches!(choice, ToolChoice::None | ToolChoice::Auto))));
    }
    Ok((Some(tools), choice))
}

/// A field and the one that has taken its place do not go together.
fn not_both((old, given): (&str, bool), (new, newer): (&str, bool)) -> Result<(), ErrorEnvelope> {
    if given && newer {
        let message =
            format!("Setting '{old}' and '{new}' together is not supported: '{old}' is the older form of '{new}'.");
        return Err(ErrorEnvelope::invalid(old, message).with_detail(detail::PARAMETER_COMBINATION));
    }
    Ok(())
}

/// # Errors
///
/// Where `kind`, the `type` of the tool or call at `path`, is not a function's.
pub fn only_functions(kind: Option<&str>, path: &str) -> Result<(), ErrorEnvelope> {
    match kind {
        None | Some("function") => Ok(()),
        Some(_) => Err(not_served(format!("{path}.type"), ONLY_FUNCTIONS)),
    }
}

/// # Errors
///
/// Where the call at `path` has no name or no arguments.
pub fn call(body: CallBody, path: &str) -> Result<FunctionCall, ErrorEnvelope> {
    Ok(FunctionCall {
        name: body.name.ok_or_else(|| missing(format!("{path}.name")))?,
        arguments: body.arguments.ok_or_else(|| missing(format!("{path}.arguments")))?,
    })
}

fn indexed<T>(list: Vec<Object<T>>) -> impl Iterator<Item = (usize, T)> {
    list.into_iter().map(|Object(body)| body).enumerate()
}

fn tool(body: ToolBody, path: &str) -> Result<Tool, ErrorEnvelope> {
    only_functions(body.r#type.as_deref(), path)?;
    let Object(function) = body.function.ok_or_else(|| missing(format!("{path}.function")))?;
    definition(function, &format!("{path}.function")).map(of_function)
}

fn definition(body: FunctionBody, path: &str) -> Result<FunctionDefinition, ErrorEnvelope> {
    let name = body.name.ok_or_else(|| missing(format!("{path}.name")))?;
    Ok(FunctionDefinition { name, description: body.description, parameters: body.parameters, strict: body.strict })
}

fn of_function(function: FunctionDefinition) -> Tool {
    Tool { r#type: Default::default(), function }
}

/// Takes the tools away that the choice does not allow.
fn read_choice(choice: StringOrObject<Object<ChoiceBody>>, tools: &mut Vec<Tool>) -> Result<ToolChoice, ErrorEnvelope> {
    let body = match choice {
        StringOrObject::String(word) => {
            return match word.as_str() {
                "none" => Ok(ToolChoice::None),
                "auto" => Ok(ToolChoice::Auto),
                "required" => Ok(ToolChoice::Required),
                _ => Err(invalid("tool_choice", "the words are 'none', 'auto' and 'required'")),
            };
        }
        StringOrObject::Object(Object(body)) => body,
    };
    match body.r#type.as_deref() {
        Some("function") => {
            let Object(function) = body.function.ok_or_else(|| missing("tool_choice.function"))?;
            function.name.map(ToolChoice::Function).ok_or_else(|| missing("tool_choice.function.name"))
        }
        Some("allowed_tools") => {
            let Object(allowed) = body.allowed_tools.ok_or_else(|| missing("tool_choice.allowed_tools"))?;
            let mode = allowed.mode.ok_or_else(|| missing("tool_choice.allowed_tools.mode"))?;
            let modes = [("auto", &ToolChoice::Auto), ("required", &ToolChoice::Required)];
            let choice = one_of("tool_choice.allowed_tools.mode", &mode, &modes)?.clone();
            let listed = allowed.tools.ok_or_else(|| missing("tool_choice.allowed_tools.tools"))?;
            let mut names = HashSet::new();
            for (index, body) in indexed(listed) {
                let path = format!("tool_choice.allowed_tools.tools[{index}]");
                let name = tool(body, &path)?.function.name;
                if !tools.iter().any(|tool| tool.function.name == name) {
                    return Err(invalid(format!("{path}.function.name"), "no tool has this name"));
                }
                names.insert(name);
            }
            tools.retain(|tool| names.contains(&tool.function.name));
            Ok(choice)
        }
        Some(_) => Err(not_served("tool_choice.type", ONLY_FUNCTIONS)),
        None => Err(missing("tool_choice.type")),
    }
}

fn legacy_choice(choice: FunctionChoice) -> Result<ToolChoice, ErrorEnvelope> {
    match choice {
        FunctionChoice::Word(word) => {
            let words = [("none", false), ("auto", true)];
            one_of("function_call", &word, &words).map(|auto| if auto { ToolChoice::Auto } else { ToolChoice::None })
        }
        FunctionChoice::Named(name) => name.map(ToolChoice::Function).ok_or_else(|| missing("function_call.name")),
    }
}
