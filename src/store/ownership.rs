//! One process per data folder: an exclusive lock on a file in it, which holds the number of the process; and on the database
//! itself, which may have more than one name. SQLite's own locks are of another kind and do not meet this one.
//!
//! The operating system lets go of the lock when the process ends, however it ends.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;

/// Another gateway has the data folder.
#[derive(Debug, thiserror::Error)]
#[error("the data folder {folder} is in use by another gateway{holder}; give each gateway its own data_dir and store.url",
    folder = folder.display(), holder = pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
pub struct InUse {
    pub folder: PathBuf,
    /// Of the process that has it, where it is known.
    pub pid: Option<u32>,
}

/// The lock, while it is held.
#[derive(Debug)]
pub(super) struct Ownership {
    locked: File,
    /// Closing it would take away SQLite's own locks, so it is dropped after the connection.
    database: File,
}

impl Ownership {
    /// Takes the folder of the database `path`. Blocking.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let failed = |error| OpenError::Folder { folder: folder.clone(), error };
        let lock = path.with_extension("lock");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whether its number can be read or not, the folder is taken.
                let _ = file.read_to_string(&mut holder);
                return Err(InUse { folder, pid: holder.trim().parse().ok() }.into());
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Empty where it is new, which SQLite takes for a new database.
        let database =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match database.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(InUse { folder, pid: None }.into()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let write = |file: &mut File| file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        write(&mut file).map_err(failed)?;
        Ok(Self { locked: file, database })
    }
}

impl Drop for Ownership {
    /// Not left to the closing of the files: a process that another thread is just starting has them open as well for a moment.
    fn drop(&mut self) {
        for file in [&self.locked, &self.database] {
            if let Err(error) = file.unlock() {
                tracing::warn!(%error, "the data folder is free once the process has ended");
            }
        }
    }
}
