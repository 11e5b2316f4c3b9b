//! Tools, and the choice among them.

use super::body::{ToolBody, ToolChoiceBody};
use crate::json::{Object, invalid, missing, one_of};
use crate::native::{ErrorEnvelope, FunctionDefinition, TaskRequest, Tool, ToolChoice, detail};

#[derive(Clone, Copy)]
enum Choice {
    Auto,
    Any,
    Tool,
    None,
}

/// Puts the tools, the choice among them, and whether several may be called at once into `task`; without tools, a choice that
/// forces none says nothing and is left out.
///
/// # Errors
///
/// The first tool that is malformed or is not served.
pub fn translate(
    task: &mut TaskRequest,
    tools: Vec<Object<ToolBody>>,
    choice: Option<Object<ToolChoiceBody>>,
) -> Result<(), ErrorEnvelope> {
    let tools = tools.into_iter().enumerate().map(|(index, Object(body))| tool(body, &format!("tools[{index}]")));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    let (choice, parallel) = choice.map(|Object(body)| choose(body)).transpose()?.unzip();
    let choice = choice.filter(|choice| !tools.is_empty() || !matches!(choice, ToolChoice::None | ToolChoice::Auto));
    task.tools = Some(tools).filter(|tools| !tools.is_empty());
    task.tool_choice = choice;
    task.parallel_tool_calls = parallel.flatten();
    Ok(())
}

fn tool(body: ToolBody, path: &str) -> Result<Tool, ErrorEnvelope> {
    if !matches!(body.r#type.as_deref(), None | Some("custom")) {
        let why = "the only type of tool that is served is 'custom': those that Anthropic's service runs or defines, such \
                   as web search, are not there";
        return Err(invalid(format!("{path}.type"), why).with_detail(detail::UNSUPPORTED_VALUE));
    }
    let function = FunctionDefinition {
        name: body.name.ok_or_else(|| missing(format!("{path}.name")))?,
        description: body.description,
        parameters: Some(body.input_schema.ok_or_else(|| missing(format!("{path}.input_schema")))?),
        strict: body.strict,
    };
    Ok(Tool { r#type: Default::default(), function })
}

fn choose(body: ToolChoiceBody) -> Result<(ToolChoice, Option<bool>), ErrorEnvelope> {
    let word = body.r#type.ok_or_else(|| missing("tool_choice.type"))?;
    let words = [("auto", Choice::Auto), ("any", Choice::Any), ("tool", Choice::Tool), ("none", Choice::None)];
    let choice = match one_of("tool_choice.type", &word, &words)? {
        Choice::Auto => ToolChoice::Auto,
        Choice::Any => ToolChoice::Required,
        Choice::Tool => ToolChoice::Function(body.name.ok_or_else(|| missing("tool_choice.name"))?),
        Choice::None => ToolChoice::None,
    };
    Ok((choice, body.disable_parallel_tool_use.map(|disable| !disable)))
}
