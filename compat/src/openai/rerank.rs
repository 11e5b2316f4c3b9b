//! `POST /v1/rerank`, as Jina, Cohere and vLLM have it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::extension::Extension;
use super::inputs::{self, InputUsage, Outcome};
use crate::json::{self, Object, StringOrObject, invalid, missing};
use crate::native::{ErrorCode, ErrorEnvelope, Input, TaskRequest, TaskResult, Workload};

/// The body on the wire. Null is the same as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    pub model: Option<String>,
    pub query: Option<String>,
    pub documents: Option<Vec<StringOrObject<DocumentBody>>>,
    pub top_n: Option<u32>,
    pub return_documents: Option<bool>,
    pub sluicegate: Option<Object<Extension>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DocumentBody {
    pub text: Option<String>,
}

/// The part of a request that shapes its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RerankContext {
    /// As the client named it.
    model: String,
    /// How many are wanted, the best first.
    top_n: usize,
    /// The documents, where the answer is to hold them.
    documents: Option<Vec<String>>,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`.
    pub ignored: Vec<String>,
}

/// Reads a body: the task that it asks for, and what its answer needs to know. Ranges are not checked yet: that is
/// [`TaskRequest::check`]'s.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param`.
pub fn parse(body: &[u8]) -> Result<(TaskRequest, RerankContext), ErrorEnvelope> {
    let (body, ignored) = json::parse::<Body>(body)?;
    let model = body.model.ok_or_else(|| missing("model"))?;
    let query = body.query.ok_or_else(|| missing("query"))?;
    let documents = body.documents.ok_or_else(|| missing("documents"))?;
    if body.top_n == Some(0) {
        return Err(invalid("top_n", "at least 1"));
    }
    let text = |(place, document)| match document {
        StringOrObject::String(text) => Ok(text),
        StringOrObject::Object(DocumentBody { text }) => {
            text.ok_or_else(|| missing(format!("documents[{place}].text")))
        }
    };
    let documents = documents.into_iter().enumerate().map(text).collect::<Result<Vec<String>, _>>()?;
    let kept = body.return_documents.unwrap_or(true).then(|| documents.clone());
    let mut task = TaskRequest::new(model.clone());
    (task.workload, task.query) = (Workload::Rerank, Some(query));
    task.inputs = Some(documents.into_iter().map(Input::Text).collect());
    if let Some(Object(extension)) = body.sluicegate {
        extension.apply(&mut task)?;
    }
    let top_n = body.top_n.map_or(usize::MAX, |top_n| usize::try_from(top_n).unwrap_or(usize::MAX));
    Ok((task, RerankContext { model, top_n, documents: kept, ignored }))
}

impl RerankContext {
    /// `envelope` with its `param` in the client's words: `inputs[2]` is `documents[2]`.
    #[must_use]
    pub fn rename(&self, envelope: ErrorEnvelope) -> ErrorEnvelope {
        inputs::rename(envelope, |place| format!("documents{place}"))
    }

    /// The body of the answer to a task that came to this.
    ///
    /// # Errors
    ///
    /// What the task ended with.
    pub fn answer(&self, task_id: Uuid, outcome: Outcome) -> Result<Reranked<'_>, ErrorEnvelope> {
        let (result, end) = outcome.finish()?;
        let TaskResult::Scores(scores) = result.as_ref() else {
            return Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has no scores."));
        };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Of those that fit as well the first one stays the first.
        order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
        order.truncate(self.top_n);
        let document = |index: usize| self.documents.as_ref()?.get(index).map(|text| Document { text });
        let result =
            |index: usize| RerankResult { index, relevance_score: scores[index].into(), document: document(index) };
        Ok(Reranked {
            id: format!("rerank-{task_id}"),
            object: "list",
            model: &self.model,
            results: order.into_iter().map(result).collect(),
            usage: InputUsage::from(end.as_ref()),
        })
    }
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reranked<'a> {
    id: String,
    object: &'static str,
    model: &'a str,
    /// The best first.
    results: Vec<RerankResult<'a>>,
    usage: InputUsage,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct RerankResult<'a> {
    /// Its place in the request.
    index: usize,
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Document<'a> {
    text: &'a str,
}
