//! The files of a model: which ones count, and the digest over them.
//!
//! The digest is the SHA-256 of what `sha256sum` prints for the files in the order of their names, so that anybody can
//! make it again: `sha256sum FILES | sha256sum`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Progress, sha256, tagged};

/// A model that lies on the disk, complete.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    pub path: ModelPath,
    /// `sha256:` and 64 hex digits, over the names and contents of the files that make the model.
    pub digest: String,
    /// Bytes, of the same files.
    pub size: u64,
    /// The same files, one by one.
    pub files: Vec<FileDigest>,
    /// Keeps a temporary folder, where the model had to be put in one, until the last clone is dropped.
    pub(super) _temporary: Option<Arc<TempDir>>,
}

/// What to hand to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPath {
    /// A folder with `config.json`, the tokenizer and `*.safetensors`.
    Folder(PathBuf),
    /// One `.gguf` file.
    Gguf(PathBuf),
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Relative to the model's folder.
    pub name: String,
    pub size: u64,
    /// `sha256:` and 64 hex digits.
    pub sha256: String,
}

/// Reads each file and digests it. Blocking: about half a second per gigabyte where the processor has instructions for
/// SHA-256 and the disk keeps up.
///
/// # Errors
///
/// The first file that cannot be read, with the reason.
pub fn digest_files(
    folder: &Path,
    names: &[String],
    progress: &dyn Progress,
) -> Result<Vec<FileDigest>, (PathBuf, io::Error)> {
    let digest = |name: &String| {
        let path = folder.join(name);
        digest_file(&path, name, progress).map_err(|error| (path, error))
    };
    names.iter().map(digest).collect()
}

fn digest_file(path: &Path, name: &str, progress: &dyn Progress) -> io::Result<FileDigest> {
    // Before it is opened, which waits for ever where it is a pipe that nobody writes to.
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut file = File::open(path)?;
    progress.start(&format!("checking {name}"), Some(metadata.len()));
    let (sha256, size) = digest_stream(&mut file, progress)?;
    progress.finish();
    Ok(FileDigest { name: name.to_owned(), size, sha256 })
}

fn digest_stream(file: &mut File, progress: &dyn Progress) -> io::Result<(String, u64)> {
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        if progress.canceled() {
            return Err(io::Error::other("it was canceled"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok((tagged(&hasher.finalize()), size)),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
                progress.advance(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest over all files, as the head of this file says.
pub(super) fn combine(files: &[FileDigest]) -> String {
    let mut lines: Vec<_> = files.iter().map(|file| (&file.name, &file.sha256["sha256:".len()..])).collect();
    lines.sort();
    let listing: String = lines.iter().map(|(name, hex)| format!("{hex}  {name}\n")).collect();
    sha256(listing.as_bytes())
}

/// Those names that make a model: configuration, tokenizer, chat template and weights, and nothing else of a repository.
pub(super) fn select<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut chosen: Vec<_> = names.into_iter().filter(|name| is_needed(name)).map(str::to_owned).collect();
    // Mistral's own repositories hold the same weights twice.
    if chosen.iter().any(|name| is_weights(name) && !name.starts_with("consolidated")) {
        chosen.retain(|name| !name.starts_with("consolidated"));
    }
    chosen.sort();
    chosen
}

/// Whether a file of this name holds weights.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Whether a name is that of a file in the same folder, and can be shown and asked for as it is.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    plain && !name.is_empty() && !name.starts_with(['.', '-'])
}

/// Whether a folder of this name is that of a module of sentence-transformers, such as `1_Pooling`: how a model embeds.
pub(super) fn is_module(folder: &str) -> bool {
    let named = |(number, kind): (&str, &str)| {
        let number = number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_digit());
        number && !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    folder.split_once('_').is_some_and(named)
}

fn is_needed(name: &str) -> bool {
    const NAMED: [&str; 8] = [
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "modules.json",
        "config_sentence_transformers.json",
        "preprocessor_config.json",
        "processor_config.json",
    ];
    if let Some((folder, name)) = name.split_once('/') {
        return is_module(folder) && matches!(name, "config.json" | "model.safetensors");
    }
    let tokenizer = name.starts_with("tokenizer") && (name.ends_with(".json") || name.ends_with(".model"));
    let weights = is_weights(name) || name.ends_with(".safetensors.index.json");
    is_plain(name) && (NAMED.contains(&name) || tokenizer || weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Silent;

    #[test]
    fn only_what_makes_the_model_is_selected() {
        let listing = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "evil/config.json",
            "modules.json",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "2_Dense/README.md",
            "2_Dense/deep/config.json",
            "1_../config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "../tokenizer.json",
            ".safetensors",
        ];
        let expected = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "modules.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(select(listing), expected);
        assert_eq!(select(["consolidated.safetensors"]), ["consolidated.safetensors"]);
    }

    #[test]
    fn the_digest_is_what_sha256sum_of_the_sums_gives() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b"), "two").unwrap();
        std::fs::write(folder.path().join("a"), "one").unwrap();
        let files = digest_files(folder.path(), &["b".into(), "a".into()], &Silent).unwrap();
        // printf one >a; printf two >b; sha256sum a b | sha256sum
        assert_eq!(combine(&files), "sha256:d17138d96382403690482a89da33475336ab36c046a6912a86badedd62301cb8");
        let renamed: Vec<_> =
            files.iter().map(|file| FileDigest { name: format!("{}x", file.name), ..file.clone() }).collect();
        assert_ne!(combine(&renamed), combine(&files));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = digest_files(folder.path(), &["gone".into()], &Silent).unwrap_err();
        assert_eq!(path, folder.path().join("gone"));
        let (_, error) = digest_files(folder.path(), &[".".into()], &Silent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
