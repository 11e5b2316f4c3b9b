//! Whether a model's files are still what they were: every byte is read and digested, and compared with what is known.
//!
//! What is known is, in this order: the digests of the last load or passed verification, what the hub or the program says
//! of its files, the pinned digest. Where nothing is known, the first verification records what it finds.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::download::RemoteFile;
use super::files::{FileDigest, combine, select};
use super::{Entry, ModelSource, Progress, builtin, digest_files, hub, prepare, web};

/// A verification under way.
#[derive(Debug, Default)]
pub struct Run {
    pub started_at_ms: u64,
    /// Of all files, once they were looked at; 0 until then.
    pub bytes_total: AtomicU64,
    pub bytes_done: AtomicU64,
    /// Ends it early, as [`Finding::Canceled`].
    pub stop: CancellationToken,
}

impl Progress for Run {
    fn start(&self, _what: &str, _bytes: Option<u64>) {}

    fn advance(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn finish(&self) {}
    fn note(&self, _what: &str) {}

    fn canceled(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// Tells a verification of the files that it fetches first: their bytes are counted as they are fetched, and once more as they
/// are checked.
pub struct Fetching(pub Arc<Run>);

impl Progress for Fetching {
    fn start(&self, _what: &str, bytes: Option<u64>) {
        let done = self.0.bytes_done.load(Ordering::Relaxed);
        self.0.bytes_total.store(done.saturating_add(bytes.unwrap_or(0)), Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn finish(&self) {}

    fn note(&self, what: &str) {
        tracing::warn!("{what}");
    }

    fn canceled(&self) -> bool {
        self.0.canceled()
    }
}

/// What a verification has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Everything is as it should be.
    Passed {
        files: Vec<FileDigest>,
        digest: String,
    },
    Changed(String),
    Missing(String),
    Additional(String),
    /// All files together are not what was pinned.
    Digest {
        pinned: String,
        found: String,
    },
    Unreadable(String),
    /// There are no files, and none are known: nothing was downloaded, or put there.
    Absent,
    /// There are no files yet, and they could not be had.
    NotFetched(String),
    Canceled,
    /// What a verification by an earlier process has found, in words; it was a reason for distrust.
    Earlier(String),
}

impl Finding {
    /// For the metric and the view: `passed`, `failed` or `canceled`.
    pub fn result(&self) -> &'static str {
        match self {
            Self::Passed { .. } => "passed",
            Self::Canceled => "canceled",
            _ => "failed",
        }
    }

    /// For the metric, one word of a closed list.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Passed { .. } | Self::Canceled => "none",
            Self::Changed(_) => "changed",
            Self::Missing(_) => "missing",
            Self::Additional(_) => "additional",
            Self::Digest { .. } => "digest",
            Self::Unreadable(_) => "unreadable",
            Self::Absent | Self::NotFetched(_) => "absent",
            Self::Earlier(_) => "earlier",
        }
    }

    /// Whether the files are there and are not those that are known: the model must not be served.
    pub fn is_distrust(&self) -> bool {
        !matches!(self, Self::Passed { .. } | Self::Absent | Self::NotFetched(_) | Self::Canceled)
    }

    /// In words for the operator; `None` where it has passed.
    pub fn words(&self) -> Option<String> {
        Some(match self {
            Self::Passed { .. } => return None,
            Self::Changed(name) => format!("{name} has changed"),
            Self::Missing(name) => format!("{name} is missing"),
            Self::Additional(name) => format!("{name} was added"),
            Self::Digest { pinned, found } => format!("its files have the digest {found}, not {pinned}"),
            Self::Unreadable(why) | Self::Earlier(why) | Self::NotFetched(why) => why.clone(),
            Self::Absent => "there are no files of it on this machine yet".to_owned(),
            Self::Canceled => "it was canceled".to_owned(),
        })
    }
}

/// A file as it should be, as far as that is known.
struct Expected {
    name: String,
    size: Option<u64>,
    sha256: Option<String>,
}

impl From<FileDigest> for Expected {
    fn from(file: FileDigest) -> Self {
        Self { name: file.name, size: Some(file.size), sha256: Some(file.sha256) }
    }
}

impl From<RemoteFile> for Expected {
    fn from(file: RemoteFile) -> Self {
        Self { name: file.name, size: file.size, sha256: file.sha256 }
    }
}

/// A model's files where they lie, beside what they should be.
pub struct Check {
    folder: PathBuf,
    /// The one file that counts; else those that [`select`] takes.
    only: Option<String>,
    /// `None`: nothing is known.
    expected: Option<Vec<Expected>>,
    /// They were there when they were loaded or verified last.
    seen: bool,
    pinned: Option<String>,
}

impl Check {
    /// Finds the place of an entry's files. `known` is what was recorded of them before.
    pub async fn of(entry: &Entry, known: &[FileDigest], data_dir: &Path) -> Option<Self> {
        let (folder, only, own) = match &entry.source {
            ModelSource::Builtin(builtin) => {
                let (folder, files) = builtin::expected(*builtin, data_dir);
                (folder, None, Some(files.into_iter().map(Expected::from).collect()))
            }
            ModelSource::Folder(folder) => (folder.clone(), None, None),
            ModelSource::Gguf(path) => {
                let name = path.file_name()?.to_string_lossy().into_owned();
                (path.parent()?.to_owned(), Some(name), None)
            }
            ModelSource::Hub { repo, revision, file } => {
                let snapshot = hub::recorded(repo, revision, file.as_deref(), data_dir).await?;
                let files = snapshot.files.into_iter().map(Expected::from).collect();
                (snapshot.folder, file.clone(), Some(files))
            }
            ModelSource::Web(address) => {
                let snapshot = web::recorded(address, data_dir).await?;
                let files = snapshot.files.into_iter().map(Expected::from).collect();
                (snapshot.folder, snapshot.gguf, Some(files))
            }
        };
        let seen = !known.is_empty();
        let known = seen.then(|| known.iter().cloned().map(Expected::from).collect());
        Some(Self { folder, only, expected: known.or(own), seen, pinned: entry.digest.clone() })
    }

