//! A file of ends that are durable and not in the database yet: a line of JSON for each, in their order.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::end::End;

/// Ends that wait for a database, in a file that is there while there are some. All of it is blocking.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    /// While it is written, with its length.
    file: Option<(File, u64)>,
}

impl Spool {
    /// For the database of this name.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("ends-{name}.jsonl")), file: None }
    }

    /// Whether this process has written to it since it was last cleared.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier process has left. A last line that is not whole was never answered for.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is of a later version.
    pub fn read(&self) -> io::Result<Vec<End>> {
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        // It may have been cut inside a character.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &text[..end]);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
    }

    /// Adds ends, and returns once they are on the disk.
    ///
    /// # Errors
    ///
    /// None of them is in the file then.
    pub fn append<'e>(&mut self, ends: impl Iterator<Item = &'e End>) -> io::Result<()> {
        let mut lines = Vec::new();
        for end in ends {
            serde_json::to_writer(&mut lines, end)?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        let (mut file, length) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        match file.write_all(&lines).and_then(|()| file.sync_data()) {
            Ok(()) => {
                self.file = Some((file, length + lines.len() as u64));
                Ok(())
            }
            Err(error) => {
                // Where what is left of it cannot be cut off now, that is done before the next line.
                self.file = file.set_len(length).ok().map(|()| (file, length));
                Err(error)
            }
        }
    }

    /// Removes the file: what was in it is in the database.
    ///
    /// # Errors
    ///
    /// It is still there, and is written once more at the next start, which changes nothing.
    pub fn clear(&mut self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.file = None;
        sync_folder(&self.path)
    }
}

/// For lines after those that it has, cut to whole ones.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let text = std::fs::read(path)?;
    let length = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
    file.set_len(length)?;
    file.sync_all()?;
    sync_folder(path)?;
    Ok((file, length))
}

/// A file that was made or removed is so after a loss of power too.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LedgerRow;

    fn end(number: i64) -> End {
        End::Entry(LedgerRow {
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

    #[test]
    fn ends_are_read_again_in_their_order_until_they_are_cleared() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::new(&folder.path().join("data"), "x");
        assert_eq!(spool.read().expect("nothing"), []);
        spool.append([].iter()).expect("nothing to write");
        assert!(!spool.path().exists());
        spool.append([end(1), end(2)].iter()).expect("room");
        spool.append([end(3)].iter()).expect("room");
        let again = Spool::new(&folder.path().join("data"), "x");
        assert_eq!(again.read().expect("a file"), [end(1), end(2), end(3)]);
        spool.clear().expect("it is removed");
        spool.clear().expect("it is not there");
        assert_eq!(again.read().expect("nothing"), []);
        spool.append([end(4)].iter()).expect("room");
        assert_eq!(again.read().expect("a file"), [end(4)]);
    }

    #[test]
    fn a_line_that_was_cut_is_none_and_others_come_after_whole_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::new(folder.path(), "x");
        spool.append([end(1)].iter()).expect("room");
        let mut text = std::fs::read(spool.path()).expect("a file");
        text.extend_from_slice(b"{\"entry\": {\"numb");
        std::fs::write(spool.path(), text).expect("room");
        let mut next = Spool::new(folder.path(), "x");
        assert_eq!(next.read().expect("a file"), [end(1)]);
        next.append([end(2)].iter()).expect("room");
        assert_eq!(next.read().expect("a file"), [end(1), end(2)]);
        std::fs::write(next.path(), "{\"later\": {}}\n").expect("room");
        assert!(next.read().is_err(), "of a later version");
    }
}
