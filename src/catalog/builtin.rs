//! The models inside the program, written to the disk where an engine can load them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{FileDigest, combine};
use super::{BUILTIN, BUILTIN_EMBEDDING, ModelFiles, ModelPath, Silent, digest_files, sha256};

/// A model inside the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// It chats.
    Chat,
    /// It embeds.
    Embedding,
}

macro_rules! embedded {
    ($folder:literal: $($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../../examples/", $folder, "/model/", $name)))),*]
    };
}

/// Locked by whoever writes a model.
const LOCK: &str = ".builtin.lock";

/// Name and content of a file.
type Embedded = (&'static str, &'static [u8]);

/// About as many bytes as the model has.
const CHAT: &[Embedded] = embedded!["builtin-model": "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json"];

const EMBEDDING: &[Embedded] = embedded!["builtin-embedding": "1_Pooling/config.json", "config.json", "model.safetensors",
    "modules.json", "tokenizer.json", "tokenizer_config.json"];

impl Builtin {
    pub const ALL: [Builtin; 2] = [Self::Chat, Self::Embedding];

    /// Its id in the catalog.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Chat => BUILTIN,
            Self::Embedding => BUILTIN_EMBEDDING,
        }
    }

    /// The one of this id.
    pub fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.id() == id)
    }

    const fn files(self) -> &'static [Embedded] {
        match self {
            Self::Chat => CHAT,
            Self::Embedding => EMBEDDING,
        }
    }
}

/// Puts a model into `data_dir/models/builtin-<digest>`, or uses what is there once it is known to be the same; into a
/// temporary folder where `data_dir` cannot be written. Blocking, some milliseconds.
///
/// # Errors
///
/// When the temporary folder cannot be written either.
pub(super) fn prepare(builtin: Builtin, data_dir: &Path) -> Result<ModelFiles, (PathBuf, io::Error)> {
    write(data_dir, builtin.files())
}

fn write(data_dir: &Path, files: &[(&str, &[u8])]) -> Result<ModelFiles, (PathBuf, io::Error)> {
    let digests: Vec<_> = files.iter().map(digest_of).collect();
    let digest = combine(&digests);
    let size = digests.iter().map(|file| file.size).sum();
    let models = data_dir.join("models");
    let folder = folder_of_digest(&models, &digest);
    match settle(&models, &folder, files, &digests) {
        Ok(()) => {
            let path = ModelPath::Folder(folder);
            Ok(ModelFiles { path, digest, size, files: digests, _temporary: None })
        }
        Err(error) => {
            tracing::warn!(folder = %models.display(), %error, "cannot keep the built-in model here; using a temporary folder");
            let temporary = temporary(files).map_err(|error| (folder, error))?;
            let path = ModelPath::Folder(temporary.path().to_owned());
            Ok(ModelFiles { path, digest, size, files: digests, _temporary: Some(Arc::new(temporary)) })
        }
    }
}

fn folder_of_digest(models: &Path, digest: &str) -> PathBuf {
    models.join(format!("builtin-{}", &digest["sha256:".len()..][..16]))
}

/// Where a model is written to below `data_dir`, and what is written there.
pub(super) fn expected(builtin: Builtin, data_dir: &Path) -> (PathBuf, Vec<FileDigest>) {
    let digests: Vec<_> = builtin.files().iter().map(digest_of).collect();
    (folder_of_digest(&data_dir.join("models"), &combine(&digests)), digests)
}

fn digest_of((name, content): &(&str, &[u8])) -> FileDigest {
    FileDigest { name: (*name).to_owned(), size: content.len() as u64, sha256: sha256(content) }
}

/// Makes `folder` hold exactly these contents. Written beside it and renamed, so that it is never seen half written; by one
/// at a time, since every pool of the model asks for it when the gateway starts.
fn settle(models: &Path, folder: &Path, files: &[(&str, &[u8])], digests: &[FileDigest]) -> io::Result<()> {
    if holds(folder, digests) {
        return Ok(());
    }
    fs::create_dir_all(models)?;
    let turn = fs::File::create(models.join(LOCK))?;
    turn.lock()?;
    if holds(folder, digests) {
        return Ok(());
    }
    let fresh = tempfile::Builder::new().prefix(".builtin-").tempdir_in(models)?;
    fill(fresh.path(), files)?;
    if folder.exists() {
        tracing::warn!(folder = %folder.display(), "the built-in model on the disk was changed; writing it again");
        fs::remove_dir_all(folder)?;
    }
    fs::rename(fresh.path(), folder)
}

fn holds(folder: &Path, digests: &[FileDigest]) -> bool {
    let names: Vec<_> = digests.iter().map(|file| file.name.clone()).collect();
    digest_files(folder, &names, &Silent).is_ok_and(|found| found == digests)
}

fn temporary(files: &[(&str, &[u8])]) -> io::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("sluicegate-builtin-").tempdir()?;
    fill(folder.path(), files)?;
    Ok(folder)
}

fn fill(folder: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    files.iter().try_for_each(|(name, content)| {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, content)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    const SMALL: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"weights")];

    fn folder_of(files: &ModelFiles) -> PathBuf {
        match &files.path {
            ModelPath::Folder(folder) => folder.clone(),
            ModelPath::Gguf(_) => panic!("the built-in model is a folder"),
        }
    }

    #[test]
    fn what_is_there_is_used_again_and_what_was_changed_is_mended() {
        let data = tempfile::tempdir().unwrap();
        let folder = folder_of(&write(data.path(), &SMALL).unwrap());
        let weights = folder.join("model.safetensors");
        let written = fs::metadata(&weights).unwrap().modified().unwrap();

        write(data.path(), &SMALL).unwrap();
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written);

        fs::write(&weights, "changed").unwrap();
        write(data.path(), &SMALL).unwrap();
        assert_eq!(fs::read(&weights).unwrap(), b"weights");
        assert_eq!(names_in(&data.path().join("models")), [LOCK, folder.file_name().unwrap().to_str().unwrap()]);
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn pools_that_start_together_do_not_take_it_from_each_other() {
        for _ in 0..50 {
            let data = tempfile::tempdir().unwrap();
            let (together, written) = (Barrier::new(4), AtomicU32::new(0));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        together.wait();
                        let files = write(data.path(), &SMALL).unwrap();
                        assert!(files._temporary.is_none());
                        // As an engine does that has been told of it.
                        assert!(holds(&folder_of(&files), &files.files), "it was taken away again");
                        written.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(written.into_inner(), 4);
        }
    }

    #[test]
    fn another_model_goes_into_another_folder() {
        let data = tempfile::tempdir().unwrap();
        let first = write(data.path(), &SMALL).unwrap();
        let second = write(data.path(), &SMALL[..1]).unwrap();
        assert_ne!(folder_of(&first), folder_of(&second));
        assert_ne!(first.digest, second.digest);
    }

    #[test]
    fn a_data_folder_that_cannot_be_written_is_replaced_by_a_temporary_one() {
        let data = tempfile::NamedTempFile::new().unwrap();
        let files = write(data.path(), &SMALL).unwrap();
        let folder = folder_of(&files);
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"weights");
        drop(files);
        assert!(!folder.exists());
    }
}
