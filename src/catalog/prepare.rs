//! From a source to files on the disk: write, find or download them, then check and digest them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::download::Snapshot;
use super::files::{FileDigest, combine, is_module, is_weights, select};
use super::{
    Builtin, Entry, FetchProblem, FileRoots, HubAccess, ModelFiles, ModelPath, ModelSource, Progress, WebAccess,
    builtin, cache, delete_cache, digest_files, hub, web,
};
use crate::lifecycle::Lifecycle;

/// Where models are kept, and how servers that have them are reached.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Downloads go below `hub` and `web` in it, the built-in model below `models`.
    pub data_dir: PathBuf,
    pub hub: HubAccess,
    pub web: WebAccess,
    /// What lies in one of them may not lead out of them.
    pub roots: FileRoots,
    /// No model that is downloaded has more bytes.
    pub max_model_bytes: u64,
    /// And none of those that tasks bring.
    pub max_guest_bytes: u64,
}

impl Storage {
    /// As it is for an entry: what a task has brought has a limit of its own, and is not got with the operator's token.
    fn of(&self, entry: &Entry) -> Self {
        let mut storage = self.clone();
        if entry.guest {
            storage.max_model_bytes = storage.max_model_bytes.min(storage.max_guest_bytes);
            storage.hub.token = None;
        }
        storage
    }
}

/// Why a model could not be made ready. Each message names the model or file, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{path} is no model: {why}", path = path.display())]
    NotAModel { path: PathBuf, why: &'static str },
    #[error("{reference}: {problem}")]
    Fetch { reference: String, problem: FetchProblem },
    #[error("{path} was damaged on its way and is removed; start again to download it again", path = path.display())]
    Damaged { path: PathBuf },
    #[error("model {model}: its files have the digest {found}, not {pinned} as configured")]
    Digest { model: String, pinned: String, found: String },
    #[error("checking the files was cut short")]
    Interrupted,
}

/// Makes the files of a model ready on this machine. Downloads what is not there; a download that was cut goes on where it
/// ended, also in a later process.
///
/// # Errors
///
/// [`PrepareError`]; each message stands alone.
pub async fn prepare(
    entry: &Entry,
    storage: &Storage,
    progress: Arc<dyn Progress>,
    lifecycle: &Lifecycle,
) -> Result<ModelFiles, PrepareError> {
    let storage = &storage.of(entry);
    let named = |problem| PrepareError::Fetch { reference: entry.source.shown(), problem };
    let found = match &entry.source {
        ModelSource::Builtin(builtin) => Found::Builtin(*builtin, storage.data_dir.clone()),
        ModelSource::Folder(folder) => Found::Folder(folder.clone(), storage.roots.clone()),
        ModelSource::Gguf(path) => Found::Gguf(path.clone(), storage.roots.clone()),
        ModelSource::Hub { repo, revision, file } => {
            let fetched = hub::fetch(repo, revision, file.as_deref(), storage, progress.as_ref()).await;
            Found::Snapshot(fetched.map_err(named)?)
        }
        ModelSource::Web(address) => {
            Found::Snapshot(web::fetch(address, storage, progress.as_ref()).await.map_err(named)?)
        }
    };
    let checked = lifecycle.blocking("check model files", move || found.check(progress.as_ref())).await;
    let files = checked.map_err(|_panicked| PrepareError::Interrupted)??;
    match &entry.digest {
        Some(pinned) if *pinned != files.digest => {
            let (model, pinned, found) = (entry.id.clone(), pinned.clone(), files.digest);
            forget_download(entry, storage, lifecycle).await;
            Err(PrepareError::Digest { model, pinned, found })
        }
        _ => Ok(files),
    }
}

/// Deletes what came from a web server and was not what it should be: the server may have the right files another time.
async fn forget_download(entry: &Entry, storage: &Storage, lifecycle: &Lifecycle) {
    if !matches!(entry.source, ModelSource::Web(_)) {
        return;
    }
    let Some(folder) = cache::cache_folder(&entry.source, &storage.data_dir) else { return };
    if let Ok(Err(error)) = lifecycle.blocking("delete a download", move || delete_cache(&folder)).await {
        tracing::warn!(model = entry.id, %error, "a download that is not what it should be cannot be deleted");
    }
}

/// Files that are on this machine, or in the program, and are yet to be checked.
enum Found {
    Builtin(Builtin, PathBuf),
    Folder(PathBuf, FileRoots),
    Gguf(PathBuf, FileRoots),
    Snapshot(Snapshot),
}

impl Found {
    /// Blocking: reads every byte of the model.
    fn check(self, progress: &dyn Progress) -> Result<ModelFiles, PrepareError> {
        match self {
            Self::Builtin(builtin, data_dir) => builtin::prepare(builtin, &data_dir).map_err(file_error),
            Self::Folder(folder, roots) => check_folder(&folder, &roots, progress),
            Self::Gguf(path, roots) => check_gguf(path, &roots, progress),
            Self::Snapshot(snapshot) => check_snapshot(snapshot, progress),
        }
    }
}

