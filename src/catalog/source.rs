//! Where a model's files come from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{BadReference, Builtin, ModelRef};

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A model inside the program.
    Builtin(Builtin),
    /// A folder with `config.json`, the tokenizer and `*.safetensors`.
    Folder(PathBuf),
    /// One `.gguf` file.
    Gguf(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// A branch, tag or commit.
        revision: String,
        /// The one `.gguf` file that is wanted; absent: the whole model.
        file: Option<String>,
    },
    /// The address of one `.gguf` file, or of a folder with the usual file names.
    Web(String),
}

/// A reference from which no model can be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    #[error(transparent)]
    Reference(#[from] BadReference),
    #[error("{0:?} names a model of the catalog; a source is hf:org/repo, file: and an absolute path, or https://")]
    Name(String),
    #[error("an address of a folder has no query: {0}")]
    Query(String),
    #[error(
        "{0} is an archive or a single file; an address is that of a .gguf file, or of a folder with the files of a model"
    )]
    SingleFile(String),
    #[error("a digest says which model, but not where to get it; use it as `digest` next to a source")]
    Digest,
    #[error("{0:?} cannot be loaded alone; the one file that can be named is a .gguf file")]
    File(String),
}

impl ModelSource {
    /// The source that a reference names.
    ///
    /// # Errors
    ///
    /// [`BadSource`] for references that say which model, but not where it is.
    pub fn from_reference(reference: &ModelRef) -> Result<Self, BadSource> {
        match reference {
            ModelRef::Name(name) => Builtin::of(name).map(Self::Builtin).ok_or_else(|| BadSource::Name(name.clone())),
            ModelRef::Url(address) => web_source(address),
            ModelRef::Digest(_) => Err(BadSource::Digest),
            ModelRef::File(path) => Ok(Self::from_path(path.clone())),
            ModelRef::Hub { file: Some(file), .. } if !is_gguf(Path::new(file)) => Err(BadSource::File(file.clone())),
            ModelRef::Hub { repo, revision, file } => Ok(Self::Hub {
                repo: repo.clone(),
                revision: revision.clone().unwrap_or_else(|| "main".to_owned()),
                file: file.clone(),
            }),
        }
    }

    /// A folder, or a file where the name ends in `.gguf`.
    pub fn from_path(path: PathBuf) -> Self {
        if is_gguf(&path) { Self::Gguf(path) } else { Self::Folder(path) }
    }

    /// A name for it where nobody gave one: the repository, or the last part of the path without `.gguf`.
    pub fn default_id(&self) -> String {
        match self {
            Self::Builtin(builtin) => builtin.id().to_owned(),
            Self::Hub { repo, file: None, .. } => repo.clone(),
            Self::Hub { file: Some(file), .. } => plain_name(Path::new(file).file_stem()),
            Self::Gguf(path) => plain_name(path.file_stem()),
            Self::Folder(path) => plain_name(path.file_name()),
            Self::Web(address) => {
                let path = address.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
                let name = Path::new(path).file_name();
                plain_name(if is_gguf(Path::new(path)) { Path::new(path).file_stem() } else { name })
            }
        }
    }

    /// As it is shown and logged: of an address without what comes after a `?`, which may be a secret.
    pub fn shown(&self) -> String {
        match self {
            Self::Web(address) => address.split('?').next().unwrap_or_default().to_owned(),
            source => source.to_string(),
        }
    }

    /// The path on this machine, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) | Self::Gguf(path) => Some(path),
            Self::Builtin(_) | Self::Hub { .. } | Self::Web(_) => None,
        }
    }
}

impl fmt::Display for ModelSource {
    /// As a reference that parses to this source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(builtin) => f.write_str(builtin.id()),
            Self::Folder(path) | Self::Gguf(path) => ModelRef::File(path.clone()).fmt(f),
            Self::Web(address) => f.write_str(address),
            Self::Hub { repo, revision, file } => {
                let revision = Some(revision.clone());
                ModelRef::Hub { repo: repo.clone(), revision, file: file.clone() }.fmt(f)
            }
        }
    }
}

/// How the names of files end that are no folders of models: of archives, which are not unpacked, and of weights alone.
const SINGLE_FILES: [&str; 16] = [
    "tar",
    "gz",
    "tgz",
    "bz2",
    "tbz2",
    "xz",
    "txz",
    "zst",
    "tzst",
    "zip",
    "7z",
    "rar",
    "safetensors",
    "bin",
    "pt",
    "pth",
];

/// A folder's files are named below its path, so nothing may follow that.
fn web_source(address: &str) -> Result<ModelSource, BadSource> {
    let path = Path::new(address.split('?').next().unwrap_or_default());
    let ends_in = |end: &&str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(end));
    if SINGLE_FILES.iter().any(ends_in) {
        return Err(BadSource::SingleFile(address.to_owned()));
    }
    if is_gguf(path) || !address.contains('?') {
        Ok(ModelSource::Web(address.to_owned()))
    } else {
        Err(BadSource::Query(address.to_owned()))
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// What of a file's name may stand in a model's id; anything else becomes a dash.
fn plain_name(name: Option<&std::ffi::OsStr>) -> String {
    let name = name.unwrap_or_default().to_string_lossy();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let plain: String = name.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if plain.is_empty() { "model".to_owned() } else { plain.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Result<ModelSource, BadSource> {
        ModelSource::from_reference(&text.parse()?)
    }

    #[test]
    fn a_source_is_written_as_the_reference_it_came_from() {
        for text in [
            "builtin",
            "builtin-embedding",
            "file:/models/x",
            "file:/models/x.GGUF",
            "hf:a/b@main",
            "hf:a/b@v1/m.gguf",
            "https://host/m.gguf?a=b",
            "https://host/x/",
        ] {
            assert_eq!(source(text).unwrap().to_string(), text);
        }
        assert_eq!(source("hf:a/b").unwrap().to_string(), "hf:a/b@main");
        assert_eq!(source("https://host/m.gguf?token=a").unwrap().shown(), "https://host/m.gguf");
    }

    #[test]
    fn references_without_a_place_are_refused_with_what_to_write_instead() {
        assert!(matches!(source("llama"), Err(BadSource::Name(_))));
        assert!(matches!(source("https://host/model?token=1"), Err(BadSource::Query(_))));
        for file in ["m.tar", "m.tar.gz", "m.TGZ", "m.tar.zst", "m.zip?download=true", "model.safetensors"] {
            let refused = source(&format!("https://host/{file}")).unwrap_err();
            assert!(matches!(&refused, BadSource::SingleFile(_)) && refused.to_string().contains(".gguf"), "{refused}");
        }
        assert!(source("https://host/v1.0/qwen2.5").is_ok());
        assert!(matches!(source("hf:a/b/config.json"), Err(BadSource::File(_))));
        assert!(matches!(source(&format!("sha256:{}", "0".repeat(64))), Err(BadSource::Digest)));
    }

    #[test]
    fn a_model_without_a_name_is_named_after_its_place() {
        let ids = [
            ("file:/models/My Model", "My-Model"),
            ("file:/m/q4.gguf", "q4"),
            ("hf:a/b", "a/b"),
            ("file:/..a", "a"),
            ("https://h/x/q4.gguf?a=/b", "q4"),
            ("https://h/x/", "x"),
            ("https://h", "h"),
        ];
        for (text, id) in ids {
            assert_eq!(source(text).unwrap().default_id(), id);
        }
    }
}
