//! An entry from what an operator wrote while the gateway runs, checked; and which places of the disk it may name.

use std::path::{Path, PathBuf};

use sluicegate_compat::native::ModelPrice;

use super::{Entry, ModelRef, ModelSource};

/// Other names of a model at most.
const MOST_ALIASES: usize = 64;

/// What is wrong with an entry, and with which of its fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Mistake {
    /// `id`, `source`, `aliases.0`, `digest` or `price.input_per_mtok`.
    pub field: String,
    pub why: String,
}

/// Checks what can be checked without looking at the disk.
///
/// # Errors
///
/// The first [`Mistake`].
pub fn draft(
    id: String,
    source: &str,
    aliases: Vec<String>,
    digest: Option<&str>,
    price: ModelPrice,
) -> Result<Entry, Mistake> {
    name("id", &id)?;
    if aliases.len() > MOST_ALIASES {
        return Err(mistake("aliases", format!("a model has at most {MOST_ALIASES} aliases")));
    }
    for (place, alias) in aliases.iter().enumerate() {
        name(&format!("aliases.{place}"), alias)?;
        if *alias == id || aliases[..place].contains(alias) {
            return Err(mistake(&format!("aliases.{place}"), "the model has this name already"));
        }
    }
    let reference: ModelRef = source.parse().map_err(|bad: super::BadReference| mistake("source", bad.to_string()))?;
    let source = ModelSource::from_reference(&reference).map_err(|bad| mistake("source", bad.to_string()))?;
    if let ModelSource::Builtin(builtin) = source {
        let why = format!("the model inside the program is in the catalog already, as {:?}", builtin.id());
        return Err(mistake("source", why));
    }
    let digest = digest.map(parse_digest).transpose()?;
    if let Some(name) = price.excess() {
        return Err(mistake(&format!("price.{name}"), format!("a price is 0 to {}", ModelPrice::MOST)));
    }
    Ok(Entry { aliases, digest, price, ..Entry::new(id, source) })
}

fn name(field: &str, text: &str) -> Result<(), Mistake> {
    match text.parse::<ModelRef>() {
        Ok(ModelRef::Name(_)) => Ok(()),
        Ok(_) => Err(mistake(field, "it is a reference to somewhere else, not a name")),
        Err(bad) => Err(mistake(field, bad.to_string())),
    }
}

fn parse_digest(text: &str) -> Result<String, Mistake> {
    match text.parse() {
        Ok(ModelRef::Digest(digest)) => Ok(digest),
        _ => Err(mistake("digest", "a digest is sha256: and 64 hex digits")),
    }
}

fn mistake(field: &str, why: impl Into<String>) -> Mistake {
    Mistake { field: field.to_owned(), why: why.into() }
}

/// The folders that `file:` references may name, `catalog.allowed_file_roots`.
#[derive(Debug, Clone, Default)]
pub struct FileRoots(pub Vec<PathBuf>);

impl FileRoots {
    /// Whether `path`, as it is written, is in one of them. Looks at nothing on the disk.
    pub fn name(&self, path: &Path) -> bool {
        self.0.iter().any(|root| path.starts_with(root))
    }

    /// Whether what `path` leads to, symbolic links followed, is in one of them. Blocking.
    ///
    /// # Errors
    ///
    /// [`Mistake`] of the field `source`. What is outside of the roots is refused before the disk is looked at, so the
    /// message says nothing about what is there.
    pub fn check(&self, path: &Path) -> Result<(), Mistake> {
        let outside = || {
            let why = format!("{} is in no folder of catalog.allowed_file_roots", path.display());
            mistake("source", why)
        };
        if !self.name(path) {
            return Err(outside());
        }
        let real = path.canonicalize().map_err(|error| mistake("source", format!("{}: {error}", path.display())))?;
        let roots = self.0.iter().filter_map(|root| root.canonicalize().ok());
        if roots.into_iter().any(|root| real.starts_with(root)) { Ok(()) } else { Err(outside()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_with_the_mistake_is_named() {
        let field = |id: &str, source: &str, aliases: &[&str], digest: Option<&str>| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            draft(id.to_owned(), source, aliases, digest, ModelPrice::default())
                .map(|_| ())
                .map_err(|mistake| mistake.field)
        };
        assert_eq!(field("m", "hf:a/b", &["n"], None), Ok(()));
        for id in ["", "a\0b", "../m", "hf:a/b", "file:/x", &"a".repeat(257)] {
            assert_eq!(field(id, "hf:a/b", &[], None), Err("id".into()), "{id:?}");
        }
        for source in ["", "builtin", "m", "file:x", "file:/a/../b", "http:/", "hf:a", "file:/a\0"] {
            assert_eq!(field("m", source, &[], None), Err("source".into()), "{source:?}");
        }
        assert_eq!(field("m", "hf:a/b", &["n", "n"], None), Err("aliases.1".into()));
        assert_eq!(field("m", "hf:a/b", &["m"], None), Err("aliases.0".into()));
        assert_eq!(field("m", "hf:a/b", &[], Some("md5:00")), Err("digest".into()));
    }

    #[test]
    fn a_link_that_leads_out_of_the_roots_is_refused_and_one_that_stays_inside_is_not() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = FileRoots(vec![inside.path().to_owned()]);
        std::fs::create_dir(inside.path().join("model")).unwrap();
        std::os::unix::fs::symlink(inside.path().join("model"), inside.path().join("near")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("away")).unwrap();
        assert_eq!(roots.check(&inside.path().join("model")), Ok(()));
        assert_eq!(roots.check(&inside.path().join("near")), Ok(()));
        for path in [outside.path().to_owned(), inside.path().join("away"), PathBuf::from("/etc/passwd")] {
            let mistake = roots.check(&path).unwrap_err();
            assert!(mistake.why.ends_with("is in no folder of catalog.allowed_file_roots"), "{mistake}");
        }
        assert!(roots.check(&inside.path().join("gone")).unwrap_err().why.contains("No such file"));
    }
}
