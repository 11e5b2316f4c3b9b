//! What a repository holds at a revision.

use serde::Deserialize;
use tokio::time::timeout;

use hf_hub::api::tokio::Api;
use hf_hub::{Repo, RepoType};

use super::super::download::RemoteFile;
use super::super::files::{is_weights, select};
use super::{FetchProblem, HubAccess, refusal};
use crate::causes::causes;

/// The answer of `GET /api/models/{repo}/revision/{revision}?blobs=true`, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    #[serde(rename = "sha")]
    pub commit: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
}

impl Listing {
    pub(super) async fn get(api: &Api, repo: &str, revision: &str, access: &HubAccess) -> Result<Self, FetchProblem> {
        let request =
            api.repo(Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned())).info_request();
        let answer = async {
            let unreachable = |error: &dyn std::error::Error| FetchProblem::Unreachable(causes(error));
            let answer = request.query(&[("blobs", "true")]).send().await;
            let answer = answer.map_err(|error| unreachable(&error.without_url()))?;
            let status = answer.status();
            if !status.is_success() {
                return Err(refusal(status.as_u16(), access, FetchProblem::NotFound));
            }
            let body = answer.bytes().await.map_err(|error| unreachable(&error.without_url()))?;
            serde_json::from_slice::<Self>(&body).map_err(|error| FetchProblem::BadAnswer(error.to_string()))
        };
        let listing = timeout(access.stall, answer).await.map_err(|_elapsed| FetchProblem::Stalled(access.stall))??;
        // It becomes the name of a folder.
        if !(7..=64).contains(&listing.commit.len()) || !listing.commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(FetchProblem::BadAnswer("the commit is not a hash".to_owned()));
        }
        Ok(listing)
    }

    /// The files that make the model, or only the one that is asked for.
    pub(super) fn wanted(&self, file: Option<&str>) -> Result<Vec<RemoteFile>, FetchProblem> {
        let names = self.siblings.iter().map(|sibling| sibling.rfilename.as_str());
        if let Some(file) = file {
            let sibling = self.siblings.iter().find(|sibling| sibling.rfilename == file);
            return sibling
                .map(|sibling| vec![sibling.describe()])
                .ok_or_else(|| FetchProblem::NoSuchFile(file.to_owned()));
        }
        let chosen = select(names.clone());
        if !chosen.iter().any(|name| is_weights(name)) {
            let gguf = names.into_iter().find(|name| name.ends_with(".gguf"));
            return Err(gguf.map_or(FetchProblem::NoWeights, |name| FetchProblem::OnlyGguf(name.to_owned())));
        }
        let siblings = self.siblings.iter().filter(|sibling| chosen.contains(&sibling.rfilename));
        Ok(siblings.map(Sibling::describe).collect())
    }
}

impl Sibling {
    fn describe(&self) -> RemoteFile {
        let sha256 = self.lfs.as_ref().map(|lfs| format!("sha256:{}", lfs.sha256.to_ascii_lowercase()));
        RemoteFile { name: self.rfilename.clone(), size: self.size, sha256 }
    }
}
