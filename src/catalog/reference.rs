//! What a client or an operator may write to mean a model: one grammar for requests, configuration and flags.
//!
//! | written | means |
//! | --- | --- |
//! | `llama`, `org/name`, `name:8b` | an id or alias of the catalog |
//! | `hf:org/repo[@revision][/file]` | a repository of the Hugging Face hub, or one file of it |
//! | `file:/absolute/path` | a folder or a `.gguf` file of this machine |
//! | `https://host/path`, `url:https://host/path` | a `.gguf` file or a folder of a web server; `http://` where the host is trusted |
//! | `sha256:<64 hex digits>` | whatever model has that digest |
//!
//! A `/` inside a revision is written `%2F` (`hf:org/repo@refs%2Fpr%2F1`), because what follows the next `/` is the file.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::web;

/// The longest reference, in bytes.
pub const MAX_BYTES: usize = 1024;

/// A reference to a model, checked for form: it can be shown, logged, and used as a file name without further care.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// An id or alias.
    Name(String),
    Hub {
        /// `org/name`.
        repo: String,
        /// A branch, tag or commit; absent means the main branch.
        revision: Option<String>,
        /// A path inside the repository.
        file: Option<String>,
    },
    /// An absolute path without `..`.
    File(PathBuf),
    /// Without user, password and fragment.
    Url(String),
    /// `sha256:` and 64 lower-case hex digits.
    Digest(String),
}

/// A reference that has not the form of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference:?} is no model reference: {why}")]
pub struct BadReference {
    /// What was written, cut to a length fit for a message.
    pub reference: String,
    pub why: &'static str,
}

impl FromStr for ModelRef {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        parse(text).map_err(|why| BadReference { reference: text.chars().take(100).collect(), why })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Url(text) | Self::Digest(text) => f.write_str(text),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Hub { repo, revision, file } => {
                write!(f, "hf:{repo}")?;
                if let Some(revision) = revision {
                    write!(f, "@{}", revision.replace('/', "%2F"))?;
                }
                file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
            }
        }
    }
}

fn parse(text: &str) -> Result<ModelRef, &'static str> {
    ensure(!text.is_empty(), "it is empty")?;
    ensure(text.len() <= MAX_BYTES, "it is longer than 1,024 bytes")?;
    ensure(!text.chars().any(char::is_control), "it contains control characters")?;
    if let Some(rest) = text.strip_prefix("hf:") {
        return hub(rest);
    }
    if let Some(rest) = text.strip_prefix("file:") {
        return file(rest);
    }
    if let Some(rest) = text.strip_prefix("sha256:") {
        return digest(rest);
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        return url(text);
    }
    if let Some(address) = text.strip_prefix("url:") {
        let known = address.starts_with("https://") || address.starts_with("http://");
        return if known { url(address) } else { Err("after url: comes https://") };
    }
    name(text)
}

fn name(text: &str) -> Result<ModelRef, &'static str> {
    let address = text.starts_with("http:") || text.starts_with("https:");
    ensure(!address, "an address starts with https://")?;
    ensure(text.len() <= 256, "a name has at most 256 bytes")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte);
    ensure(text.bytes().all(fits), "a name has only letters, digits and . _ : / @ + -")?;
    ensure(text.as_bytes()[0].is_ascii_alphanumeric(), "a name starts with a letter or a digit")?;
    Ok(ModelRef::Name(text.to_owned()))
}

fn hub(rest: &str) -> Result<ModelRef, &'static str> {
    const FORM: &str = "the form is hf:org/repo[@revision][/file]";
    let (org, rest) = rest.split_once('/').ok_or(FORM)?;
    let (name, file) = match rest.split_once('/') {
        Some((name, file)) => (name, Some(file)),
        None => (rest, None),
    };
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    ensure(is_repo_part(org) && is_repo_part(name), FORM)?;
    let revision = revision.map(parse_revision).transpose()?;
    if let Some(file) = file {
        ensure(is_repo_path(file), "the file is not a plain path inside the repository")?;
    }
    Ok(ModelRef::Hub { repo: format!("{org}/{name}"), revision, file: file.map(str::to_owned) })
}

/// The hub's own rule for the two halves of a repository's name.
fn is_repo_part(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=96).contains(&part.len())
        && part.bytes().all(fits)
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("..")
        && !part.contains("--")
}

fn parse_revision(text: &str) -> Result<String, &'static str> {
    let revision = text.replace("%2F", "/").replace("%2f", "/");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+/-".contains(&byte);
    let sound = (1..=200).contains(&revision.len())
        && revision.bytes().all(fits)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']));
    ensure(sound && !revision.contains(".."), "the revision is no branch, tag or commit; write %2F for a / in it")?;
    Ok(revision)
}

/// Whether `path` stays inside a repository and needs no escaping in an address.
pub(super) fn is_repo_path(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+=,~@/-".contains(&byte);
    !path.is_empty()
        && path.bytes().all(fits)
        && path.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-', '~']))
}

