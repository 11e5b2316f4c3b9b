//! Models from any web server: one `.gguf` file, or a folder with the usual file names.
//!
//! An address whose path ends in `.gguf` is that file. Any other is a folder as on Hugging Face, whose files are asked for by
//! name, because a web server does not list its folders: `config.json`, the tokenizer, `model.safetensors` or what
//! `model.safetensors.index.json` names, and of a model that embeds `modules.json` with what that names. What is there is downloaded once; to get it again, the copy is deleted by a purge.
//!
//! Below `data_dir/web/HOST--HASH`: the files in `files`, and in `refs` a record once they are complete.
//!
//! A reference can come from any caller, so servers are asked through [`crate::web`], which keeps private networks out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

mod origin;

use origin::Server;

use super::cache;
use super::download::{Download, Pace, RemoteFile, Snapshot};
use super::files::{is_module, is_plain, is_weights};
use super::problem::{FetchProblem, disk};
use super::record::Record;
use super::{Progress, Storage, hex};
use crate::web::Hosts;

/// How web servers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAccess {
    /// `catalog.web.trusted_hosts`.
    pub hosts: Hosts,
    /// After so long without a byte a connection counts as dead.
    pub stall: Duration,
    /// Before the first new attempt; doubled before each further one. There are four.
    pub retry_pause: Duration,
}

/// The folder below a model's home.
const FILES: &str = "files";
/// The name of its record.
const COMPLETE: &str = "complete";

const INDEX: &str = "model.safetensors.index.json";

/// How a model embeds, as sentence-transformers has it; what belongs to that, and to each of its modules.
const MODULES: &str = "modules.json";
const OF_MODULES: &str = "config_sentence_transformers.json";
const OF_MODULE: [&str; 2] = ["config.json", "model.safetensors"];

/// Files that every model has, and files that some have.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 6] = [
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// Of a file that is no weights: bytes at most.
const LARGEST_SMALL_FILE: u64 = 64 << 20;

/// Files of weights at most.
const MOST_SHARDS: usize = 1024;

/// Modules of a model that embeds at most.
const MOST_MODULES: usize = 16;

/// What is read of an index of weights: the file of each tensor.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// What is read of a module in the list of them.
#[derive(serde::Deserialize)]
struct Module {
    path: String,
}

/// Brings the files of a model onto the disk.
///
/// # Errors
///
/// [`FetchProblem`]. What was downloaded by then stays, and is not downloaded again.
pub(super) async fn fetch(address: &str, storage: &Storage, progress: &dyn Progress) -> Result<Snapshot, FetchProblem> {
    let url = storage.web.hosts.check(address)?;
    let home = home(address, &storage.data_dir);
    let gguf = gguf_name(&url);
    if let Some(record) = Record::read(&home, COMPLETE, None).await {
        return Ok(snapshot(&home, record, gguf));
    }
    let _lock = cache::lock(&home).await?;
    let mut fetching = Fetching {
        server: Server::new(&storage.web)?,
        base: url,
        folder: home.join(FILES),
        storage,
        progress,
        left: storage.max_model_bytes,
        files: Vec::new(),
    };
    match &gguf {
        Some(name) => fetching.file(fetching.base.clone(), name, u64::MAX).await?,
        None => fetching.folder().await?,
    }
    let record = Record { commit: FILES.to_owned(), files: fetching.files };
    record.write(&home, COMPLETE, None).await?;
    Ok(snapshot(&home, record, gguf))
}

/// What an earlier [`fetch`] has recorded, whatever has become of the files since.
pub(super) async fn recorded(address: &str, data_dir: &Path) -> Option<Snapshot> {
    let home = home(address, data_dir);
    let record = Record::stored(&home, COMPLETE, None).await?;
    Some(snapshot(&home, record, gguf_name(&Url::parse(address).ok()?)))
}

/// The folder of an address.
pub(super) fn home(address: &str, data_dir: &Path) -> PathBuf {
    let url = Url::parse(address).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    // Of IPv6 addresses the brackets and colons.
    let host: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect();
    data_dir.join("web").join(format!("{host}--{}", hex(&Sha256::digest(address)[..16])))
}

/// An address in the one spelling that it has.
pub(super) fn normal(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(Url::has_host)
}

/// Whether an address names one file, or a folder: the name of the file.
pub(super) fn gguf_name(url: &Url) -> Option<String> {
    let name = url.path_segments()?.next_back()?;
    let gguf = Path::new(name).extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    // What has to be escaped in an address makes no name of a file.
    gguf.then(|| if is_plain(name) { name.to_owned() } else { "model.gguf".to_owned() })
}

fn snapshot(home: &Path, record: Record, gguf: Option<String>) -> Snapshot {
    Snapshot { folder: home.join(record.commit), files: record.files, gguf }
}

/// A model on its way.
struct Fetching<'a> {
    server: Server,
    base: Url,
    folder: PathBuf,
    storage: &'a Storage,
    progress: &'a dyn Progress,
    /// Bytes that the model may yet have.
    left: u64,
    /// Those that are there.
    files: Vec<RemoteFile>,
}

