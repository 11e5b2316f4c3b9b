//! One file from a server to the disk: to `NAME.part` first, from where an earlier attempt ended, then renamed.
//!
//! Where the file can change at the server, `NAME.part.tag` beside it says which version the part is of, so that a file is
//! never put together from two.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::fs::{self, File};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::time::{sleep, timeout};

use super::problem::{FetchProblem, disk};
use super::{ModelPath, Progress};

/// New attempts in a row that bring less than [`WORTHWHILE`].
const RETRIES: u32 = 4;
/// An attempt that brought so many bytes starts the count again.
const WORTHWHILE: u64 = 8 << 20;
/// What a server calls a version of a file is no longer.
const LONGEST_TAG: usize = 1024;

/// One file as a server describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct RemoteFile {
    /// Relative to the model's folder.
    pub name: String,
    pub size: Option<u64>,
    /// `sha256:` and 64 hex digits; the hub knows it for large files only.
    pub sha256: Option<String>,
}

/// The complete files of a model.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub folder: PathBuf,
    pub files: Vec<RemoteFile>,
    /// The one file that was asked for.
    pub gguf: Option<String>,
}

impl Snapshot {
    pub fn path(&self) -> ModelPath {
        match &self.gguf {
            Some(file) => ModelPath::Gguf(self.folder.join(file)),
            None => ModelPath::Folder(self.folder.clone()),
        }
    }
}

/// Where the bytes of a file come from.
pub(super) trait Origin: Sync {
    /// Asks for the file from `offset` on; for all of it where the server has another version than that of `tag`.
    fn ask<'a>(&'a self, offset: u64, tag: Option<&'a str>) -> BoxFuture<'a, Result<Answer, FetchProblem>>;

    /// What a status means that is no success.
    fn refusal(&self, status: u16) -> FetchProblem;

    /// Whether the address is that of one version of the file.
    fn never_changes(&self) -> bool;
}

/// What a server answers to a request for a file.
pub(super) struct Answer {
    status: u16,
    content_range: Option<String>,
    content_length: Option<u64>,
    /// The version of the file, in a form that compares byte for byte.
    tag: Option<String>,
    /// The bytes are not the file's own.
    encoded: bool,
    body: BoxStream<'static, Result<Bytes, String>>,
}

impl Answer {
    pub fn new(
        status: u16,
        header: impl Fn(&str) -> Option<String>,
        body: BoxStream<'static, Result<Bytes, String>>,
    ) -> Self {
        let strong = |tag: &String| tag.starts_with('"') && tag.len() <= LONGEST_TAG;
        Self {
            status,
            content_range: header("content-range"),
            content_length: header("content-length").and_then(|length| length.parse().ok()),
            tag: header("etag").filter(strong),
            encoded: header("content-encoding").is_some_and(|encoding| encoding != "identity"),
            body,
        }
    }
}

/// How long a download waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After so long without a byte a connection counts as dead.
    pub stall: Duration,
    /// Before the first new attempt; doubled before each further one.
    pub retry_pause: Duration,
}

/// One file on its way.
pub(super) struct Download<'a> {
    pub origin: &'a dyn Origin,
    pub file: &'a RemoteFile,
    /// Where it goes.
    pub target: PathBuf,
    pub pace: Pace,
    /// What it may have.
    pub most_bytes: u64,
    pub progress: &'a dyn Progress,
}

/// The part of the file that an answer carries.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// Bytes before it.
    offset: u64,
    /// Bytes of the file up to its end, where the answer says so.
    end: Option<u64>,
    /// Bytes of the whole file, where the answer says so.
    total: Option<u64>,
}

