//! What a reference led to when its download was complete, so that it can be used again without the hub.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::download::RemoteFile;
use super::problem::{FetchProblem, disk};

/// The folder that a revision meant, and the files that were fetched for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The name of the folder: at the hub the commit.
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

impl Record {
    /// The record, where there is one, whatever has become of the files.
    pub(super) async fn stored(home: &Path, revision: &str, file: Option<&str>) -> Option<Self> {
        let text = tokio::fs::read(path(home, revision, file)).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The record, where there is one and every file it names is still there in full.
    pub(super) async fn read(home: &Path, revision: &str, file: Option<&str>) -> Option<Self> {
        let record = Self::stored(home, revision, file).await?;
        for file in &record.files {
            let metadata = tokio::fs::metadata(home.join(&record.commit).join(&file.name)).await.ok()?;
            if file.size.is_some_and(|size| size != metadata.len()) {
                return None;
            }
        }
        Some(record)
    }

    /// Writes it beside its place and renames it, so that a crash leaves the old one.
    pub(super) async fn write(&self, home: &Path, revision: &str, file: Option<&str>) -> Result<(), FetchProblem> {
        let path = path(home, revision, file);
        let fresh = path.with_extension("new");
        let written = async {
            let text = serde_json::to_vec_pretty(self)?;
            tokio::fs::create_dir_all(home.join("refs")).await?;
            tokio::fs::write(&fresh, text).await?;
            tokio::fs::rename(&fresh, &path).await
        };
        written.await.map_err(|error| disk(&path, &error))
    }
}

fn path(home: &Path, revision: &str, file: Option<&str>) -> PathBuf {
    let name = file.map_or_else(|| revision.to_owned(), |file| format!("{revision}@{file}"));
    home.join("refs").join(format!("{}.json", name.replace('/', "%2F")))
}
