//! What the chunks of a stream have in common, whichever endpoint it is of.

use serde::Serialize;
use uuid::Uuid;

use super::chat::ServiceTier;
use super::error::ErrorBody;
use super::usage::Usage;
use crate::native::ErrorEnvelope;
use crate::sse;

/// What is the same in all chunks of an answer, and not known from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMeta {
    /// `chatcmpl-` or `cmpl-`, and the task's id.
    pub id: String,
    /// Unix time in s.
    pub created: u64,
    /// Changes whenever the same seed can give other tokens; null where it is not known.
    pub system_fingerprint: Option<String>,
}

impl ChunkMeta {
    pub fn new(task_id: Uuid, created: u64, system_fingerprint: Option<String>) -> Self {
        Self { id: format!("chatcmpl-{task_id}"), created, system_fingerprint }
    }

    /// Of an answer that is not one in a conversation.
    pub fn of_completion(task_id: Uuid, created: u64, system_fingerprint: Option<String>) -> Self {
        Self { id: format!("cmpl-{task_id}"), created, system_fingerprint }
    }
}

/// What surrounds the choices in every chunk: prepared once, so that a chunk costs copies of it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// From `data: ` to the opening bracket of `choices`.
    head: Vec<u8>,
    /// From the closing bracket of `choices` to the end of the event, in every chunk but that of the usage.
    tail: &'static [u8],
    include_usage: bool,
}

impl Frame {
    /// `include_usage`: the last chunk tells the usage, and all others have a null in its place.
    pub fn new(
        object: &'static str,
        model: &str,
        meta: &ChunkMeta,
        service_tier: Option<ServiceTier>,
        include_usage: bool,
    ) -> Self {
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
        Self { head, tail: if include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" }, include_usage }
    }

    /// Writes a chunk up to what it says of a choice.
    pub fn begin(&self, choice: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        out.extend_from_slice(itoa::Buffer::new().format(choice).as_bytes());
    }

    /// Ends a chunk of a choice that goes on.
    pub fn go_on(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"finish_reason\":null}]");
        out.extend_from_slice(self.tail);
    }

    /// Ends the last chunk of a choice.
    pub fn finish(&self, reason: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"finish_reason\":\"");
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\"}]");
        out.extend_from_slice(self.tail);
    }

    /// The end of the stream, after the usage where that was asked for.
    pub fn end(&self, usage: &Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            sse::json(usage, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(sse::DONE);
    }
}

/// An error on an open stream, and the end of it.
pub fn fail(error: &ErrorEnvelope, out: &mut Vec<u8>) {
    sse::data_json(&ErrorBody::from(error), out);
    out.extend_from_slice(sse::DONE);
}
