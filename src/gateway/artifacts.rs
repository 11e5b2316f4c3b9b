//! Artifacts: JSON documents that are named by the SHA-256 of their canonical text (RFC 8785).

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{ArtifactView, CreateArtifact, ErrorCode, ErrorEnvelope, Lineage, is_artifact_id};

use super::Gateway;
use crate::admission::Caller;
use crate::store::{ArtifactRow, NewArtifact, Put, StoreError, signed};
use crate::tasks::Clock;

/// Children that an artifact is shown with.
const MOST_CHILDREN: u32 = 1000;

/// Whether an artifact is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filed {
    Created,
    Known,
}

impl Gateway {
    /// Files a document. One that is there gets the tags and parents that it did not have.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the field; INTERNAL where it cannot be stored.
    pub async fn add_artifact(
        &self,
        request: CreateArtifact,
        caller: &Caller,
    ) -> Result<(Filed, ArtifactView), ErrorEnvelope> {
        let CreateArtifact { document, tags, parents } = request;
        // It may have many megabytes.
        let canonical = self.lifecycle.blocking("name a document", move || canonical(&document)).await;
        let (id, document) = canonical.map_err(|panicked| failed(&panicked))?.map_err(|error| failed(&error))?;
        let artifact = NewArtifact {
            tenant: caller.share.tenant.to_string(),
            id: id.clone(),
            document,
            tags,
            parents,
            at_ms: signed(Clock::now().unix_ms),
            most_tags: CreateArtifact::MOST_TAGS,
            most_parents: CreateArtifact::MOST_PARENTS,
            most_children: MOST_CHILDREN,
        };
        let (filed, row) = match self.store.put_artifact(artifact).await.map_err(|error| unstored(&error))? {
            Put::Created(row) => (Filed::Created, row),
            Put::Known(row) => (Filed::Known, row),
            Put::NoParent(id) => return Err(parent(&id, "there is no such artifact")),
            Put::LaterParent(id) => return Err(parent(&id, "it is not older than the document itself")),
            Put::TooManyTags => return Err(too_many("tags", CreateArtifact::MOST_TAGS)),
            Put::TooManyParents => return Err(too_many("parents", CreateArtifact::MOST_PARENTS)),
        };
        Ok((filed, view(id, row)?))
    }

    /// One artifact.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where the store fails.
    pub async fn artifact(&self, id: &str, caller: &Caller) -> Result<ArtifactView, ErrorEnvelope> {
        let not_found = || ErrorEnvelope::new(ErrorCode::NotFound, "there is no such artifact");
        if !is_artifact_id(id) {
            return Err(not_found());
        }
        let found = self.store.artifact(caller.share.tenant.to_string(), id.to_owned(), MOST_CHILDREN).await;
        view(id.to_owned(), found.map_err(|error| unstored(&error))?.ok_or_else(not_found)?)
    }
}

fn view(id: String, row: ArtifactRow) -> Result<ArtifactView, ErrorEnvelope> {
    let ArtifactRow { document, created_at_ms, updated_at_ms, tags, parents, children } = row;
    Ok(ArtifactView {
        id,
        document: serde_json::from_str(&document).map_err(|error| failed(&error))?,
        tags,
        lineage: Lineage { parents, children },
        created_at_ms: created_at_ms.cast_unsigned(),
        updated_at_ms: updated_at_ms.cast_unsigned(),
    })
}

/// The id of a document, and the text that it is the digest of.
fn canonical(document: &Value) -> serde_json::Result<(String, String)> {
    let text = serde_json_canonicalizer::to_string(document)?;
    Ok((format!("{:x}", Sha256::digest(&text)), text))
}

fn parent(id: &str, why: &str) -> ErrorEnvelope {
    ErrorEnvelope::invalid("parents", format!("`{id}`: {why}"))
}

fn too_many(what: &'static str, most: usize) -> ErrorEnvelope {
    ErrorEnvelope::invalid(what, format!("with those that it has, the artifact would have more than {most} {what}"))
}

fn unstored(error: &StoreError) -> ErrorEnvelope {
    if let Some(away) = error.away() {
        return away;
    }
    tracing::error!(%error, "an artifact cannot be stored or found");
    ErrorEnvelope::new(
        ErrorCode::Internal,
        "the gateway's store does not work; its operator finds the reason in the log",
    )
}

fn failed(error: &dyn std::fmt::Display) -> ErrorEnvelope {
    tracing::error!(%error, "a document cannot be read or written as JSON");
    ErrorEnvelope::new(ErrorCode::Internal, "something went wrong in the gateway")
}