impl Fetching<'_> {
    async fn folder(&mut self) -> Result<(), FetchProblem> {
        for name in NEEDED {
            self.file(self.url(name), name, LARGEST_SMALL_FILE).await?;
        }
        for name in OPTIONAL {
            self.try_file(name).await?;
        }
        if self.try_file(MODULES).await? {
            self.try_file(OF_MODULES).await?;
            for module in self.modules().await? {
                for name in OF_MODULE {
                    self.try_file(&format!("{module}/{name}")).await?;
                }
            }
        }
        if !self.try_file(INDEX).await? {
            return self.file(self.url("model.safetensors"), "model.safetensors", u64::MAX).await;
        }
        for name in self.shards().await? {
            self.file(self.url(&name), &name, u64::MAX).await?;
        }
        Ok(())
    }

    /// A file that need not be there; whether it is. Stores that list nothing also answer 403 for what they do not have.
    async fn try_file(&mut self, name: &str) -> Result<bool, FetchProblem> {
        match self.file(self.url(name), name, LARGEST_SMALL_FILE).await {
            Ok(()) => Ok(true),
            Err(FetchProblem::NoSuchFile(_) | FetchProblem::Status(403 | 410)) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    async fn file(&mut self, url: Url, name: &str, most: u64) -> Result<(), FetchProblem> {
        let WebAccess { stall, retry_pause, .. } = self.storage.web;
        let target = self.folder.join(name);
        let download = Download {
            origin: &self.server.file(url, name),
            file: &RemoteFile { name: name.to_owned(), size: None, sha256: None },
            target: target.clone(),
            pace: Pace { stall, retry_pause },
            most_bytes: self.left.min(most),
            progress: self.progress,
        };
        download.run().await.map_err(|problem| match problem {
            FetchProblem::TooLarge(_) if self.left <= most => FetchProblem::TooLarge(self.storage.max_model_bytes),
            FetchProblem::TooLarge(most) => FetchProblem::BadAnswer(format!("{name} has more than {most} bytes")),
            problem => problem,
        })?;
        let found = tokio::fs::metadata(&target).await.map_err(|error| disk(&target, &error))?;
        self.left = self.left.checked_sub(found.len()).ok_or(FetchProblem::TooLarge(self.storage.max_model_bytes))?;
        self.files.push(RemoteFile { name: name.to_owned(), size: Some(found.len()), sha256: None });
        Ok(())
    }

    /// The files that the index names.
    async fn shards(&self) -> Result<Vec<String>, FetchProblem> {
        let index: Index = self.read_json(INDEX, "has no `weight_map` of files").await?;
        let mut names: Vec<_> = index.weight_map.into_values().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.len() > MOST_SHARDS || !names.iter().all(|name| is_weights(name) && is_plain(name))
        {
            return Err(nonsense(INDEX, "names files that are no weights beside it"));
        }
        Ok(names)
    }

    /// The folders of the modules, but of the model itself, which is in the same folder as their list.
    async fn modules(&self) -> Result<Vec<String>, FetchProblem> {
        let modules: Vec<Module> = self.read_json(MODULES, "is no list of modules with a `path`").await?;
        let mut folders: Vec<_> = modules.into_iter().map(|module| module.path).collect();
        folders.retain(|folder| !folder.is_empty());
        folders.sort_unstable();
        folders.dedup();
        if folders.len() > MOST_MODULES || !folders.iter().all(|folder| is_module(folder)) {
            return Err(nonsense(MODULES, "names something else than the folders of modules beside it"));
        }
        Ok(folders)
    }

    /// Reads a file that is there; `otherwise`: what is wrong with one that is not what it should be.
    async fn read_json<T: DeserializeOwned>(&self, name: &str, otherwise: &str) -> Result<T, FetchProblem> {
        let path = self.folder.join(name);
        let text = tokio::fs::read(&path).await.map_err(|error| disk(&path, &error))?;
        serde_json::from_slice(&text).map_err(|_| nonsense(name, otherwise))
    }

    /// The address of a file in the folder, with or without a slash at the end of that.
    fn url(&self, name: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}/{name}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }
}

fn nonsense(name: &str, why: &str) -> FetchProblem {
    FetchProblem::BadAnswer(format!("{name} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_folder_of_its_own_whose_name_is_plain() {
        let data = Path::new("/data");
        let name = |address: &str| home(address, data).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name("https://host/m.gguf").starts_with("host--"));
        assert!(name("https://[2606:4700::1]/m.gguf").starts_with("_2606_4700__1_--"));
        assert_ne!(name("https://host/a"), name("https://host/b"));
        assert!(home("https://host/../..", data).starts_with("/data/web"));
    }

    #[test]
    fn an_address_of_a_gguf_file_is_told_by_its_path() {
        let name = |address: &str| gguf_name(&Url::parse(address).unwrap());
        assert_eq!(name("https://host/a/q4.gguf?download=true").as_deref(), Some("q4.gguf"));
        assert_eq!(name("https://host/a%2Fq4.GGUF").as_deref(), Some("model.gguf"));
        assert_eq!(name("https://host/models/x/"), None);
        assert_eq!(name("https://host/?x=m.gguf"), None);
    }
}
