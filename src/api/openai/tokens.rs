//! `POST /tokenize` and `POST /detokenize`. They make no task.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::openai::tokens::{self, Detokenized, Tokenized};

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{heeded, passed_over, written};
use crate::api::body::Json;
use crate::api::errors::Failure;
use crate::gateway::Wanted;

/// `POST /v1/tokenize`.
pub async fn tokenize(State(api): State<Api>, caller: Caller, body: Json) -> Result<Response, Failure> {
    let (request, context) = body.read(&api, tokens::parse).await?;
    heeded(&api, &context.ignored)?;
    let wanted = Wanted { special: context.add_special_tokens, names: context.return_token_strs };
    let told = api.gateway.tokenize(request, wanted, &caller).await.map_err(tokens::rename)?;
    let bytes = size_of_val(told.ids.as_ref());
    let write = move || {
        let (count, max_model_len, token_strs) = (told.ids.len(), told.context_length, told.names.as_deref());
        Ok(axum::Json(Tokenized { count, max_model_len, tokens: &told.ids, token_strs }).into_response())
    };
    let mut response = written(&api, bytes, write).await?;
    response.headers_mut().extend(passed_over(&context.ignored));
    Ok(response)
}

/// `POST /v1/detokenize`.
pub async fn detokenize(State(api): State<Api>, caller: Caller, body: Json) -> Result<Response, Failure> {
    let request = body.read(&api, tokens::parse_tokens).await?;
    heeded(&api, &request.ignored)?;
    let prompt = api.gateway.detokenize(&request.model, request.tokens, &caller).await.map_err(tokens::rename)?;
    let bytes = prompt.len();
    let write = move || Ok(axum::Json(Detokenized { prompt }).into_response());
    let mut response = written(&api, bytes, write).await?;
    response.headers_mut().extend(passed_over(&request.ignored));
    Ok(response)
}