    /// Blocking: reads every byte.
    pub fn run(&self, run: &Run) -> Finding {
        let (names, total) = match self.look() {
            Ok(found) => found,
            Err(finding) => return finding,
        };
        run.bytes_total.store(total, Ordering::Relaxed);
        let digests = match digest_files(&self.folder, &names, run) {
            Ok(digests) => digests,
            Err(_) if run.canceled() => return Finding::Canceled,
            Err((path, error)) => return Finding::Unreadable(format!("{}: {error}", path.display())),
        };
        self.judge(digests)
    }

    /// The files that are there and their size; first of all whether they are the right ones by name.
    fn look(&self) -> Result<(Vec<String>, u64), Finding> {
        let unreadable = |error: std::io::Error| Finding::Unreadable(format!("{}: {error}", self.folder.display()));
        let names = match &self.only {
            Some(name) => vec![name.clone()],
            None => match prepare::list(&self.folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                listing => select(listing.map_err(unreadable)?.iter().map(String::as_str)),
            },
        };
        let expected = self.expected.as_deref().unwrap_or_default();
        let size = |name: &String| self.folder.join(name).metadata().map(|metadata| metadata.len());
        if !self.seen && names.iter().all(|name| size(name).is_err()) {
            return Err(Finding::Absent);
        }
        if let Some(file) = expected.iter().find(|file| !names.contains(&file.name) || size(&file.name).is_err()) {
            return Err(Finding::Missing(file.name.clone()));
        }
        let is_known = |name: &&String| expected.iter().any(|file| file.name == **name);
        match names.iter().find(|name| !is_known(name)) {
            Some(name) if self.expected.is_some() => return Err(Finding::Additional(name.clone())),
            _ => {}
        }
        let total = names.iter().filter_map(|name| size(name).ok()).sum();
        Ok((names, total))
    }

