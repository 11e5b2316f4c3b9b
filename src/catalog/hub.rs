//! Models from the Hugging Face hub, or from a server that speaks its protocol.
//!
//! hf-hub knows the protocol: addresses, headers, the token, redirects. The bytes are fetched here, through its client,
//! because its own download keeps ten megabytes at a time in memory, waits for a stalled server for ever, leaves tasks
//! behind when it fails, and checks no digest.
//!
//! Below `data_dir/hub/org--name`: a folder for each commit with the model's files as the repository names them, and in
//! `refs` a record of what a reference led to, so that a model once complete loads without the hub.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use hf_hub::api::tokio::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

mod listing;

use super::download::{Answer, Download, Origin, Pace, Snapshot};
use super::problem::{FetchProblem, disk};
use super::record::Record;
use super::{Progress, Storage, cache};
use crate::causes::causes;
use listing::Listing;

/// How the hub is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAccess {
    /// `https://huggingface.co`, or a mirror; without a `/` at the end.
    pub endpoint: String,
    /// For repositories that are private or gated.
    pub token: Option<Token>,
    /// After so long without a byte a connection counts as dead.
    pub stall: Duration,
    /// Before the first new attempt; doubled before each further one. There are four.
    pub retry_pause: Duration,
}

/// A secret; shows itself as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Brings the files of `repo` at `revision` onto the disk, or only `file` of it.
///
/// # Errors
///
/// [`FetchProblem`]. What was downloaded by then stays, and is not downloaded again.
pub(super) async fn fetch(
    repo: &str,
    revision: &str,
    file: Option<&str>,
    storage: &Storage,
    progress: &dyn Progress,
) -> Result<Snapshot, FetchProblem> {
    let home = home(repo, &storage.data_dir);
    let known = Record::read(&home, revision, file).await;
    let snapshot = |record: Record| Snapshot {
        folder: home.join(&record.commit),
        files: record.files,
        gguf: file.map(str::to_owned),
    };
    // A commit never changes; a branch may have moved on.
    let known = match known {
        Some(record) if record.commit == revision => return Ok(snapshot(record)),
        known => known,
    };
    let api = connect(&storage.hub)?;
    let listing = match Listing::get(&api, repo, revision, &storage.hub).await {
        Ok(listing) => listing,
        Err(problem) => match known {
            Some(record) if problem.is_transient() => {
                progress.note(&format!("{repo}: {problem}; using the copy of {} on the disk", record.commit));
                return Ok(snapshot(record));
            }
            _ => return Err(problem),
        },
    };
    let record = Record { commit: listing.commit.clone(), files: listing.wanted(file)? };
    let _lock = cache::lock(&home).await?;
    let pinned = api.repo(Repo::with_revision(repo.to_owned(), RepoType::Model, record.commit.clone()));
    let most_bytes = storage.max_model_bytes;
    let sizes = record.files.iter().map(|file| file.size.unwrap_or_default());
    if sizes.fold(0, u64::saturating_add) > most_bytes {
        return Err(FetchProblem::TooLarge(most_bytes));
    }
    let pace = Pace { stall: storage.hub.stall, retry_pause: storage.hub.retry_pause };
    // The listing does not tell every size.
    let (mut left, too_large) = (most_bytes, || FetchProblem::TooLarge(most_bytes));
    for file in &record.files {
        let origin = HubFile { api: &api, url: pinned.url(&file.name), access: &storage.hub, name: &file.name };
        let target = home.join(&record.commit).join(&file.name);
        let download =
            Download { origin: &origin, file, target: target.clone(), pace, most_bytes: left, progress }.run().await;
        download.map_err(|problem| match problem {
            FetchProblem::TooLarge(_) => too_large(),
            problem => problem,
        })?;
        let found = tokio::fs::metadata(&target).await.map_err(|error| disk(&target, &error))?;
        left = left.checked_sub(found.len()).ok_or_else(too_large)?;
    }
    record.write(&home, revision, file).await?;
    Ok(snapshot(record))
}

/// What an earlier [`fetch`] has recorded, whatever has become of the files since.
pub(super) async fn recorded(repo: &str, revision: &str, file: Option<&str>, data_dir: &Path) -> Option<Snapshot> {
    let home = home(repo, data_dir);
    let record = Record::stored(&home, revision, file).await?;
    Some(Snapshot { folder: home.join(&record.commit), files: record.files, gguf: file.map(str::to_owned) })
}

/// The folder of a repository.
pub(super) fn home(repo: &str, data_dir: &Path) -> PathBuf {
    data_dir.join("hub").join(repo.replace('/', "--"))
}

fn connect(access: &HubAccess) -> Result<Api, FetchProblem> {
    // The cache is never used, but hf-hub's default one panics where there is no home folder.
    ApiBuilder::from_cache(Cache::new(PathBuf::new()))
        .with_endpoint(access.endpoint.clone())
        .with_token(access.token.as_ref().map(|token| token.0.clone()))
        .with_user_agent("sluicegate", env!("CARGO_PKG_VERSION"))
        .with_progress(false)
        .build()
        // The error would only say that a header is invalid, and the one that comes from outside is the token's.
        .map_err(|_error| FetchProblem::TokenRefused)
}

/// One file of a commit.
struct HubFile<'a> {
    api: &'a Api,
    url: String,
    access: &'a HubAccess,
    name: &'a str,
}

impl Origin for HubFile<'_> {
    fn ask<'a>(&'a self, offset: u64, _: Option<&'a str>) -> BoxFuture<'a, Result<Answer, FetchProblem>> {
        async move {
            // Sent always, because a range also keeps the answer from being compressed.
            let request = self.api.client().get(&self.url).header("range", format!("bytes={offset}-"));
            // An address that it was redirected to carries a signature.
            let answer = request.send().await;
            let answer = answer.map_err(|error| FetchProblem::Unreachable(causes(&error.without_url())))?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = answer.bytes_stream().map(|bytes| bytes.map_err(|error| causes(&error.without_url()))).boxed();
            Ok(Answer::new(status, header, body))
        }
        .boxed()
    }

    fn refusal(&self, status: u16) -> FetchProblem {
        refusal(status, self.access, FetchProblem::NoSuchFile(self.name.to_owned()))
    }

    fn never_changes(&self) -> bool {
        true
    }
}

/// The meaning of a status that is not a success.
fn refusal(status: u16, access: &HubAccess, not_found: FetchProblem) -> FetchProblem {
    match status {
        401 if access.token.is_some() => FetchProblem::TokenRefused,
        401 => FetchProblem::TokenNeeded,
        403 => FetchProblem::Gated,
        404 => not_found,
        status => FetchProblem::Status(status),
    }
}
