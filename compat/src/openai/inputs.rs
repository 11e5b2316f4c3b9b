//! What endpoints have in common that take lists of texts or token ids: how these are written, and for embeddings and rerank
//! how a task ends that has one result, and what it cost.

use std::fmt;
use std::sync::Arc;

use serde::de::{Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{canceled, extension};
use crate::native::{End, ErrorCode, ErrorEnvelope, Event, FinishReason, Input, TaskResult};

/// A string, an array of token ids, or an array of either.
#[derive(Debug)]
pub enum InputBody {
    One(Input),
    Many(Vec<Input>),
}

/// Collects the events of one task.
#[derive(Debug, Default)]
pub struct Outcome {
    result: Option<Arc<TaskResult>>,
    end: Option<Result<Arc<End>, ErrorEnvelope>>,
}

impl Outcome {
    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Result(result) => self.result = Some(Arc::clone(result)),
            Event::End(end) => self.end = Some(Ok(Arc::clone(end))),
            Event::Error(error) => self.end = Some(Err(error.as_ref().clone())),
            Event::Started(_) | Event::Token(_) | Event::Metrics(_) => {}
        }
    }

    /// The result, and how the task ended that has it.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn finish(self) -> Result<(Arc<TaskResult>, Arc<End>), ErrorEnvelope> {
        let unfinished = || Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
        let end = self.end.unwrap_or_else(unfinished)?;
        if end.finish_reason == FinishReason::Canceled {
            return Err(canceled(&end));
        }
        let result = self.result.ok_or_else(|| ErrorEnvelope::new(ErrorCode::Internal, "The task has no result."))?;
        Ok((result, end))
    }
}

/// `envelope` with its `param` in the client's words; `inputs` says what stands for `inputs` with this place behind it.
#[must_use]
pub fn rename(envelope: ErrorEnvelope, inputs: impl FnOnce(&str) -> String) -> ErrorEnvelope {
    super::rename(envelope, |native| match native.strip_prefix("inputs") {
        Some(place) => inputs(place),
        None if matches!(native, "model_ref" | "workload") => "model".to_owned(),
        None if native == "priority" => "sluicegate.priority".to_owned(),
        None => extension::param(native).unwrap_or_else(|| native.to_owned()),
    })
}

/// The `usage` of an answer without output. All in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

impl From<&End> for InputUsage {
    fn from(end: &End) -> Self {
        Self { prompt_tokens: end.tokens_in, total_tokens: end.tokens_in.saturating_add(end.tokens_out) }
    }
}

impl<'de> Deserialize<'de> for InputBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;

        impl<'de> Visitor<'de> for InputVisitor {
            type Value = InputBody;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<InputBody, E> {
                Ok(InputBody::One(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<InputBody, A::Error> {
                let (mut inputs, mut tokens) = (Vec::new(), Vec::new());
                while let Some(element) = list.next_element()? {
                    match element {
                        Element::Token(id) if inputs.is_empty() => tokens.push(id),
                        Element::Input(input) if tokens.is_empty() => inputs.push(input),
                        _ => {
                            return Err(A::Error::custom(
                                "an array holds either token ids, or strings and arrays of them",
                            ));
                        }
                    }
                }
                Ok(if tokens.is_empty() { InputBody::Many(inputs) } else { InputBody::One(Input::Tokens(tokens)) })
            }
        }

        deserializer.deserialize_any(InputVisitor)
    }
}

/// What stands in an array.
enum Element {
    Token(u32),
    Input(Input),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
                u32::deserialize(id.into_deserializer()).map(Element::Token)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Input(text.into()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
                Ok(Element::Input(Input::Text(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, ids: A) -> Result<Element, A::Error> {
                Input::deserialize(serde::de::value::SeqAccessDeserializer::new(ids)).map(Element::Input)
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}