impl Download<'_> {
    /// Fetches what is missing of the file, in as many attempts as it takes while they get somewhere.
    pub(super) async fn run(&self) -> Result<(), FetchProblem> {
        if self.is_complete().await {
            return Ok(());
        }
        let mut failures = 0;
        loop {
            let before = self.fetched().await;
            let Err(problem) = self.attempt(before).await else { return self.settle().await };
            let gained = self.fetched().await.saturating_sub(before);
            failures = if gained >= WORTHWHILE { 1 } else { failures + 1 };
            if !problem.is_transient() || failures > RETRIES {
                return Err(problem);
            }
            self.progress.note(&format!("{}: {problem}; trying again", self.file.name));
            sleep(self.pace.retry_pause * 2_u32.pow(failures - 1)).await;
        }
    }

    async fn is_complete(&self) -> bool {
        let found = fs::metadata(&self.target).await;
        found.is_ok_and(|found| found.is_file() && self.file.size.is_none_or(|size| size == found.len()))
    }

    fn part(&self) -> PathBuf {
        self.beside(".part")
    }

    fn tag(&self) -> PathBuf {
        self.beside(".part.tag")
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(end);
        name.into()
    }

    /// Bytes that earlier attempts left. More than the file has cannot be a part of it.
    async fn fetched(&self) -> u64 {
        let found = fs::metadata(self.part()).await.map_or(0, |found| found.len());
        if self.file.size.is_some_and(|size| found > size) { 0 } else { found }
    }

    /// One request, from `fetched` to the end of the file.
    async fn attempt(&self, fetched: u64) -> Result<(), FetchProblem> {
        let tag = if self.origin.never_changes() { None } else { fs::read_to_string(self.tag()).await.ok() };
        // A part of which nobody knows what it is a part of is of no use.
        let offset = if self.origin.never_changes() || tag.is_some() { fetched } else { 0 };
        if self.file.size == Some(offset) {
            return if offset == 0 { self.open(0).await.map(drop) } else { Ok(()) };
        }
        let tag = tag.filter(|_| offset > 0);
        let answer = self.patiently(self.origin.ask(offset, tag.as_deref())).await??;
        let range = match answer.status {
            206 => partial(answer.content_range.clone(), offset)?,
            200 => Range { offset: 0, end: None, total: answer.content_length },
            416 if offset > 0 => return self.start_over().await,
            status => return Err(self.origin.refusal(status)),
        };
        if answer.encoded {
            return Err(FetchProblem::BadAnswer(format!("{} comes encoded", self.file.name)));
        }
        if range.offset > 0 && answer.tag.is_some() && tag.is_some() && answer.tag != tag {
            return self.start_over().await;
        }
        let total = self.agreed(range.total)?;
        if answer.status == 206 && total.is_none() {
            // It may be a part, and nobody would know.
            return Err(FetchProblem::BadAnswer(format!("of {} it is not said how long it is", self.file.name)));
        }
        if total.is_some_and(|total| total > self.most_bytes) {
            return Err(FetchProblem::TooLarge(self.most_bytes));
        }
        if range.offset == 0 && !self.origin.never_changes() {
            self.note_tag(answer.tag.as_deref()).await?;
        }
        self.progress.start(&format!("fetching {}", self.file.name), total);
        self.progress.advance(range.offset);
        self.save(answer.body, &range, total).await?;
        self.progress.finish();
        Ok(())
    }

    /// The length of the file, which listing and answer must not tell differently.
    fn agreed(&self, answered: Option<u64>) -> Result<Option<u64>, FetchProblem> {
        match (self.file.size, answered) {
            (Some(listed), Some(answered)) if listed != answered => {
                let name = &self.file.name;
                Err(FetchProblem::BadAnswer(format!(
                    "{name} has {listed} bytes in the listing and {answered} in the answer"
                )))
            }
            (listed, answered) => Ok(listed.or(answered)),
        }
    }

    /// Remembers which version the part is of that begins now; without a tag it is never gone on with.
    async fn note_tag(&self, tag: Option<&str>) -> Result<(), FetchProblem> {
        let path = self.tag();
        let noted = async {
            // First of all the part goes that is of another version.
            gone(fs::remove_file(self.part()).await)?;
            match tag {
                Some(tag) => {
                    if let Some(folder) = path.parent() {
                        fs::create_dir_all(folder).await?;
                    }
                    fs::write(&path, tag).await
                }
                None => gone(fs::remove_file(&path).await),
            }
        };
        noted.await.map_err(|error| disk(&path, &error))
    }

    async fn start_over(&self) -> Result<(), FetchProblem> {
        let part = self.part();
        fs::remove_file(&part).await.map_err(|error| disk(&part, &error))?;
        let file = self.file.name.clone();
        Err(FetchProblem::Cut { file, done: 0, why: "the part on the disk does not fit".into() })
    }

    /// Appends the stream to the part. What came is kept, however it ends; but for what is too large.
    async fn save(
        &self,
        stream: BoxStream<'static, Result<Bytes, String>>,
        &Range { offset, end, .. }: &Range,
        total: Option<u64>,
    ) -> Result<(), FetchProblem> {
        let part = self.part();
        let mut file = BufWriter::with_capacity(1 << 20, self.open(offset).await?);
        let (done, ended) = self.copy(stream, offset, &mut file).await;
        let flushed = async {
            file.flush().await?;
            file.get_ref().sync_all().await
        };
        flushed.await.map_err(|error| disk(&part, &error))?;
        if let Err(FetchProblem::TooLarge(_)) = ended {
            fs::remove_file(&part).await.map_err(|error| disk(&part, &error))?;
        }
        ended?;
        match total {
            _ if end.is_some_and(|end| done > end) => {
                Err(FetchProblem::BadAnswer(format!("more of {} comes than the range has", self.file.name)))
            }
            Some(total) if done < total => Err(self.cut(done, "the answer ended early".to_owned())),
            Some(total) if done > total => {
                Err(FetchProblem::BadAnswer(format!("{} is longer than told", self.file.name)))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the file that are written afterwards, and how the stream ended.
    async fn copy(
        &self,
        mut stream: BoxStream<'static, Result<Bytes, String>>,
        offset: u64,
        file: &mut BufWriter<File>,
    ) -> (u64, Result<(), FetchProblem>) {
        let mut done = offset;
        loop {
            let bytes = match self.patiently(stream.next()).await {
                Err(stalled) => return (done, Err(stalled)),
                Ok(None) => return (done, Ok(())),
                Ok(Some(Err(why))) => return (done, Err(self.cut(done, why))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            if bytes.len() as u64 > self.most_bytes.saturating_sub(done) {
                return (done, Err(FetchProblem::TooLarge(self.most_bytes)));
            }
            if let Err(error) = file.write_all(&bytes).await {
                return (done, Err(disk(&self.part(), &error)));
            }
            done += bytes.len() as u64;
            self.progress.advance(bytes.len() as u64);
        }
    }

    fn cut(&self, done: u64, why: String) -> FetchProblem {
        FetchProblem::Cut { file: self.file.name.clone(), done, why }
    }

    /// The part, cut or extended to nothing beyond `offset`, ready for the byte that follows.
    async fn open(&self, offset: u64) -> Result<File, FetchProblem> {
        let part = self.part();
        let opened = async {
            if let Some(folder) = part.parent() {
                fs::create_dir_all(folder).await?;
            }
            let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&part).await?;
            file.set_len(offset).await?;
            drop(file);
            fs::OpenOptions::new().append(true).open(&part).await
        };
        opened.await.map_err(|error: io::Error| disk(&part, &error))
    }

    async fn settle(&self) -> Result<(), FetchProblem> {
        let settled = async {
            gone(fs::remove_file(self.tag()).await)?;
            fs::rename(self.part(), &self.target).await
        };
        settled.await.map_err(|error| disk(&self.target, &error))
    }

    /// Waits as long as anything may take without a byte.
    async fn patiently<F: Future>(&self, future: F) -> Result<F::Output, FetchProblem> {
        let stall: Duration = self.pace.stall;
        timeout(stall, future).await.map_err(|_elapsed| FetchProblem::Stalled(stall))
    }
}

/// What was to be removed is not there, now.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// `bytes 10-99/100`, which must begin where it was asked to.
fn partial(header: Option<String>, offset: u64) -> Result<Range, FetchProblem> {
    let nonsense = || FetchProblem::BadAnswer(format!("content-range is {:?}", header.as_deref().unwrap_or("absent")));
    let rest = header.as_deref().and_then(|header| header.strip_prefix("bytes ")).ok_or_else(nonsense)?;
    let (span, total) = rest.split_once('/').ok_or_else(nonsense)?;
    let (start, last) = span.split_once('-').ok_or_else(nonsense)?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (start, last) = number(start).zip(number(last)).ok_or_else(nonsense)?;
    let (end, total) = (last.saturating_add(1), number(total));
    if start != offset || end <= start || total.is_some_and(|total| end > total) {
        return Err(nonsense());
    }
    Ok(Range { offset, end: Some(end), total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_begin_where_it_was_asked_to() {
        let whole = Range { offset: 10, end: Some(100), total: Some(100) };
        assert_eq!(partial(Some("bytes 10-99/100".into()), 10), Ok(whole));
        assert_eq!(partial(Some("bytes 10-99/*".into()), 10), Ok(Range { offset: 10, end: Some(100), total: None }));
        assert_eq!(partial(Some("bytes 10-49/100".into()), 10).unwrap().end, Some(50));
        for nonsense in [
            "bytes 0-99/100",
            "bytes */100",
            "10-99/100",
            "bytes x-99/100",
            "bytes 10/100",
            "bytes 10-100/100",
            "bytes 10-9/100",
            "",
        ] {
            assert!(partial(Some(nonsense.into()), 10).is_err(), "{nonsense}");
        }
        assert!(partial(None, 0).is_err());
    }
}
