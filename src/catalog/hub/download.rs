//! One file from the hub to the disk: to `NAME.part` first, from where an earlier attempt ended, then renamed.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hf_hub::api::tokio::Api;
use tokio::fs::{self, File};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::time::{sleep, timeout};

use super::{HubAccess, HubProblem, RemoteFile, causes, disk, refusal};
use crate::catalog::Progress;

/// New attempts in a row that bring less than [`WORTHWHILE`].
const RETRIES: u32 = 4;
/// An attempt that brought so many bytes starts the count again.
const WORTHWHILE: u64 = 8 << 20;

/// One file on its way.
pub(super) struct Download<'a> {
    pub url: String,
    pub file: &'a RemoteFile,
    /// Where it goes.
    pub target: PathBuf,
    pub access: &'a HubAccess,
    pub progress: &'a dyn Progress,
}

/// The part of the file that an answer carries.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// Bytes before it.
    offset: u64,
    /// Bytes of the whole file, where the answer says so.
    total: Option<u64>,
}

impl Download<'_> {
    /// Fetches what is missing of the file, in as many attempts as it takes while they get somewhere.
    pub(super) async fn run(&self, api: &Api) -> Result<(), HubProblem> {
        if self.is_complete().await {
            return Ok(());
        }
        let mut failures = 0;
        loop {
            let before = self.fetched().await;
            let Err(problem) = self.attempt(api, before).await else { return self.settle().await };
            let gained = self.fetched().await.saturating_sub(before);
            failures = if gained >= WORTHWHILE { 1 } else { failures + 1 };
            if !problem.is_transient() || failures > RETRIES {
                return Err(problem);
            }
            self.progress.note(&format!("{}: {problem}; trying again", self.file.name));
            sleep(self.access.retry_pause * 2_u32.pow(failures - 1)).await;
        }
    }

    async fn is_complete(&self) -> bool {
        let found = fs::metadata(&self.target).await;
        found.is_ok_and(|found| found.is_file() && self.file.size.is_none_or(|size| size == found.len()))
    }

    fn part(&self) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(".part");
        name.into()
    }

    /// Bytes that earlier attempts left. More than the file has cannot be a part of it.
    async fn fetched(&self) -> u64 {
        let found = fs::metadata(self.part()).await.map_or(0, |found| found.len());
        if self.file.size.is_some_and(|size| found > size) { 0 } else { found }
    }

    /// One request, from `offset` to the end of the file.
    async fn attempt(&self, api: &Api, offset: u64) -> Result<(), HubProblem> {
        if self.file.size == Some(offset) {
            return if offset == 0 { self.open(0).await.map(drop) } else { Ok(()) };
        }
        // Sent always, because a range also keeps the answer from being compressed.
        let request = api.client().get(&self.url).header("range", format!("bytes={offset}-"));
        let answer = self.patiently(request.send()).await?;
        let answer = answer.map_err(|error| HubProblem::Unreachable(causes(&error)))?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let range = match answer.status().as_u16() {
            206 => partial(header("content-range"), offset)?,
            200 => Range { offset: 0, total: header("content-length").and_then(|length| length.parse().ok()) },
            416 if offset > 0 => return self.start_over().await,
            status => return Err(refusal(status, self.access, HubProblem::NoSuchFile(self.file.name.clone()))),
        };
        let total = self.agreed(range.total)?;
        self.progress.start(&format!("fetching {}", self.file.name), total);
        self.progress.advance(range.offset);
        self.save(answer.bytes_stream(), range.offset, total).await?;
        self.progress.finish();
        Ok(())
    }

    /// The length of the file, which listing and answer must not tell differently.
    fn agreed(&self, answered: Option<u64>) -> Result<Option<u64>, HubProblem> {
        match (self.file.size, answered) {
            (Some(listed), Some(answered)) if listed != answered => {
                let name = &self.file.name;
                Err(HubProblem::BadAnswer(format!(
                    "{name} has {listed} bytes in the listing and {answered} in the answer"
                )))
            }
            (listed, answered) => Ok(listed.or(answered)),
        }
    }

    async fn start_over(&self) -> Result<(), HubProblem> {
        let part = self.part();
        fs::remove_file(&part).await.map_err(|error| disk(&part, &error))?;
        Err(HubProblem::Cut { file: self.file.name.clone(), done: 0, why: "the part on the disk does not fit".into() })
    }

    /// Appends the stream to the part. What came is kept, however it ends.
    async fn save<S, E>(&self, stream: S, offset: u64, total: Option<u64>) -> Result<(), HubProblem>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::error::Error,
    {
        let part = self.part();
        let mut file = BufWriter::with_capacity(1 << 20, self.open(offset).await?);
        let (done, ended) = self.copy(stream, offset, &mut file).await;
        let flushed = async {
            file.flush().await?;
            file.get_ref().sync_all().await
        };
        flushed.await.map_err(|error| disk(&part, &error))?;
        ended?;
        match total {
            Some(total) if done < total => Err(self.cut(done, "the answer ended early".to_owned())),
            Some(total) if done > total => {
                Err(HubProblem::BadAnswer(format!("{} is longer than told", self.file.name)))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the file that are written afterwards, and how the stream ended.
    async fn copy<S, E>(&self, stream: S, offset: u64, file: &mut BufWriter<File>) -> (u64, Result<(), HubProblem>)
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::error::Error,
    {
        let mut stream = std::pin::pin!(stream);
        let mut done = offset;
        loop {
            let bytes = match self.patiently(stream.next()).await {
                Err(stalled) => return (done, Err(stalled)),
                Ok(None) => return (done, Ok(())),
                Ok(Some(Err(error))) => return (done, Err(self.cut(done, causes(&error)))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            if let Err(error) = file.write_all(&bytes).await {
                return (done, Err(disk(&self.part(), &error)));
            }
            done += bytes.len() as u64;
            self.progress.advance(bytes.len() as u64);
        }
    }

    fn cut(&self, done: u64, why: String) -> HubProblem {
        HubProblem::Cut { file: self.file.name.clone(), done, why }
    }

    /// The part, cut or extended to nothing beyond `offset`, ready for the byte that follows.
    async fn open(&self, offset: u64) -> Result<File, HubProblem> {
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

    async fn settle(&self) -> Result<(), HubProblem> {
        fs::rename(self.part(), &self.target).await.map_err(|error| disk(&self.target, &error))
    }

    /// Waits as long as anything may take without a byte.
    async fn patiently<F: Future>(&self, future: F) -> Result<F::Output, HubProblem> {
        let stall: Duration = self.access.stall;
        timeout(stall, future).await.map_err(|_elapsed| HubProblem::Stalled(stall))
    }
}

/// `bytes 10-99/100`, which must begin where it was asked to.
fn partial(header: Option<String>, offset: u64) -> Result<Range, HubProblem> {
    let nonsense = || HubProblem::BadAnswer(format!("content-range is {:?}", header.as_deref().unwrap_or("absent")));
    let rest = header.as_deref().and_then(|header| header.strip_prefix("bytes ")).ok_or_else(nonsense)?;
    let (span, total) = rest.split_once('/').ok_or_else(nonsense)?;
    let start = span.split('-').next().and_then(|start| start.trim().parse::<u64>().ok()).ok_or_else(nonsense)?;
    if start != offset {
        return Err(nonsense());
    }
    Ok(Range { offset, total: total.trim().parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_begin_where_it_was_asked_to() {
        let whole = Range { offset: 10, total: Some(100) };
        assert_eq!(partial(Some("bytes 10-99/100".into()), 10), Ok(whole));
        assert_eq!(partial(Some("bytes 10-99/*".into()), 10), Ok(Range { offset: 10, total: None }));
        for nonsense in ["bytes 0-99/100", "bytes */100", "10-99/100", "bytes x-99/100", ""] {
            assert!(partial(Some(nonsense.into()), 10).is_err(), "{nonsense}");
        }
        assert!(partial(None, 0).is_err());
    }
}
