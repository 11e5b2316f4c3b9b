//! Inputs that a server embeds, some in each request, or scores, all in one: what it says of one may depend on the others.

use reqwest::Response;
use serde::{Deserialize, Serialize};
use sluicegate_compat::native::TaskResult;
use tokio::time::Instant;

use super::RemoteEngine;
use crate::engine::{EngineError, Evaluated, Evaluation, Prepared, Prompt};

/// Inputs to embed in one request at most: what a server has to do before it answers stays short, and so does its answer.
const INPUTS_AT_ONCE: usize = 32;

/// Bytes of an answer at most: for a vector (some 10,000 numbers with all their digits), for a score, and for all else.
const BYTES_PER_VECTOR: usize = 256 << 10;
const BYTES_PER_SCORE: usize = 1 << 10;
const BYTES_BESIDE: usize = 64 << 10;

/// A byte of a text that the server repeats has so many at most in JSON.
const ESCAPED: usize = 6;

/// Has a batch embedded, or scored where it has a query.
pub async fn run(
    engine: &RemoteEngine,
    evaluation: Evaluation,
    done: &mut (dyn FnMut() + Send),
) -> Result<Evaluated, EngineError> {
    let _running = engine.meter.sequence();
    let began = Instant::now();
    let work = async {
        match &evaluation.batch.query {
            None => vectors(engine, &evaluation, done).await,
            Some(query) => scores(engine, &evaluation, query, done).await,
        }
    };
    // Dropping the work closes the connection, which is how a server is told to stop.
    let answered = tokio::select! {
        biased;
        () = evaluation.cancel.cancelled() => return Ok(Evaluated { result: None, took: began.elapsed(), tokens_in: None }),
        () = engine.closed.cancelled() => Err(EngineError::Reset),
        answered = work => answered,
    };
    let (result, told) = answered?;
    engine.note(None);
    // Where the tokenizer is known there is nothing to be told.
    let tokens_in = told.filter(|_| !engine.counter.is_exact());
    Ok(Evaluated { result: Some(result), took: began.elapsed(), tokens_in })
}

#[derive(Serialize)]
struct ToEmbed<'a> {
    model: &'a str,
    input: Vec<&'a str>,
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

#[derive(Serialize)]
struct ToScore<'a> {
    model: &'a str,
    query: &'a str,
    documents: Vec<&'a str>,
    top_n: usize,
    return_documents: bool,
}

/// Fields that are not known are passed over; those that are known must have their type.
#[derive(Deserialize)]
struct Embedded {
    data: Vec<Vector>,
    /// Of whatever type: it is only believed as far as it goes.
    #[serde(default)]
    usage: serde_json::Value,
}

#[derive(Deserialize)]
struct Vector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Scored {
    results: Vec<Score>,
    #[serde(default)]
    usage: serde_json::Value,
}

#[derive(Deserialize)]
struct Score {
    index: usize,
    relevance_score: f32,
}

type Answer = (TaskResult, Option<u32>);

async fn vectors(
    engine: &RemoteEngine,
    evaluation: &Evaluation,
    done: &mut (dyn FnMut() + Send),
) -> Result<Answer, EngineError> {
    let (batch, dimensions) = (evaluation.batch.as_ref(), evaluation.dimensions);
    let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(batch.inputs.len());
    let mut tokens = Some(0_u32);
    for inputs in batch.inputs.chunks(INPUTS_AT_ONCE) {
        let body = ToEmbed { model: &engine.spec.model, input: texts(inputs)?, encoding_format: "float", dimensions };
        let response = post(engine, "embeddings", evaluation, &body).await?;
        let Embedded { data, usage } = engine.whole(response, inputs.len() * BYTES_PER_VECTOR + BYTES_BESIDE).await?;
        let more = in_order(data.into_iter().map(|vector| (vector.index, vector.embedding)), inputs.len());
        let more = more.ok_or_else(|| engine.failed(&"not one vector for each input", vectors.len()))?;
        let length = vectors.first().unwrap_or(&more[0]).len();
        if more.iter().any(|vector| vector.len() != length || !sound(vector)) {
            return Err(engine.failed(&"vectors of unequal lengths, or of something else than numbers", vectors.len()));
        }
        vectors.extend(more);
        tokens = tokens.zip(told(&usage, inputs.iter())).map(|(sum, more)| sum.saturating_add(more));
        done();
    }
    Ok((TaskResult::Embeddings(vectors), tokens))
}

