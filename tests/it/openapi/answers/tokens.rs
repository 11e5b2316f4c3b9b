//! Every documented answer to texts as tokens and tokens as texts.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::text::TextModel;
use sluicegate::engine::{Engine, Room};

use crate::harness::{Gate, Watched, request};
use crate::openapi::witness::Witness;

const TOKENIZE: (&str, &str) =
    ("/v1/tokenize", r#"{"model": "builtin", "prompt": "a", "return_token_strs": true, "why": 1}"#);
pub(super) const DETOKENIZE: (&str, &str) = ("/v1/detokenize", r#"{"model": "builtin", "tokens": [0], "why": 1}"#);

/// One word.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;

fn make(_: u32) -> Arc<dyn Engine> {
    let text = TextModel::new(TOKENIZER.parse().unwrap(), None, 1);
    Arc::new(Watched { text: Some(text), ..Watched::new(ScriptedEngine::new(Script::default())) })
}

pub(super) async fn see(witness: &mut Witness) {
    let gate = Gate::loading_any(Arc::new(|number| Ok(make(number))), Arc::new(|_| Ok(Room::Beside)), &[]).await;
    for (path, body) in [TOKENIZE, DETOKENIZE] {
        for (body, status) in [
            (body.to_owned(), StatusCode::OK),
            ("{}".to_owned(), StatusCode::BAD_REQUEST),
            (body.replace("builtin", "gpt-9"), StatusCode::NOT_FOUND),
        ] {
            assert_eq!(witness.post(&gate, path, &body).await.0.status, status, "{path} {body}");
        }
    }
    gate.finish().await;
    let limit = [("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")];
    let nobody = r#"[{ id = "default", engine = "scripted", model = "builtin-embedding" }]"#;
    for (path, body) in [TOKENIZE, DETOKENIZE] {
        let gate = Gate::with(Script::default(), &limit).await;
        let (answer, _) = witness.post(&gate, path, &" ".repeat(2001)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        let mut form = request("POST", path, Body::from(body));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        gate.finish().await;
        let gate = Gate::with(Script::default(), &[("SLUICEGATE_POOLS", nobody)]).await;
        assert_eq!(witness.post(&gate, path, body).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
        gate.finish().await;
    }
}
