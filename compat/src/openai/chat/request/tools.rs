//! Tools and how they were spelled before.

use super::body::{CallBody, FunctionBody, FunctionChoice, ToolBody};
use crate::json::{Object, invalid, missing, one_of};
use crate::native::{ErrorEnvelope, FunctionCall, FunctionDefinition, Tool, ToolChoice};
use crate::openai::chat::context::ParamNames;

/// The tools and the choice among them; without tools, a choice that forces none says nothing and is left out.
///
/// # Errors
///
/// The first tool that is malformed.
pub fn translate(
    tools: Option<Vec<Object<ToolBody>>>,
    functions: Option<Vec<Object<FunctionBody>>>,
    choice: Option<ToolChoice>,
    function_call: Option<FunctionChoice>,
    names: &mut ParamNames,
) -> Result<(Option<Vec<Tool>>, Option<ToolChoice>), ErrorEnvelope> {
    if functions.is_some() || function_call.is_some() {
        names.use_legacy_tools();
    }
    let tools = indexed(tools.unwrap_or_default()).map(|(index, body)| tool(body, &format!("tools[{index}]")));
    let functions = indexed(functions.unwrap_or_default())
        .map(|(index, body)| definition(body, &format!("functions[{index}]")).map(of_function));
    let tools = tools.chain(functions).collect::<Result<Vec<_>, _>>()?;
    let choice = choice.map_or_else(|| function_call.map(legacy_choice).transpose(), |choice| Ok(Some(choice)))?;
    if tools.is_empty() {
        return Ok((None, choice.filter(|choice| !matches!(choice, ToolChoice::None | ToolChoice::Auto))));
    }
    Ok((Some(tools), choice))
}

/// # Errors
///
/// Where `kind`, the `type` of the tool or call at `path`, is not a function's.
pub fn only_functions(kind: Option<&str>, path: &str) -> Result<(), ErrorEnvelope> {
    match kind {
        None | Some("function") => Ok(()),
        Some(_) => Err(invalid(format!("{path}.type"), "the only type of tool that is served is 'function'")),
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

fn legacy_choice(choice: FunctionChoice) -> Result<ToolChoice, ErrorEnvelope> {
    match choice {
        FunctionChoice::Word(word) => {
            let words = [("none", false), ("auto", true)];
            one_of("function_call", &word, &words).map(|auto| if auto { ToolChoice::Auto } else { ToolChoice::None })
        }
        FunctionChoice::Named(name) => name.map(ToolChoice::Function).ok_or_else(|| missing("function_call.name")),
    }
}