    fn judge(&self, digests: Vec<FileDigest>) -> Finding {
        if let Some(finding) = self.expected.as_ref().and_then(|expected| deviation(expected, &digests)) {
            return finding;
        }
        let found = combine(&digests);
        match &self.pinned {
            Some(pinned) if *pinned != found => Finding::Digest { pinned: pinned.clone(), found },
            _ => Finding::Passed { files: digests, digest: found },
        }
    }
}

/// How files that were found differ from those that were recorded before; `None` where they do not, or none were.
pub fn differ(known: &[FileDigest], found: &[FileDigest]) -> Option<Finding> {
    let known: Vec<_> = known.iter().cloned().map(Expected::from).collect();
    if known.is_empty() { None } else { deviation(&known, found) }
}

fn deviation(expected: &[Expected], found: &[FileDigest]) -> Option<Finding> {
    for file in expected {
        let Some(found) = found.iter().find(|found| found.name == file.name) else {
            return Some(Finding::Missing(file.name.clone()));
        };
        let same_size = file.size.is_none_or(|size| size == found.size);
        let same_digest = file.sha256.as_ref().is_none_or(|sha256| *sha256 == found.sha256);
        if !(same_size && same_digest) {
            return Some(Finding::Changed(file.name.clone()));
        }
    }
    let additional = found.iter().find(|found| expected.iter().all(|file| file.name != found.name));
    additional.map(|file| Finding::Additional(file.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            started_at_ms: 0,
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            stop: CancellationToken::new(),
        }
    }

    async fn finding(folder: &Path, known: &[FileDigest], pinned: Option<String>) -> Finding {
        let entry = Entry { digest: pinned, ..Entry::new("m", ModelSource::Folder(folder.to_owned())) };
        Check::of(&entry, known, folder).await.unwrap().run(&run())
    }

    fn model() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn a_changed_byte_a_missing_and_an_additional_file_are_found() {
        let folder = model();
        let Finding::Passed { files, digest } = finding(folder.path(), &[], None).await else { panic!("it is good") };
        assert_eq!(files.len(), 3);
        assert_eq!(
            finding(folder.path(), &files, Some(digest.clone())).await.result(),
            "passed",
            "the same files again, and pinned"
        );
        let weights = folder.path().join("model.safetensors");
        std::fs::write(&weights, "model.safetensorz").unwrap();
        assert_eq!(finding(folder.path(), &files, None).await, Finding::Changed("model.safetensors".into()));
        assert!(matches!(finding(folder.path(), &[], Some(digest)).await, Finding::Digest { .. }));
        std::fs::remove_file(&weights).unwrap();
        assert_eq!(finding(folder.path(), &files, None).await, Finding::Missing("model.safetensors".into()));
        std::fs::write(&weights, "model.safetensors").unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
        assert_eq!(finding(folder.path(), &files, None).await, Finding::Additional("tokenizer_config.json".into()));
    }

    #[tokio::test]
    async fn it_counts_its_bytes_and_ends_when_nobody_wants_it_any_more() {
        let folder = model();
        let entry = Entry::new("m", ModelSource::Folder(folder.path().to_owned()));
        let check = Check::of(&entry, &[], folder.path()).await.unwrap();
        let good = run();
        assert_eq!(check.run(&good).result(), "passed");
        assert_eq!(good.bytes_done.load(Ordering::Relaxed), good.bytes_total.load(Ordering::Relaxed));
        assert_eq!(good.bytes_total.load(Ordering::Relaxed), 11 + 14 + 17);
        let stopped = run();
        stopped.stop.cancel();
        assert_eq!(check.run(&stopped), Finding::Canceled);
    }

    #[tokio::test]
    async fn where_no_files_are_none_have_passed_and_none_that_were_there_may_go() {
        let folder = model();
        let Finding::Passed { files, .. } = finding(folder.path(), &[], None).await else { panic!("it is good") };
        let empty = tempfile::tempdir().unwrap();
        std::fs::write(empty.path().join("extra.txt"), "no part of a model").unwrap();
        assert_eq!(finding(empty.path(), &[], None).await, Finding::Absent);
        assert_eq!(finding(&empty.path().join("gone"), &[], None).await, Finding::Absent);
        assert_eq!(finding(empty.path(), &files, None).await, Finding::Missing("config.json".into()));
        assert_eq!(finding(&empty.path().join("gone"), &files, None).await, Finding::Missing("config.json".into()));
        let gguf = ModelSource::Gguf(empty.path().join("m.gguf"));
        let check = Check::of(&Entry::new("m", gguf), &[], empty.path()).await.unwrap();
        assert_eq!(check.run(&run()), Finding::Absent);
        let builtin =
            Check::of(&Entry::new("m", ModelSource::Builtin(crate::catalog::Builtin::Chat)), &[], empty.path())
                .await
                .unwrap();
        assert_eq!(builtin.run(&run()), Finding::Absent);
    }

    #[tokio::test]
    async fn a_model_of_the_hub_that_was_never_fetched_has_no_files_to_check() {
        let data = tempfile::tempdir().unwrap();
        let source = ModelSource::from_reference(&"hf:a/b".parse().unwrap()).unwrap();
        assert!(Check::of(&Entry::new("m", source), &[], data.path()).await.is_none());
    }

    /// `cargo test --release --lib digest_rate -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "prints a figure of this machine"]
    async fn digest_rate_of_a_gigabyte() {
        let folder = model();
        std::fs::write(folder.path().join("model.safetensors"), vec![7; 1 << 30]).unwrap();
        let started = std::time::Instant::now();
        assert_eq!(finding(folder.path(), &[], None).await.result(), "passed");
        println!("{:.0} MB/s", (1 << 30) as f64 / 1e6 / started.elapsed().as_secs_f64());
    }
}