fn file(rest: &str) -> Result<ModelRef, &'static str> {
    let path = Path::new(rest);
    ensure(path.is_absolute(), "a path is absolute: file:/models/name")?;
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure(plain, "a path is written without . and ..")?;
    // Rebuilt, so that one place has one spelling.
    Ok(ModelRef::File(path.components().collect()))
}

fn digest(rest: &str) -> Result<ModelRef, &'static str> {
    let hex = rest.len() == 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure(hex, "a digest is sha256: and 64 hex digits")?;
    Ok(ModelRef::Digest(format!("sha256:{}", rest.to_ascii_lowercase())))
}

/// In the one spelling that such an address has.
fn url(text: &str) -> Result<ModelRef, &'static str> {
    ensure(text.bytes().all(|byte| byte.is_ascii_graphic()), "an address is plain ASCII without spaces")?;
    let address = web::normal(text).ok_or("the address is malformed")?;
    ensure(address.username().is_empty() && address.password().is_none(), "an address carries no user or password")?;
    ensure(address.fragment().is_none(), "an address ends before the #")?;
    ensure(address.as_str().len() <= MAX_BYTES, "it is longer than 1,024 bytes")?;
    Ok(ModelRef::Url(address.to_string()))
}

fn ensure(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub_ref(repo: &str, revision: Option<&str>, file: Option<&str>) -> ModelRef {
        ModelRef::Hub { repo: repo.into(), revision: revision.map(Into::into), file: file.map(Into::into) }
    }

    #[test]
    fn each_form_is_told_from_the_others() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let cases = [
            ("builtin", ModelRef::Name("builtin".into())),
            ("llama3.1:8b", ModelRef::Name("llama3.1:8b".into())),
            ("Qwen/Qwen3-0.6B", ModelRef::Name("Qwen/Qwen3-0.6B".into())),
            ("hf:a/b", hub_ref("a/b", None, None)),
            ("hf:a/b@v1.0", hub_ref("a/b", Some("v1.0"), None)),
            ("hf:a/b@refs%2Fpr%2F1/q4/m.gguf", hub_ref("a/b", Some("refs/pr/1"), Some("q4/m.gguf"))),
            ("hf:a/b/m.gguf", hub_ref("a/b", None, Some("m.gguf"))),
            ("file:/models//x/", ModelRef::File("/models/x".into())),
            ("https://host/m.gguf", ModelRef::Url("https://host/m.gguf".into())),
            ("url:https://HOST:443/a/../m.gguf", ModelRef::Url("https://host/m.gguf".into())),
            (&digest, ModelRef::Digest(digest.clone())),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_could_escape_a_folder_or_confuse_a_log_is_refused() {
        let hostile = [
            "",
            " ",
            "a b",
            "-x",
            "../x",
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:../b",
            "hf:a/..",
            "hf:a/b@..",
            "hf:a/b@-x",
            "hf:a/b@",
            "hf:a/b@x%2F..%2Fy",
            "hf:a/b/",
            "hf:a/b/../c",
            "hf:a/b//c",
            "hf:a/b/c?d",
            "hf:a/b/%2e%2e",
            "hf:a--b/c",
            "file:x",
            "file:/a/../b",
            "http:x",
            "https:x",
            "https://h/m.gguf#x",
            "https://",
            "https://u:p@h/x",
            "https://h/a b",
            "sha256:12",
            "a\nb",
            "a\u{1b}[1m",
            "模型",
        ];
        for text in hostile {
            assert!(text.parse::<ModelRef>().is_err(), "{text:?}");
        }
        assert!("a".repeat(MAX_BYTES + 1).parse::<ModelRef>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_is_written_back_the_same(text in "\\PC{0,60}|(hf:|file:/|sha256:|https://)?[a-b./@%2F:-]{0,40}") {
            if let Ok(parsed) = text.parse::<ModelRef>() {
                let written = parsed.to_string();
                prop_assert_eq!(written.parse::<ModelRef>(), Ok(parsed), "{}", written);
            }
        }

        #[test]
        fn a_hub_reference_survives_the_round_trip(
            repo in "[a-zA-Z0-9]{1,20}/[a-zA-Z0-9]([._-][a-zA-Z0-9]){0,5}",
            revision in proptest::option::of("[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}"),
            file in proptest::option::of("[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}\\.gguf"),
        ) {
            let reference = ModelRef::Hub { repo, revision, file };
            prop_assert_eq!(reference.to_string().parse::<ModelRef>(), Ok(reference));
        }

        #[test]
        fn a_hub_reference_never_leads_out_of_its_folder(text in "hf:[a-b./@%2F-]{0,40}") {
            if let Ok(ModelRef::Hub { repo, revision, file }) = text.parse() {
                for path in [Some(repo), revision, file].into_iter().flatten() {
                    let plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
                    prop_assert!(plain, "{}", path);
                }
            }
        }
    }
}