async fn scores(
    engine: &RemoteEngine,
    evaluation: &Evaluation,
    query: &Prepared,
    done: &mut (dyn FnMut() + Send),
) -> Result<Answer, EngineError> {
    let batch = evaluation.batch.as_ref();
    let documents = texts(&batch.inputs)?;
    let (top_n, bytes) = (documents.len(), documents.iter().map(|document| document.len()).sum::<usize>());
    let body = ToScore { model: &engine.spec.model, query: text(query)?, documents, top_n, return_documents: false };
    let response = post(engine, "rerank", evaluation, &body).await?;
    let most = bytes * ESCAPED + top_n * BYTES_PER_SCORE + BYTES_BESIDE;
    let Scored { results, usage } = engine.whole(response, most).await?;
    let scores = in_order(results.into_iter().map(|score| (score.index, score.relevance_score)), top_n);
    let scores = scores.filter(|scores| sound(scores));
    let scores = scores.ok_or_else(|| engine.failed(&"not one number for each document", 0))?;
    done();
    Ok((TaskResult::Scores(scores), told(&usage, batch.inputs.iter().chain(&batch.query))))
}

async fn post(
    engine: &RemoteEngine,
    path: &str,
    of: &Evaluation,
    body: &(impl Serialize + Sync),
) -> Result<Response, EngineError> {
    let body = serde_json::to_vec(body).map_err(|_| EngineError::Rejected)?;
    engine.ask((path, "application/json"), of.correlation_id.as_ref(), body).await
}

fn texts(inputs: &[Prepared]) -> Result<Vec<&str>, EngineError> {
    inputs.iter().map(text).collect()
}

fn text(input: &Prepared) -> Result<&str, EngineError> {
    match input {
        Prepared::Content { prompt, .. } => match prompt.as_ref() {
            Prompt::Text(text) => Ok(text),
            _ => Err(EngineError::Rejected),
        },
        Prepared::Ids(_) | Prepared::Shown { .. } => Err(EngineError::Rejected),
    }
}

/// What belongs to each of `count` places; `None` where one of them has nothing, or more than one thing.
fn in_order<T>(items: impl IntoIterator<Item = (usize, T)>, count: usize) -> Option<Vec<T>> {
    let mut places: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    for (index, item) in items {
        if places.get_mut(index)?.replace(item).is_some() {
            return None;
        }
    }
    places.into_iter().collect()
}

fn sound(numbers: &[f32]) -> bool {
    !numbers.is_empty() && numbers.iter().all(|number| number.is_finite())
}

/// The tokens that the server says these have: no fewer than there are inputs, and no more than they can have.
fn told<'a>(usage: &serde_json::Value, inputs: impl Iterator<Item = &'a Prepared> + Clone) -> Option<u32> {
    // Jina and vLLM have only the sum, which is the same where there is no output.
    let told = ["prompt_tokens", "total_tokens"].into_iter().find_map(|name| usage[name].as_u64())?;
    let (least, most) = (inputs.clone().count(), inputs.map(Prepared::len).sum::<usize>());
    let tokens = usize::try_from(told).unwrap_or(usize::MAX).clamp(least.min(most), most);
    u32::try_from(tokens).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_place_gets_the_one_thing_that_is_meant_for_it() {
        assert_eq!(in_order([(1, 'b'), (0, 'a')], 2), Some(vec!['a', 'b']));
        for wrong in
            [vec![(0, 'a')], vec![(0, 'a'), (0, 'b')], vec![(0, 'a'), (2, 'b')], vec![(0, 'a'), (1, 'b'), (1, 'c')]]
        {
            assert_eq!(in_order(wrong.clone(), 2), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_a_server_counts_is_believed_within_what_the_inputs_can_have() {
        let prompt = Arc::new(Prompt::Text("ab".into()));
        let inputs = vec![Prepared::Content { prompt, tokens: 10 }; 2];
        for (usage, tokens) in [
            (json!({"prompt_tokens": 7, "total_tokens": 9}), Some(7)),
            (json!({"total_tokens": 9}), Some(9)),
            (json!({"prompt_tokens": 0}), Some(2)),
            (json!({"prompt_tokens": u64::MAX}), Some(20)),
            (json!({"prompt_tokens": -1}), None),
            (json!({"prompt_tokens": "7"}), None),
            (json!("much"), None),
            (json!(null), None),
        ] {
            assert_eq!(told(&usage, inputs.iter()), tokens, "{usage}");
        }
    }
}
