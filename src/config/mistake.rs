//! What is wrong with the configuration, and where.

use std::fmt;
use std::path::PathBuf;

use super::key::Key;

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file, and the line where it is known (from 1).
    File(PathBuf, Option<usize>),
    /// The name of an environment variable.
    Environment(String),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
    /// Nobody: it is a default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    pub place: Place,
    /// The key, such as `pools[0].slots`; empty where it is about no key.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong; shows itself as one line for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// One mistake that is about no key.
    pub(super) fn one(place: Place, message: impl Into<String>) -> Self {
        Self(vec![Mistake { place, key: String::new(), message: message.into() }])
    }

    /// Adds a mistake, unless the key is known to be wrong already: what follows from that is no news.
    pub(super) fn add(&mut self, place: Place, key: &Key, message: impl Into<String>) {
        let key = key.to_string();
        if !self.0.iter().any(|known| known.key == key) {
            self.0.push(Mistake { place, key, message: message.into() });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// File first, by line; then the environment by name; then flags.
    pub(super) fn in_order(mut self) -> Self {
        self.0.sort();
        self.0.dedup();
        self
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
