//! A file of records that are durable and not in the database yet: a line of JSON for each, in their order.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::Record;

/// Records that wait for a database, in a file that is there while there are some. All of it is blocking.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    /// While it is written.
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    id: Arc<str>,
    records: i64,
}

/// The place of a record: in which file, and how many there are with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub spool: Arc<str>,
    pub records: i64,
}

/// What an earlier process has left.
#[derive(Debug, PartialEq)]
pub(super) struct Left {
    /// Of the file.
    pub id: String,
    pub records: Vec<Record>,
}

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// Made up for each file.
    spool: String,
}

impl Spool {
    /// For the database of this name.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("spool-{name}.jsonl")), file: None }
    }

    /// Whether this process has written to it since it was last cleared.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier process has left, where that is anything. A last line that is not whole was never answered for.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is of a later version.
    pub fn read(&self) -> io::Result<Option<Left>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => parse(&text?),
        }
    }

    /// Adds records, and returns once they are on the disk, with the place of each.
    ///
    /// # Errors
    ///
    /// None of them is in the file then.
    pub fn append(&mut self, records: &[Record]) -> io::Result<Vec<Mark>> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        let mut open = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        match open.file.write_all(&lines).and_then(|()| open.file.sync_data()) {
            Ok(()) => {
                open.length += lines.len() as u64;
                let places = (open.records + 1..).take(records.len());
                let places = places.map(|records| Mark { spool: Arc::clone(&open.id), records }).collect::<Vec<_>>();
                open.records = places.last().map_or(open.records, |last| last.records);
                self.file = Some(open);
                Ok(places)
            }
            Err(error) => {
                // Where what is left of it cannot be cut off now, that is done before the next line.
                self.file = open.file.set_len(open.length).ok().map(|()| open);
                Err(error)
            }
        }
    }

    /// Removes the file: what was in it is in the database.
    ///
    /// # Errors
    ///
    /// It is still there, and the next start finds that all of it is written.
    pub fn clear(&mut self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.file = None;
        sync_folder(&self.path)
    }
}

/// The lines that are whole; the last one may have been cut inside a character.
fn whole(text: &[u8]) -> &[u8] {
    text.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &text[..=end])
}

fn parse(text: &[u8]) -> io::Result<Option<Left>> {
    let mut lines = whole(text).split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let Some(head) = lines.next() else { return Ok(None) };
    let Head { spool } = serde_json::from_slice(head)?;
    let records = lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect::<Result<_, _>>()?;
    Ok(Some(Left { id: spool, records }))
}

/// For lines after those that it has, cut to whole ones.
fn open(path: &Path) -> io::Result<Open> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let text = std::fs::read(path)?;
    let mut length = whole(&text).len() as u64;
    file.set_len(length)?;
    let (id, records) = match parse(&text)? {
        Some(Left { id, records }) => (id, records.len()),
        None => {
            let id = Uuid::new_v4().to_string();
            let head = format!("{}\n", serde_json::to_string(&Head { spool: id.clone() })?);
            file.write_all(head.as_bytes())?;
            length += head.len() as u64;
            (id, 0)
        }
    };
    file.sync_all()?;
    sync_folder(path)?;
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    Ok(Open { file, length, id: id.into(), records })
}

/// A file that was made or removed is so after a loss of power too.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LedgerRow;

    fn end(number: i64) -> Record {
        Record::Entry(LedgerRow {
            number,
            task_id: format!("task-{number}"),
            tenant: "a \"quoted\"\nname".into(),
            api_key: String::new(),
            model: "m".into(),
            pool: "p".into(),
            tokens_in: 1,
            tokens_cached: 0,
            tokens_out: 2,
            queue_ms: 3,
            engine_ms: 4,
            cost: 5,
            outcome: "stop".into(),
            ended_ms: 6,
        })
    }

    fn read(spool: &Spool) -> Left {
        spool.read().expect("a file").expect("records")
    }

    #[test]
    fn ends_are_read_again_in_their_order_until_they_are_cleared() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::new(&folder.path().join("data"), "x");
        assert_eq!(spool.read().expect("nothing"), None);
        spool.append(&[]).expect("nothing to write");
        assert!(!spool.path().exists());
        spool.append(&[end(1), end(2)]).expect("room");
        let mark = spool.append(&[end(3)]).expect("room").remove(0);
        let again = Spool::new(&folder.path().join("data"), "x");
        let left = read(&again);
        assert_eq!(left.records, [end(1), end(2), end(3)]);
        assert_eq!((left.id.as_str(), 3), (&*mark.spool, mark.records));
        spool.clear().expect("it is removed");
        spool.clear().expect("it is not there");
        assert_eq!(again.read().expect("nothing"), None);
        spool.append(&[end(4)]).expect("room");
        assert_eq!(read(&again).records, [end(4)]);
    }

    #[test]
    fn a_line_that_was_cut_is_none_and_others_come_after_whole_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::new(folder.path(), "x");
        spool.append(&[end(1)]).expect("room");
        let mut text = std::fs::read(spool.path()).expect("a file");
        text.extend_from_slice(b"{\"entry\": {\"numb");
        std::fs::write(spool.path(), text).expect("room");
        let mut next = Spool::new(folder.path(), "x");
        assert_eq!(read(&next).records, [end(1)]);
        let mark = next.append(&[end(2)]).expect("room").remove(0);
        assert_eq!(mark.records, 2);
        assert_eq!(read(&next).records, [end(1), end(2)]);
        std::fs::write(next.path(), "{\"later\": {}}\n").expect("room");
        assert!(next.read().is_err(), "of a later version");
    }
}
