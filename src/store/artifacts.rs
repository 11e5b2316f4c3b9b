//! Documents that are named by their content, with tags and lineage.

use super::sql::{self, Connection};
use super::{Store, StoreError};

/// A document to be filed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    pub tenant: String,
    pub id: String,
    /// Canonical JSON.
    pub document: String,
    pub tags: Vec<String>,
    pub parents: Vec<String>,
    pub at_ms: i64,
    /// Tags of one artifact.
    pub most_tags: usize,
    /// Parents of one artifact.
    pub most_parents: usize,
    /// Children that are shown.
    pub most_children: u32,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Created(ArtifactRow),
    /// It was there; tags and parents that were not have been added.
    Known(ArtifactRow),
    /// A parent is not there; nothing was changed.
    NoParent(String),
    /// A parent came after the document itself; nothing was changed.
    LaterParent(String),
    /// With those that were there it would have too many; nothing was changed.
    TooManyTags,
    TooManyParents,
}

/// A filed document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRow {
    /// Canonical JSON.
    pub document: String,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub tags: Vec<String>,
    pub parents: Vec<String>,
    /// The oldest first.
    pub children: Vec<String>,
}

impl Store {
    /// Files a document, and returns once that is durable.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn put_artifact(&self, artifact: NewArtifact) -> Result<Put, StoreError> {
        self.run(move |connection| Box::pin(put(connection, artifact.clone()))).await
    }

    /// A document, with `most_children` of what was made from it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn artifact(
        &self,
        tenant: String,
        id: String,
        most_children: u32,
    ) -> Result<Option<ArtifactRow>, StoreError> {
        self.run(move |connection| Box::pin(get(connection, tenant.clone(), id.clone(), most_children))).await
    }
}

async fn put(connection: &mut Connection, artifact: NewArtifact) -> sql::Result<Put> {
    let NewArtifact { tenant, id, document, tags, parents, at_ms, most_tags, most_parents, most_children } = artifact;
    // Dropped where something is refused, which takes everything back.
    let mut all_or_none = connection.begin().await?;
    let own = position(&mut all_or_none, &tenant, &id).await?;
    for parent in &parents {
        match (position(&mut all_or_none, &tenant, parent).await?, own) {
            (None, _) => return Ok(Put::NoParent(parent.clone())),
            (Some(parents), Some(own)) if parents >= own => return Ok(Put::LaterParent(parent.clone())),
            _ => {}
        }
    }
    if own.is_none() {
        let insert = "INSERT INTO artifacts (position, tenant, id, document, created_at_ms, updated_at_ms) \
                      SELECT COALESCE(MAX(position), 0) + 1, $1, $2, $3, $4, $4 FROM artifacts";
        let query = sql::query(insert).bind(&tenant).bind(&id).bind(document).bind(at_ms);
        query.execute(&mut all_or_none).await?;
    }
    let mut added = 0;
    let (tag, parent) = (
        "INSERT INTO artifact_tags (tenant, id, tag) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        "INSERT INTO artifact_parents (tenant, id, parent) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    );
    for (insert, values) in [(tag, &tags), (parent, &parents)] {
        for value in values {
            let query = sql::query(insert).bind(&tenant).bind(&id).bind(value);
            added += query.execute(&mut all_or_none).await?;
        }
    }
    let (all_tags, all_parents) = (
        "SELECT COUNT(*) FROM artifact_tags WHERE tenant = $1 AND id = $2",
        "SELECT COUNT(*) FROM artifact_parents WHERE tenant = $1 AND id = $2",
    );
    for (count, most, refusal) in
        [(all_tags, most_tags, Put::TooManyTags), (all_parents, most_parents, Put::TooManyParents)]
    {
        let count: i64 = sql::query(count).bind(&tenant).bind(&id).fetch_one(&mut all_or_none).await?;
        if usize::try_from(count).is_ok_and(|count| count > most) {
            return Ok(refusal);
        }
    }
    if own.is_some() && added > 0 {
        let update = "UPDATE artifacts SET updated_at_ms = $3 WHERE tenant = $1 AND id = $2";
        sql::query(update).bind(&tenant).bind(&id).bind(at_ms).execute(&mut all_or_none).await?;
    }
    let filed = get(&mut all_or_none, tenant, id, most_children).await?.ok_or(sql::Error::NoRow)?;
    all_or_none.commit().await?;
    Ok(if own.is_some() { Put::Known(filed) } else { Put::Created(filed) })
}

async fn position(connection: &mut Connection, tenant: &str, id: &str) -> sql::Result<Option<i64>> {
    let select = "SELECT position FROM artifacts WHERE tenant = $1 AND id = $2";
    sql::query(select).bind(tenant).bind(id).fetch_optional(connection).await
}

async fn get(
    connection: &mut Connection,
    tenant: String,
    id: String,
    most_children: u32,
) -> sql::Result<Option<ArtifactRow>> {
    let select = "SELECT document, created_at_ms, updated_at_ms FROM artifacts WHERE tenant = $1 AND id = $2";
    let found: Option<(String, i64, i64)> =
        sql::query(select).bind(&tenant).bind(&id).fetch_optional(&mut *connection).await?;
    let Some((document, created_at_ms, updated_at_ms)) = found else { return Ok(None) };
    let tags = "SELECT tag FROM artifact_tags WHERE tenant = $1 AND id = $2";
    let mut tags: Vec<String> = sql::query(tags).bind(&tenant).bind(&id).fetch_all(&mut *connection).await?;
    let parents = "SELECT parent FROM artifact_parents WHERE tenant = $1 AND id = $2";
    let mut parents: Vec<String> = sql::query(parents).bind(&tenant).bind(&id).fetch_all(&mut *connection).await?;
    let children = "SELECT made.id FROM artifact_parents AS made JOIN artifacts ON artifacts.tenant = made.tenant AND \
                    artifacts.id = made.id WHERE made.tenant = $1 AND made.parent = $2 ORDER BY artifacts.position LIMIT $3";
    let query = sql::query(children).bind(&tenant).bind(&id).bind(i64::from(most_children));
    let children = query.fetch_all(&mut *connection).await?;
    tags.sort();
    parents.sort();
    Ok(Some(ArtifactRow { document, created_at_ms, updated_at_ms, tags, parents, children }))
}