fn check_folder(folder: &Path, roots: &FileRoots, progress: &dyn Progress) -> Result<ModelFiles, PrepareError> {
    let listing = list(folder).map_err(|error| PrepareError::File { path: folder.to_owned(), error })?;
    let names = select(listing.iter().map(String::as_str));
    let refuse = |why| Err(PrepareError::NotAModel { path: folder.to_owned(), why });
    if !names.iter().any(|name| is_weights(name)) {
        let gguf = listing.iter().any(|name| name.ends_with(".gguf"));
        return refuse(if gguf { "name one of its .gguf files" } else { "it holds no *.safetensors" });
    }
    for needed in ["config.json", "tokenizer.json"] {
        if !names.iter().any(|name| name == needed) {
            return refuse(if needed == "config.json" {
                "config.json is missing"
            } else {
                "tokenizer.json is missing"
            });
        }
    }
    check_links(folder, &names, roots)?;
    let digests = digest_files(folder, &names, progress).map_err(file_error)?;
    Ok(files(ModelPath::Folder(folder.to_owned()), &digests))
}

/// The names in a folder, and those in the folders of its modules.
pub(super) fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = names_in(folder)?;
    let modules: Vec<_> = names.iter().filter(|name| is_module(name) && folder.join(name).is_dir()).cloned().collect();
    for module in modules {
        names.extend(names_in(&folder.join(&module))?.into_iter().map(|name| format!("{module}/{name}")));
    }
    Ok(names)
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn check_gguf(path: PathBuf, roots: &FileRoots, progress: &dyn Progress) -> Result<ModelFiles, PrepareError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let names = [name];
    check_links(&folder, &names, roots)?;
    let digests = digest_files(&folder, &names, progress).map_err(file_error)?;
    let mut magic = [0; 4];
    let read = std::fs::File::open(&path).and_then(|mut file| io::Read::read_exact(&mut file, &mut magic));
    if read.is_err() || magic != *b"GGUF" {
        return Err(PrepareError::NotAModel { path, why: "it does not begin as a .gguf file does" });
    }
    Ok(files(ModelPath::Gguf(path), &digests))
}

/// Files in a folder that `file:` references may name do not lead to others by symbolic links: neither now, nor where the
/// folder itself was another one when it was added. A folder that only the command line names may have such files.
fn check_links(folder: &Path, names: &[String], roots: &FileRoots) -> Result<(), PrepareError> {
    if !roots.name(folder) {
        return Ok(());
    }
    let outside = |name: &&String| roots.check(&folder.join(name)).is_err();
    match names.iter().find(outside) {
        None => Ok(()),
        Some(name) => Err(PrepareError::NotAModel {
            path: folder.join(name),
            why: "it leads out of the folders of catalog.allowed_file_roots, or nowhere",
        }),
    }
}

fn check_snapshot(snapshot: Snapshot, progress: &dyn Progress) -> Result<ModelFiles, PrepareError> {
    let names: Vec<_> = snapshot.files.iter().map(|file| file.name.clone()).collect();
    let digests = digest_files(&snapshot.folder, &names, progress).map_err(file_error)?;
    for (file, digest) in snapshot.files.iter().zip(&digests) {
        if file.sha256.as_ref().is_some_and(|expected| *expected != digest.sha256) {
            let path = snapshot.folder.join(&file.name);
            std::fs::remove_file(&path).map_err(|error| PrepareError::File { path: path.clone(), error })?;
            return Err(PrepareError::Damaged { path });
        }
    }
    Ok(files(snapshot.path(), &digests))
}

fn files(path: ModelPath, digests: &[FileDigest]) -> ModelFiles {
    let size = digests.iter().map(|file| file.size).sum();
    ModelFiles { path, digest: combine(digests), size, files: digests.to_vec(), _temporary: None }
}

fn file_error((path, error): (PathBuf, io::Error)) -> PrepareError {
    PrepareError::File { path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use crate::catalog::Silent;

    /// A folder that references may name, with the files of a model, and one that they may not.
    fn folders() -> (tempfile::TempDir, PathBuf, tempfile::TempDir) {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let model = root.path().join("model");
        std::fs::create_dir(&model).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::write(model.join(name), "{}").unwrap();
            std::fs::write(outside.path().join(name), "{}").unwrap();
        }
        (root, model, outside)
    }

    #[test]
    fn no_link_leads_out_of_the_roots() {
        let (root, model, outside) = folders();
        let roots = FileRoots(vec![root.path().to_owned()]);
        check_folder(&model, &roots, &Silent).unwrap();
        let config = model.join("config.json");
        std::fs::rename(&config, root.path().join("config")).unwrap();
        symlink(root.path().join("config"), &config).unwrap();
        check_folder(&model, &roots, &Silent).expect("a link that stays inside");
        std::fs::remove_file(&config).unwrap();
        symlink(outside.path().join("config.json"), &config).unwrap();
        let refused = check_folder(&model, &roots, &Silent).unwrap_err().to_string();
        assert!(refused.contains("config.json is no model: it leads out"), "{refused}");
        check_folder(&model, &FileRoots::default(), &Silent).expect("named by the command line alone");
        // The folder was another one when it was added.
        let moved = root.path().join("moved");
        symlink(outside.path(), &moved).unwrap();
        assert!(check_folder(&moved, &roots, &Silent).is_err());
        std::fs::write(outside.path().join("m.gguf"), "GGUF").unwrap();
        assert!(check_gguf(moved.join("m.gguf"), &roots, &Silent).is_err());
    }

    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let (_root, model, _outside) = folders();
        std::fs::remove_file(model.join("config.json")).unwrap();
        assert!(Command::new("mkfifo").arg(model.join("config.json")).status().unwrap().success());
        let refused = check_folder(&model, &FileRoots::default(), &Silent).unwrap_err().to_string();
        assert!(refused.ends_with("it is not a file"), "{refused}");
    }
}
