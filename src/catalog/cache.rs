//! The folders below the data folder that models are kept in, and deleting them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::problem::{FetchProblem, disk};
use super::{ModelSource, builtin, hub, web};

/// The name of a hub folder's lock, which stays: whoever waits for it must find the same file.
const LOCK: &str = "lock";

/// Where an entry's files are kept: for a model of the hub the folder of its repository, with everything that was downloaded
/// of it. `None` where the files are the operator's own.
pub fn cache_folder(source: &ModelSource, data_dir: &Path) -> Option<PathBuf> {
    match source {
        ModelSource::Builtin(builtin) => Some(builtin::expected(*builtin, data_dir).0),
        ModelSource::Hub { repo, .. } => Some(hub::home(repo, data_dir)),
        ModelSource::Web(address) => Some(web::home(address, data_dir)),
        ModelSource::Folder(_) | ModelSource::Gguf(_) => None,
    }
}

/// Deletes what is in such a folder, and returns the bytes of it. Blocking.
///
/// # Errors
///
/// Where something cannot be deleted, or the folder's model is being downloaded now; what was deleted by then is gone.
pub fn delete_cache(folder: &Path) -> io::Result<u64> {
    if !folder.try_exists()? {
        return Ok(0);
    }
    let lock = folder.join(LOCK);
    let _held = if lock.try_exists()? { Some(hold(&lock)?) } else { None };
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        bytes += size(&entry.path())?;
        // A link is deleted, and never followed.
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(bytes)
}

/// Keeps other processes from writing below `home` until it is dropped.
pub(super) async fn lock(home: &Path) -> Result<File, FetchProblem> {
    let path = home.join(LOCK);
    tokio::fs::create_dir_all(home).await.map_err(|error| disk(home, &error))?;
    let file = File::create(&path).map_err(|error| disk(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FetchProblem::Busy),
        Err(TryLockError::Error(error)) => Err(disk(&path, &error)),
    }
}

fn hold(lock: &Path) -> io::Result<File> {
    let file = File::open(lock)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::other("the model is being downloaded now")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Of all files in a folder, or of one.
fn size(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(reference: &str) -> ModelSource {
        ModelSource::from_reference(&reference.parse().unwrap()).unwrap()
    }

    #[test]
    fn only_what_the_gateway_has_put_there_is_its_to_delete() {
        let data = Path::new("/data");
        assert_eq!(cache_folder(&source("hf:a/b@main/q4.gguf"), data), Some("/data/hub/a--b".into()));
        assert_eq!(cache_folder(&ModelSource::Folder("/data/hub/a--b".into()), data), None);
        let builtin = cache_folder(&source("builtin-embedding"), data).unwrap();
        assert!(builtin.starts_with("/data/models/"), "{}", builtin.display());
    }

    #[test]
    fn everything_but_the_lock_goes_and_nothing_outside() {
        let data = tempfile::tempdir().unwrap();
        let (home, outside) = (data.path().join("home"), data.path().join("outside"));
        fs::create_dir_all(home.join("commit")).unwrap();
        fs::write(home.join("commit/model.safetensors"), "weights").unwrap();
        fs::write(home.join("lock"), "").unwrap();
        fs::write(&outside, "stays").unwrap();
        std::os::unix::fs::symlink(data.path(), home.join("link")).unwrap();
        let link = fs::symlink_metadata(home.join("link")).unwrap().len();
        assert_eq!(delete_cache(&home).unwrap(), 7 + link);
        let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        assert_eq!(fs::read(&outside).unwrap(), b"stays");
        assert_eq!(delete_cache(&data.path().join("nowhere")).unwrap(), 0);
    }

    #[test]
    fn what_is_being_downloaded_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("config.json"), "{}").unwrap();
        let lock = File::create(home.path().join("lock")).unwrap();
        lock.try_lock().unwrap();
        assert_eq!(delete_cache(home.path()).unwrap_err().to_string(), "the model is being downloaded now");
        drop(lock);
        assert_eq!(delete_cache(home.path()).unwrap(), 2);
    }
}
