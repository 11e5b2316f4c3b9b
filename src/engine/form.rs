//! What an answer has to look like, and how it is read: tools that may or must be called, reasoning apart, a grammar.

use std::sync::Arc;

use sluicegate_compat::native::{FunctionDefinition, Tool};

/// How the text of a sequence is to be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Reading {
    /// All of it is text.
    #[default]
    Plain,
    /// As the answer in a conversation: reasoning stands apart, and so do calls where some may be made.
    Answer(Option<Arc<Calling>>),
}

/// Which tools an answer may call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calling {
    pub tools: Vec<Tool>,
    /// More than once in one answer.
    pub parallel: bool,
    pub choice: Choice,
}

/// Whether a tool has to be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    #[default]
    Free,
    /// Any of them.
    Required,
    /// This one.
    Named(String),
}

impl Calling {
    /// The function of this name, if it is offered.
    pub fn function(&self, name: &str) -> Option<&FunctionDefinition> {
        self.tools.iter().map(|tool| &tool.function).find(|function| function.name == name)
    }

    /// Whether calls are held to a grammar.
    pub fn is_held(&self) -> bool {
        self.choice != Choice::Free || self.is_strict()
    }

    /// Whether a function's arguments have to keep to its schema.
    pub fn is_strict(&self) -> bool {
        self.tools.iter().any(|tool| tool.function.strict == Some(true))
    }
}

/// What the text must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits this schema.
    JsonSchema(serde_json::Value),
}

/// What an answer cannot be held to; the message is meant for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unheld {
    /// The schema that it is about, as a path into the native request.
    pub param: String,
    pub message: String,
}
