//! `POST /v1/embeddings`.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize, Serializer};

use super::extension::Extension;
use super::fields;
use super::inputs::{self, InputBody, InputUsage, Outcome};
use crate::json::{self, Object, missing, one_of};
use crate::native::{End, ErrorCode, ErrorEnvelope, TaskRequest, TaskResult, Workload};

/// The body on the wire. Null is the same as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    pub model: Option<String>,
    pub input: Option<InputBody>,
    pub encoding_format: Option<String>,
    pub dimensions: Option<u32>,
    pub user: Option<String>,
    pub sluicegate: Option<Object<Extension>>,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Float,
    /// Of the numbers as 32-bit floats, the lowest byte first.
    Base64,
}

/// The part of a request that shapes its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingsContext {
    /// As the client named it.
    model: String,
    encoding: Encoding,
    /// `input` is one input, and no array of them.
    one: bool,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`.
    pub ignored: Vec<String>,
}

/// Reads a body: the task that it asks for, and what its answer needs to know. Ranges are not checked yet: that is
/// [`TaskRequest::check`]'s.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param`.
pub fn parse(body: &[u8]) -> Result<(TaskRequest, EmbeddingsContext), ErrorEnvelope> {
    let (body, mut ignored) = json::parse::<Body>(body)?;
    let model = body.model.ok_or_else(|| missing("model"))?;
    let formats = [("float", Encoding::Float), ("base64", Encoding::Base64)];
    let encoding = body.encoding_format.as_deref().map(|word| one_of("encoding_format", word, &formats)).transpose()?;
    let (inputs, one) = match body.input.ok_or_else(|| missing("input"))? {
        InputBody::One(input) => (vec![input], true),
        InputBody::Many(inputs) => (inputs, false),
    };
    let mut task = TaskRequest::new(model.clone());
    (task.workload, task.inputs, task.dimensions) = (Workload::Embedding, Some(inputs), body.dimensions);
    fields::note(&mut task, "user", body.user, &mut ignored);
    if let Some(Object(extension)) = body.sluicegate {
        extension.apply(&mut task)?;
    }
    Ok((task, EmbeddingsContext { model, encoding: encoding.unwrap_or(Encoding::Float), one, ignored }))
}

impl EmbeddingsContext {
    /// `envelope` with its `param` in the client's words: `inputs[2]` is `input[2]`, or `input` where there is one only.
    #[must_use]
    pub fn rename(&self, envelope: ErrorEnvelope) -> ErrorEnvelope {
        inputs::rename(envelope, |place| format!("input{}", if self.one { "" } else { place }))
    }

    /// The body of the answer to a task that came to this.
    ///
    /// # Errors
    ///
    /// What the task ended with.
    pub fn answer(&self, outcome: Outcome) -> Result<Embeddings, ErrorEnvelope> {
        let (result, end) = outcome.finish()?;
        match result.as_ref() {
            TaskResult::Embeddings(_) => {
                Ok(Embeddings { model: self.model.clone(), encoding: self.encoding, result, end })
            }
            TaskResult::Scores(_) => Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has no embeddings.")),
        }
    }
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    model: String,
    encoding: Encoding,
    result: Arc<TaskResult>,
    end: Arc<End>,
}

impl Serialize for Embeddings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct List<'a> {
            object: &'static str,
            data: Vec<Item<'a>>,
            model: &'a str,
            usage: InputUsage,
        }
        #[derive(Serialize)]
        struct Item<'a> {
            object: &'static str,
            index: usize,
            embedding: Vector<'a>,
        }
        let TaskResult::Embeddings(vectors) = self.result.as_ref() else {
            return Err(serde::ser::Error::custom("scores"));
        };
        let items = vectors.iter().enumerate();
        let data = items
            .map(|(index, vector)| Item { object: "embedding", index, embedding: Vector(vector, self.encoding) })
            .collect();
        List { object: "list", data, model: &self.model, usage: InputUsage::from(self.end.as_ref()) }
            .serialize(serializer)
    }
}

/// The numbers of one vector.
struct Vector<'a>(&'a [f32], Encoding);

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            // With all the digits that the number has: whoever reads it as a 64-bit float reads the very same number.
            Encoding::Float => serializer.collect_seq(self.0.iter().map(|number| f64::from(*number))),
            Encoding::Base64 => {
                let bytes: Vec<u8> = self.0.iter().flat_map(|number| number.to_le_bytes()).collect();
                serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
            }
        }
    }
}
