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

use hf_hub::api::tokio::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

mod download;
mod listing;
mod record;

use super::{ModelPath, Progress, Storage};
use download::Download;
use listing::Listing;
use record::Record;

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

/// What went wrong between the hub and the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubProblem {
    #[error("the hub has no such repository or revision (404)")]
    NotFound,
    #[error("the hub has no file {0} there (404)")]
    NoSuchFile(String),
    #[error("the hub asks for a token (401): the repository is private or gated, or does not exist; set HF_TOKEN")]
    TokenNeeded,
    #[error("the hub does not accept the token (401)")]
    TokenRefused,
    #[error("the token gives no access (403): a gated model's terms are accepted on its page at the hub")]
    Gated,
    #[error("the hub answered with status {0}")]
    Status(u16),
    #[error("the hub cannot be reached: {0}")]
    Unreachable(String),
    #[error("the hub sent nothing for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("the connection was cut after {done} bytes of {file}: {why}; start again to go on from there")]
    Cut { file: String, done: u64, why: String },
    #[error("the hub's answer makes no sense: {0}")]
    BadAnswer(String),
    #[error("the repository has no weights as *.safetensors")]
    NoWeights,
    #[error("the repository has no weights as *.safetensors; name one of its .gguf files, such as hf:…/{0}")]
    OnlyGguf(String),
    #[error("another process is downloading this model now")]
    Busy,
    #[error("{path}: {error}")]
    Disk { path: String, error: String },
}

impl HubProblem {
    /// Whether the same again, a little later, may go well.
    fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => *status == 429 || *status >= 500,
            Self::Unreachable(_) | Self::Stalled(_) | Self::Cut { .. } => true,
            _ => false,
        }
    }
}

/// The complete files of one commit.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub folder: PathBuf,
    pub files: Vec<RemoteFile>,
    /// The one file that was asked for.
    gguf: Option<String>,
}

/// One file as the hub describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct RemoteFile {
    /// Relative to the repository.
    pub name: String,
    pub size: Option<u64>,
    /// `sha256:` and 64 hex digits; the hub knows it for large files only.
    pub sha256: Option<String>,
}

impl Snapshot {
    pub(super) fn path(&self) -> ModelPath {
        match &self.gguf {
            Some(file) => ModelPath::Gguf(self.folder.join(file)),
            None => ModelPath::Folder(self.folder.clone()),
        }
    }
}

/// Brings the files of `repo` at `revision` onto the disk, or only `file` of it.
///
/// # Errors
///
/// [`HubProblem`]. What was downloaded by then stays, and is not downloaded again.
pub(super) async fn fetch(
    repo: &str,
    revision: &str,
    file: Option<&str>,
    storage: &Storage,
    progress: &dyn Progress,
) -> Result<Snapshot, HubProblem> {
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
    let _lock = record::lock(&home).await?;
    let pinned = api.repo(Repo::with_revision(repo.to_owned(), RepoType::Model, record.commit.clone()));
    for file in &record.files {
        let target = home.join(&record.commit).join(&file.name);
        let download = Download { url: pinned.url(&file.name), file, target, access: &storage.hub, progress };
        download.run(&api).await?;
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

fn connect(access: &HubAccess) -> Result<Api, HubProblem> {
    // The cache is never used, but hf-hub's default one panics where there is no home folder.
    ApiBuilder::from_cache(Cache::new(PathBuf::new()))
        .with_endpoint(access.endpoint.clone())
        .with_token(access.token.as_ref().map(|token| token.0.clone()))
        .with_user_agent("sluicegate", env!("CARGO_PKG_VERSION"))
        .with_progress(false)
        .build()
        // The error would only say that a header is invalid, and the one that comes from outside is the token's.
        .map_err(|_error| HubProblem::TokenRefused)
}

/// The meaning of a status that is not a success.
fn refusal(status: u16, access: &HubAccess, not_found: HubProblem) -> HubProblem {
    match status {
        401 if access.token.is_some() => HubProblem::TokenRefused,
        401 => HubProblem::TokenNeeded,
        403 => HubProblem::Gated,
        404 => not_found,
        status => HubProblem::Status(status),
    }
}

/// An error and its causes in one line: the outermost alone says only "error sending request".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn disk(path: &std::path::Path, error: &std::io::Error) -> HubProblem {
    HubProblem::Disk { path: path.display().to_string(), error: error.to_string() }
}
