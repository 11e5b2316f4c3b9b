//! What the chunks of a stream have in common, whichever endpoint it is of.

use serde::Serialize;

use super::chat::{ChunkMeta, ServiceTier};
use super::error::ErrorBody;
use crate::native::ErrorEnvelope;
use crate::sse;

/// The beginning of every chunk: from `data: ` to the opening bracket of `choices`.
pub fn head(object: &'static str, model: &str, meta: &ChunkMeta, service_tier: Option<ServiceTier>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Head<'a> {
        id: &'a str,
        object: &'static str,
        created: u64,
        model: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        service_tier: Option<ServiceTier>,
        system_fingerprint: Option<&'a str>,
    }
    let mut head = b"data: ".to_vec();
    let shared = Head {
        id: &meta.id,
        object,
        created: meta.created,
        model,
        service_tier,
        system_fingerprint: meta.system_fingerprint.as_deref(),
    };
    sse::json(&shared, &mut head);
    head.pop();
    head.extend_from_slice(b",\"choices\":[");
    head
}

/// An error on an open stream, and the end of it.
pub fn fail(error: &ErrorEnvelope, out: &mut Vec<u8>) {
    sse::data_json(&ErrorBody::from(error), out);
    out.extend_from_slice(sse::DONE);
}
