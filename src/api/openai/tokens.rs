//! `POST /tokenize` and `POST /detokenize`. They make no task.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::openai::tokens::{self, Detokenized, Tokenized};

use crate::api::Api;
use crate::api::answer::{heeded, passed_over};
use crate::api::body::Json;
use crate::api::errors::{Failure, internal};
use crate::gateway::Wanted;

/// `POST /v1/tokenize`.
pub async fn tokenize(State(api): State<Api>, Json(body): Json) -> Result<Response, Failure> {
    let (request, context) = tokens::parse(&body)?;
    heeded(&api, &context.ignored)?;
    drop(body);
    let wanted = Wanted { special: context.add_special_tokens, names: context.return_token_strs };
    let told = api.gateway.tokenize(request, wanted).await.map_err(tokens::rename)?;
    let bytes = size_of_val(told.ids.as_ref());
    let write = move || {
        let (count, max_model_len, token_strs) = (told.ids.len(), told.context_length, told.names.as_deref());
        axum::Json(Tokenized { count, max_model_len, tokens: &told.ids, token_strs }).into_response()
    };
    let mut response = api.gateway.lifecycle.sized("answer", bytes, write).await.map_err(internal)?;
    response.headers_mut().extend(passed_over(&context.ignored));
    Ok(response)
}

/// `POST /v1/detokenize`.
pub async fn detokenize(State(api): State<Api>, Json(body): Json) -> Result<Response, Failure> {
    let request = tokens::parse_tokens(&body)?;
    heeded(&api, &request.ignored)?;
    drop(body);
    let prompt = api.gateway.detokenize(&request.model, request.tokens).await.map_err(tokens::rename)?;
    let mut response = axum::Json(Detokenized { prompt }).into_response();
    response.headers_mut().extend(passed_over(&request.ignored));
    Ok(response)
}
